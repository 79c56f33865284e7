"""The library calls: a pipeline in, an erased pipeline out, or several methods side by side, with no server anywhere."""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from PIL import Image

from .concepts.embeddings import EmbeddingTable, write_embeddings, write_pooled
from .concepts.nearest import find_neighbours
from .concepts.neighbours import Neighbour, nearest_words
from .concepts.vocabulary import VocabularyError, candidates, curate, embedded_words, require_top_k
from .generation.dataset import read_images
from .generation.images import generate
from .generation.plan import roles, shown, wanted_images
from .metrics.general_quality import general_quality
from .metrics.per_image import judge_images
from .metrics.scorers import scorers_of
from .metrics.scores import headline, score
from .models.pipeline import device, load_pipeline, prepare_sampling, with_unet
from .models.source import find_model
from .pictures import grid
from .preflight import check, check_hub
from .spec import EMBEDDED_MODEL, Spec, make_spec
from .spec_errors import SpecError
from .training.candidates import conditions_of, erased_concepts
from .training.loop import train
from .training.result import put_weights


def load(model: str = "emoji-world") -> DiffusionPipeline:
    """Load the embedded model, a local diffusers folder, or a hub id. ModelError says what is wrong with it."""
    return load_pipeline(find_model(model))


def erase(
    pipeline: DiffusionPipeline,
    concepts: Iterable[str | dict],
    *,
    method: str | dict = "adversarial",
    vocabulary: str | None = None,
    top_k_words: int = 50,
    training: dict | None = None,
    seed: int = 0,
    on_record: Callable[[dict], None] = lambda record: None,
) -> DiffusionPipeline:
    """Return a copy of a pipeline that has forgotten `concepts`; the given pipeline stays as it is.

    concepts, method, training, vocabulary: as in a spec, with its defaults for the embedded model and for others. top_k_words: how
    many nearest words the search may choose from. on_record is called with each step's losses and preserved concept. It is trained
    in this process, on the pipeline's device. Raises SpecError for bad input and Diverged when the training does.
    """
    require_trainable(pipeline)
    embedded = pipeline.name_or_path == str(find_model(EMBEDDED_MODEL).folder)
    spec = make_spec(
        {
            "name": "library call",
            "seed": seed,
            "model": EMBEDDED_MODEL if embedded else "the given pipeline",
            "concepts": listed(concepts),
            "method": method,
            "output": "-",
            "vocabulary": {"source": vocabulary, "top_k": top_k_words},
            "training": training or {},
        }
    )
    require_one_process(spec)
    with tempfile.TemporaryDirectory() as folder:
        table, near = neighbours(spec, pipeline, Path(folder))
        return erased_pipeline(spec, pipeline, table, near, on_record, Path(folder) / "trajectories")


def listed(concepts: Iterable[str | dict]) -> list[str | dict]:
    """The concepts as a list. SpecError for a text, whose letters would be erased."""
    if isinstance(concepts, str):
        raise SpecError(f"concepts: {concepts!r} should be a list; give [{concepts!r}]")
    return list(concepts)


def require_trainable(pipeline: DiffusionPipeline) -> None:
    """Raise SpecError for a pipeline whose UNet is not in float32 on the device that trainings use, or has LoRAs beside it."""
    if any(".lora_" in name for name, _ in pipeline.unet.named_parameters()):
        raise SpecError(
            "pipeline: its UNet has LoRA layers; call pipeline.fuse_lora() and pipeline.unload_lora_weights() first"
        )
    weight = pipeline.unet.conv_in.weight
    wanted = torch.empty(0, device=device()).device
    if (weight.dtype, weight.device) != (torch.float32, wanted):
        raise SpecError(
            f"pipeline: its UNet is {weight.dtype} on {weight.device}, and is trained from float32 on {wanted}; give "
            f"pipeline.to({str(wanted)!r}, torch.float32), without offloading, and use training.precision for another precision"
        )


def require_one_process(*specs: Spec) -> None:
    """Raise SpecError for what a call in one process cannot do."""
    for spec in specs:
        for field, part in (("training", spec.training), ("generation", spec.generation), ("scoring", spec.scoring)):
            if part.processes > 1:
                raise SpecError(f"{field}.processes: a library call has one process; leave it out, or use erase run")


@contextlib.contextmanager
def gradients_kept(unet: UNet2DConditionModel) -> Iterator[None]:
    """Leave a UNet's weights asking for gradients as they did before, for what is trained of it shares those that are frozen."""
    asked = {name: parameter.requires_grad for name, parameter in unet.named_parameters()}
    try:
        yield
    finally:
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(asked[name])


@dataclass(frozen=True)
class Comparison:
    """Methods side by side. table has a row a method, the original model's first; images its images, [N, H, W, 3]."""

    table: pd.DataFrame
    images: dict[str, np.ndarray]
    prompts: list[str]

    def picture(self, columns: list[str] | None = None) -> Image.Image:
        """A row of images for each method, a column for each of `columns`, prompts of the comparison (default: all)."""
        chosen = [self.prompts.index(prompt) for prompt in columns or self.prompts]
        rows = np.concatenate([images[chosen] for images in self.images.values()])
        return Image.fromarray(grid(rows, len(chosen)))


