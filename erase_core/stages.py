"""The stages of a run. Each is a key over everything it depends on, and a function that makes its files.

    vocabulary → embeddings → nearest → training → images (erased) ┐
                                   └──→ images (original) ─────────┴→ scores → publish

The stages of the attacks, between the training and publish, are in `attack_stages`.
A stage's key is the hash of its part of the spec, the keys of its inputs, and the version of its code below. Images, scores and
attacks also know the contents they were made from: they are never those of another training of the same key.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from . import methods
from .artifacts import Artifact, produce
from .concepts import vocabulary as vocabularies
from .files import digest, file_digest, home, new_file, write_json
from .generation.plan import roles, shown, wanted_images
from .models.source import WEIGHTS, folder_hash, local_model, local_source
from .revisions import located, scorer_commits
from .spec import Spec

VERSIONS = {
    "vocabulary": 2,
    "embeddings": 3,
    "nearest": 3,
    "training": 12,
    "images": 3,
    "scores": 6,
    "references": 4,
    "attack": 3,
}
"""Raise a stage's number when its code gives another result for the same inputs."""

Progress = Callable[[int, int], None]
Slot = AbstractContextManager | None
"""Held while a stage works, and not while it waits for another run that makes the same."""


def quiet(done: int, total: int) -> None:
    """A progress report that goes nowhere."""


def key(stage: str, *parts: object) -> str:
    return digest(stage, VERSIONS[stage], *parts)


# Vocabulary


def source_content(spec: Spec) -> str:
    """What a vocabulary's source holds: its name where it is built in, else its file's hash."""
    source = spec.vocabulary_source
    return source if source in vocabularies.SOURCES else file_digest(Path(source))


def vocabulary_key(spec: Spec) -> str:
    _, base = local_model(spec.model)
    part, content = spec.vocabulary, source_content(spec)
    return key("vocabulary", content, sorted(map(str.casefold, spec.never_preserved)), sorted(part.exclude), base)


def vocabulary(spec: Spec) -> Artifact:
    """Curate the vocabulary: vocabulary.parquet (word, token_ids, source, kept, reason)."""

    def build(folder: Path) -> None:
        from transformers import AutoTokenizer

        source, _ = local_model(spec.model)
        tokenizer = AutoTokenizer.from_pretrained(
            source.folder / "tokenizer", local_files_only=True, trust_remote_code=False
        )
        candidates = vocabularies.candidates(spec.vocabulary_source, tokenizer.get_vocab)
        rows = vocabularies.curate(candidates, spec.never_preserved, spec.vocabulary.exclude)
        token_ids = tokenizer([row.word for row in rows], add_special_tokens=False).input_ids
        vocabularies.write_vocabulary(folder / "vocabulary.parquet", rows, token_ids)
        write_json(folder / "counts.json", vocabularies.counts(rows))

    made = produce("vocabulary", vocabulary_key(spec), build)
    vocabularies.require_top_k(vocabularies.read_vocabulary(made.file("vocabulary.parquet")), spec.vocabulary.top_k)
    return made


# Embeddings


def embeddings_key(spec: Spec, vocabulary: Artifact) -> str:
    words = vocabularies.embedded_words(vocabularies.read_vocabulary(vocabulary.file("vocabulary.parquet")))
    pooled = ["pooled"] if spec.vocabulary.pooled else []
    return key("embeddings", local_model(spec.model)[1], digest(words), *pooled)


def embeddings(spec: Spec, vocabulary: Artifact, progress: Progress = quiet, slot: Slot = None) -> Artifact:
    """Encode the vocabulary: embeddings.arrow (word, embedding [L, d], pooled [p], length), shared by every run on it.

    Words that are compared by their pooled embeddings have no others there.
    """

    def build(folder: Path) -> None:
        from .concepts.embeddings import write_embeddings, write_pooled
        from .models.pipeline import load_pipeline

        source, base = local_model(spec.model)
        words = vocabularies.embedded_words(vocabularies.read_vocabulary(vocabulary.file("vocabulary.parquet")))
        metadata = {"model_hash": base, "vocabulary_hash": digest(words)}
        write = write_pooled if spec.vocabulary.pooled else write_embeddings
        write(folder / "embeddings.arrow", load_pipeline(source), words, metadata, progress=progress)

    return produce("embeddings", embeddings_key(spec, vocabulary), build, slot)


