"""The library call: a pipeline in, an erased pipeline out, with no server and no files."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from diffusers import StableDiffusionPipeline

from .concepts.embeddings import EmbeddingTable, write_embeddings
from .concepts.nearest import top_k
from .concepts.vocabulary import candidates, curate, embedded_words, require_top_k
from .models.pipeline import load_pipeline
from .models.prompts import encode
from .models.source import find_model
from .spec import make_spec
from .training.candidates import conditions_of, erased_concepts
from .training.loop import train
from .training.result import put_weights


def load(model: str = "emoji-world") -> StableDiffusionPipeline:
    """Load the embedded model, a local diffusers folder, or a hub id. ModelError says what is wrong with it."""
    return load_pipeline(find_model(model))


def erase(
    pipeline: StableDiffusionPipeline,
    concepts: Iterable[str | dict],
    *,
    method: str | dict = "adversarial",
    vocabulary: str = "emoji-world",
    top_k_words: int = 50,
    training: dict | None = None,
    seed: int = 0,
    on_record: Callable[[dict], None] = lambda record: None,
) -> StableDiffusionPipeline:
    """Return a copy of a pipeline that has forgotten `concepts`; the given pipeline stays as it is.

    concepts, method, training: as in a spec. vocabulary: a source as in a spec. top_k_words: how many nearest words the
    search may choose from. on_record is called with each step's losses and preserved concept. Raises SpecError for bad
    input and Diverged when the training does.
    """
    spec = make_spec(
        {
            "name": "library call",
            "seed": seed,
            "concepts": list(concepts),
            "method": method,
            "output": "-",
            "vocabulary": {"source": vocabulary, "top_k": top_k_words},
            "training": training or {},
        }
    )
    rows = curate(candidates(vocabulary, pipeline.tokenizer.get_vocab), spec.erased_names, [])
    require_top_k(rows, top_k_words)
    allowed = {row.word for row in rows if row.kept}
    names = [concept.concept for concept in spec.concepts]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "embeddings.arrow"
        write_embeddings(path, pipeline, embedded_words(rows), {})
        table = EmbeddingTable(path)
        near = {
            n: top_k(table, q, top_k_words, spec.vocabulary.similarity, allowed)
            for n, q in zip(names, encode(pipeline, names))
        }
        wanted = erased_concepts(spec, pipeline, table, near)
    weights = train(
        pipeline.unet,
        pipeline.scheduler,
        wanted,
        conditions_of(spec, pipeline),
        spec.method,
        spec.training,
        spec.seed,
        on_record=on_record,
    )
    parts = {name: part for name, part in pipeline.components.items() if name != "unet"}
    erased = StableDiffusionPipeline(**parts, unet=copy.deepcopy(pipeline.unet), requires_safety_checker=False)
    put_weights(erased.unet, weights)
    erased.set_progress_bar_config(disable=True)
    return erased