def compare(
    model: str,
    concepts: Iterable[str | dict],
    methods: Iterable[str] | dict[str, str | dict],
    *,
    vocabulary: dict | None = None,
    training: dict | None = None,
    generation: dict | None = None,
    scoring: dict | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda method: None,
) -> Comparison:
    """Erase `concepts` from a model by each of `methods`, draw and score the same images from all, and return them.

    methods: names, or a label for each name or {name, and its parameters}. The other arguments are a spec's parts. The
    table's columns are method and the names of a run's figures, such as esr_1 and psr_1. progress is called with each
    method's label when its turn comes. Raises SpecError for bad input, before any work.
    """
    labelled = methods if isinstance(methods, dict) else {name: name for name in methods}
    if not labelled:
        raise SpecError("methods: are none; give at least one")
    parts = {"vocabulary": vocabulary, "training": training, "generation": generation, "scoring": scoring}
    given = {name: part for name, part in parts.items() if part is not None}
    images, figures = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common = {"name": "comparison", "seed": seed, "model": model, "concepts": listed(concepts), **given}
        specs = {
            label: make_spec({**common, "method": method, "output": str(folder / "output")})
            for label, method in labelled.items()
        }
        for spec in specs.values():
            check(spec)
        require_one_process(*specs.values())
        first = next(iter(specs.values()))
        # They differ in the method alone, which names nothing there.
        check_hub(first)
        pipeline = load(model)
        table, near = neighbours(first, pipeline, folder)
        role_of = roles(first, nearest_words(near))
        wanted, scorers = wanted_images(first, role_of), scorers_of(first, shown(role_of))

        def draw(source: DiffusionPipeline, label: str) -> Path:
            path = folder / f"{len(images)}.parquet"
            own = prepare_sampling(copy.deepcopy(source), first.generation)
            generate(own, wanted, first.generation, label, path)
            images[label] = np.concatenate([batch for _, batch in read_images(path)])
            return path

        original = draw(pipeline, "original")
        for label, spec in specs.items():
            progress(label)
            erased = draw(erased_pipeline(spec, pipeline, table, near, trajectories=folder / "trajectories"), label)
            verdicts = judge_images(original, erased, role_of, scorers)
            found = score(verdicts, spec.metrics, spec.scoring.resamples, seed)
            if scorers.features:
                quality = general_quality(original, erased, role_of, scorers.features, seed, spec.scoring.reference)
                found = pd.concat([found, quality], ignore_index=True)
            figures[label] = headline(found)
    found = next(iter(figures.values()))
    before = {name.replace("_original", ""): value for name, value in found.items() if "_original" in name}
    rows = [{"method": "original", **before}, *({"method": label, **of} for label, of in figures.items())]
    return Comparison(pd.DataFrame(rows), images, [w.prompt for w in wanted])


def neighbours(
    spec: Spec, pipeline: DiffusionPipeline, folder: Path
) -> tuple[EmbeddingTable, dict[str, list[Neighbour]]]:
    """The spec's curated vocabulary, embedded in `folder`, and each concept's top-K words in it."""
    try:
        words = candidates(spec.vocabulary_source, pipeline.tokenizer.get_vocab)
        rows = curate(words, spec.never_preserved, spec.vocabulary.exclude)
        require_top_k(rows, spec.vocabulary.top_k)
    except VocabularyError as error:
        raise SpecError(str(error)) from None
    allowed = {row.word for row in rows if row.kept}
    whole, kept = folder / "embeddings.arrow", folder / "kept.arrow"
    write = write_pooled if spec.vocabulary.pooled else write_embeddings
    write(whole, pipeline, embedded_words(rows), {})
    found = find_neighbours(
        pipeline, EmbeddingTable(whole), spec.concept_words, spec.vocabulary, allowed, spec.seed, kept
    )
    return EmbeddingTable(kept if spec.vocabulary.pooled else whole), found


def erased_pipeline(
    spec: Spec,
    pipeline: DiffusionPipeline,
    table: EmbeddingTable,
    near: dict[str, list[Neighbour]],
    on_record: Callable[[dict], None] = lambda record: None,
    trajectories: Path | None = None,
) -> DiffusionPipeline:
    """A copy of the pipeline, with all parts but the UNet shared, trained in this process as the spec says."""
    # Training does to θ what these say.
    changed = spec.training.frozen_precision == "bf16" or spec.training.attention_slicing
    with gradients_kept(pipeline.unet):
        weights = train(
            copy.deepcopy(pipeline.unet) if changed else pipeline.unet,
            pipeline.scheduler,
            erased_concepts(spec, pipeline, table, near),
            conditions_of(spec, pipeline),
            spec.method,
            spec.training,
            spec.seed,
            on_record=on_record,
            trajectories=trajectories,
        )
    erased = with_unet(pipeline, copy.deepcopy(pipeline.unet))
    put_weights(erased.unet, weights)
    # By this the embedded model is known, also when more is to be erased from it.
    erased.register_to_config(_name_or_path=pipeline.name_or_path)
    return erased