# Top-K


def nearest_key(spec: Spec, vocabulary: Artifact, embeddings: Artifact) -> str:
    part = spec.vocabulary
    # Only the clusters begin at random.
    settings = [part.top_k, part.similarity, part.clusters, spec.seed if part.clusters else None]
    return key("nearest", spec.concept_words, settings, vocabulary.key, embeddings.key)


def nearest(spec: Spec, vocabulary: Artifact, embeddings: Artifact, slot: Slot = None) -> Artifact:
    """Find each concept's top-K words: preserved.parquet (concept, rank, word, similarity, row).

    Where they are compared by their pooled embeddings, also embeddings.arrow: theirs, whole.
    """

    def build(folder: Path) -> None:
        from .concepts.embeddings import EmbeddingTable
        from .concepts.nearest import find_neighbours
        from .concepts.neighbours import write_neighbours
        from .models.pipeline import load_pipeline

        table = EmbeddingTable(embeddings.file("embeddings.arrow"))
        rows = vocabularies.read_vocabulary(vocabulary.file("vocabulary.parquet"))
        allowed = {row.word for row in rows if row.kept}
        pipeline, kept = load_pipeline(local_model(spec.model)[0]), folder / "embeddings.arrow"
        found = find_neighbours(pipeline, table, spec.concept_words, spec.vocabulary, allowed, spec.seed, kept)
        write_neighbours(folder / "preserved.parquet", found)

    return produce("nearest", nearest_key(spec, vocabulary, embeddings), build, slot)


# Training


NOT_IN_KEY = {"checkpoint_every", "processes", "hostfile", "zero_stage", "offload", "trajectory_gib"}
"""How a training is shared out and saved changes its result by rounding only, as the machine does."""


def training_key(spec: Spec, nearest: Artifact, embeddings: Artifact) -> str:
    training = spec.training.model_dump(exclude=NOT_IN_KEY)
    losses = methods.load(spec.method.name)
    method = {"name": spec.method.name, **spec.method.settings.model_dump(), **methods.version_of(losses)}
    used = [nearest.key, embeddings.key] if losses.CHOICE in methods.NEIGHBOURS else []
    # A closed form draws nothing at random.
    seed = None if methods.solves(losses) else spec.seed
    return key("training", local_model(spec.model)[1], spec.named_concepts, method, training, seed, used)


def training(
    spec: Spec,
    nearest: Artifact,
    embeddings: Artifact,
    on_record: Callable[[dict], None] = lambda record: None,
    slot: Slot = None,
) -> Artifact:
    """Erase: delta.safetensors (the changed weights) and trace.parquet (every step's losses and preserved concept)."""

    own = training_key(spec, nearest, embeddings)
    work = home() / "training" / own

    def build(folder: Path) -> None:
        from .training.launch import run_training

        whole = nearest if spec.vocabulary.pooled else embeddings
        run_training(spec, work, nearest, whole, folder, on_record)

    return once_whole(produce("training", own, build, slot), work)


def once_whole(artifact: Artifact, work: Path) -> Artifact:
    """A stage's result, and none of what it was made from: a stage that is cut short before it is whole goes on from that."""
    shutil.rmtree(work, ignore_errors=True)
    return artifact


# Images


def roles_of(spec: Spec, nearest: Artifact) -> dict[str, str]:
    """Role of every concept that is drawn; see `erase_core.generation.plan.roles`."""
    from .concepts.neighbours import nearest_words, read_neighbours

    return roles(spec, nearest_words(read_neighbours(nearest.file("preserved.parquet"))))


def images_key(spec: Spec, nearest: Artifact, training: Artifact | None) -> str:
    drawn = wanted_images(spec, roles_of(spec, nearest))
    wanted = [{"prompt": w.prompt, "concept": w.concept, "seed": w.seed} for w in drawn]
    wanted += [w.guidance_scale for w in drawn if w.guidance_scale is not None]
    settings = spec.generation.model_dump(exclude={"batch_size", "processes", "prompts", "prompt_files", "seeds"})
    return key("images", local_model(spec.model)[1], training.key if training else "original", wanted, settings)


def images(
    spec: Spec, nearest: Artifact, training: Artifact | None = None, progress: Progress = quiet, slot: Slot = None
) -> Artifact:
    """Draw the images of the erased model, or of the original when there is no training: images.parquet."""
    own = images_key(spec, nearest, training)
    inputs = training.content_of("delta.safetensors") if training else {}
    work = shards_folder(own, inputs, spec.generation)

    def build(folder: Path) -> None:
        from .generation.images import generate
        from .models.delta import apply_delta
        from .models.pipeline import load_pipeline, prepare_sampling

        source, base = local_model(spec.model)
        if spec.generation.processes > 1:
            share_images(spec, nearest, training, base, work, folder, progress)
            return
        pipeline = load_pipeline(source)
        if training is not None:
            apply_delta(pipeline.unet, training.file("delta.safetensors"))
        prepare_sampling(pipeline, spec.generation)
        wanted = wanted_images(spec, roles_of(spec, nearest))
        generate(
            pipeline, wanted, spec.generation, training.key if training else base, folder / "images.parquet", progress
        )

    return once_whole(produce("images", own, build, slot, inputs), work)


def share_images(
    spec: Spec, nearest: Artifact, training: Artifact | None, base: str, work: Path, folder: Path, progress: Progress
) -> None:
    """As the images stage, in ranks of its own, whose pieces are kept in `work`."""
    from .distributed.shards import run_shards
    from .generation.dataset import batches_of, join_datasets

    wanted = wanted_images(spec, roles_of(spec, nearest))
    job = {
        "spec": spec.model_dump(mode="json"),
        "model": str(local_source(spec.model).folder),
        "delta": str(training.file("delta.safetensors")) if training else None,
        "model_hash": training.key if training else base,
        "wanted": [vars(w) for w in wanted],
    }
    pieces = len(list(batches_of(wanted, spec.generation)))
    files = run_shards(
        "erase_core.generation.worker", job, pieces, spec.generation.processes, work, progress, len(wanted)
    )
    join_datasets(files, folder / "images.parquet")


def shards_folder(key: str, inputs: dict[str, str], *parts: BaseModel) -> Path:
    """Where ranks leave the pieces of a stage's result: its key, its inputs' contents, and what decides where one piece ends."""
    return home() / "shards" / digest(key, inputs, *(part.model_dump(exclude={"processes"}) for part in parts))


# Scores


VERDICTS = {"verdicts.csv": "erased", "verdicts_original.csv": "original"}
"""The files of a judge's or a detector's verdicts, in the field's CSV shape, and whose images they are on."""


def scorers_hash(spec: Spec) -> list[str]:
    """Hashes of the judge's and the CLIP's folders, and the commits of those on the hub: a name may come to stand for another."""
    folders = [Path(place) for place in (spec.scoring.judge, spec.scoring.clip) if place]
    found = [folder_hash(folder) for folder in folders if (folder / "config.json").is_file()]
    return found + list(scorer_commits(spec).values()) + ([included_hash()] if spec.embedded else [])


@functools.cache
def included_hash() -> str:
    """The hash of all included weights, which do not change while they are in use."""
    return folder_hash(WEIGHTS)


def reference_files(spec: Spec) -> list[tuple[str, int, int]]:
    """Name, size and time of every file in the folder of real images."""
    pictures = sorted(Path(spec.scoring.reference).iterdir()) if spec.scoring.reference else []
    return [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in pictures]


def scores_key(spec: Spec, nearest: Artifact, original: Artifact, erased: Artifact) -> str:
    part = spec.scoring.model_dump(exclude={"metrics", "preserved", "processes"})
    files = [
        (name, file_digest(Path(part[name])))
        for name in ("features", "lpips_backbone")
        if Path(part[name] or "").is_file()
    ]
    synonyms, role_of = [concept.names for concept in spec.concepts], roles_of(spec, nearest)
    inputs = [original.key, erased.key, spec.metrics, part, files, reference_files(spec), scorers_hash(spec)]
    # The verdicts have the numbers that a prompt file gives its prompts.
    cases = [w.case_number for w in wanted_images(spec, role_of)] if spec.generation.prompt_files else []
    return key("scores", inputs, spec.seed, role_of, synonyms, *cases)


def scores(
    spec: Spec,
    nearest: Artifact,
    original: Artifact,
    erased: Artifact,
    progress: Progress = quiet,
    slot: Slot = None,
) -> Artifact:
    """Judge both models' images: scores.parquet (metric, concept, role, value, low, high, n), and every verdict.

    The verdicts lie in verdicts.parquet, and those of a judge or a detector also in verdicts.csv and verdicts_original.csv.
    """
    own = scores_key(spec, nearest, original, erased)
    inputs = original.content_of("images.parquet") | erased.content_of("images.parquet")
    work = shards_folder(own, inputs)

    def build(folder: Path) -> None:
        from .metrics.general_quality import METRICS, general_quality
        from .metrics.per_image import judge_images
        from .metrics.scorers import scorers_of
        from .metrics.scores import score, write_scores
        from .metrics.verdicts import write_verdicts

        role_of = roles_of(spec, nearest)
        scorers = scorers_of(spec, shown(role_of))
        files = (original.file("images.parquet"), erased.file("images.parquet"))
        if spec.scoring.processes > 1:
            verdicts = share_verdicts(spec, work, *files, role_of, progress)
        else:
            verdicts = judge_images(*files, role_of, scorers, progress)
        with new_file(folder / "verdicts.parquet") as partial:
            pq.write_table(pa.Table.from_pandas(verdicts, preserve_index=False), partial)
        if {"erasure", "nudity"} & set(spec.metrics):
            cases = [w.case_number for w in wanted_images(spec, role_of)]
            for name, model in VERDICTS.items():
                write_verdicts(folder / name, verdicts, cases, model)
        found = score(verdicts, spec.metrics, spec.scoring.resamples, spec.seed)
        if set(METRICS) & set(spec.metrics):
            quality = general_quality(*files, role_of, scorers.features, spec.seed, spec.scoring.reference)
            found = pd.concat([found, quality], ignore_index=True)
        write_scores(folder / "scores.parquet", found)

    return once_whole(produce("scores", own, build, slot, inputs), work)


def share_verdicts(
    spec: Spec, work: Path, original: Path, erased: Path, role_of: dict[str, str], progress: Progress
) -> pd.DataFrame:
    """As `judge_images`, in ranks of its own, whose pieces are kept in `work`."""
    from .distributed.shards import run_shards
    from .generation.dataset import READ_TOGETHER
    from .metrics.per_image import joined

    total = pq.ParquetFile(original).metadata.num_rows
    pieces = -(-total // READ_TOGETHER)
    job = {
        "spec": located(spec).model_dump(mode="json"),
        "original": str(original),
        "erased": str(erased),
        "roles": role_of,
        "pieces": pieces,
    }
    files = run_shards("erase_core.metrics.worker", job, pieces, spec.scoring.processes, work, progress, total)
    # Lists come back from Arrow as arrays.
    frames = [
        pq.read_table(file).to_pandas().map(lambda value: value.tolist() if isinstance(value, np.ndarray) else value)
        for file in files
    ]
    return joined(frames)
