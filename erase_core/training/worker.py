"""One rank of a training run. Started by `launch`, with a job file as its only argument."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from .. import methods
from ..concepts.embeddings import EmbeddingTable
from ..concepts.nearest import read_neighbours
from ..files import read_json
from ..models.pipeline import load_pipeline
from ..models.prompts import encode
from ..models.source import local_model
from ..spec import Concept, Spec
from .checkpoint import rank
from .engine import join_process_group
from .loop import Conditions, Diverged, ErasedConcept, train
from .result import save_result


def erased_concept(pipeline, concept: Concept, words: list[str], candidates: torch.Tensor | None) -> ErasedConcept:
    """A spec's concept with the embeddings of its names and prompts."""
    prompts = [*concept.names, *concept.prompts]
    return ErasedConcept(concept.concept, prompts, encode(pipeline, prompts), words, candidates)


def candidates_of(spec: Spec, pipeline, job: dict) -> dict[str, tuple[list[str], torch.Tensor | None]]:
    """Each erased concept's candidates for preservation, as the method chooses them: their words and embeddings [K, L, d]."""
    names, settings = [concept.concept for concept in spec.concepts], spec.method.settings
    kind = methods.load(spec.method.name).PRESERVES
    if kind is None:
        return {name: ([], None) for name in names}
    if kind in ("fixed", "neutral"):
        words = list(settings.words) if kind == "fixed" else [settings.neutral]
        return dict.fromkeys(names, (words, encode(pipeline, words)))
    table, near = EmbeddingTable(Path(job["embeddings"])), read_neighbours(Path(job["nearest"]))
    chosen = {name: near[name][:1] if kind == "nearest" else near[name] for name in names}
    return {name: ([n.word for n in found], table.rows([n.row for n in found]).to(pipeline.device)) for name, found in chosen.items()}


def main(path: str) -> None:
    job = read_json(Path(path))
    spec = Spec.model_validate_json(json.dumps(job["spec"]))
    join_process_group()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    source, base = local_model(spec.model)
    pipeline = load_pipeline(source)
    candidates = candidates_of(spec, pipeline, job)
    concepts = [erased_concept(pipeline, concept, *candidates[concept.concept]) for concept in spec.concepts]
    conditions = Conditions(encode(pipeline, [""])[0], encode(pipeline, [spec.method.settings.neutral])[0])
    records: list[dict] = []

    def on_record(record: dict) -> None:
        records.append(record)
        if rank() == 0:
            print(json.dumps(record), flush=True)

    weights = train(
        pipeline.unet, pipeline.scheduler, concepts, conditions, spec.method, spec.training, spec.seed,
        Path(job["checkpoints"]), on_record,
    )
    if rank() == 0:
        save_result(Path(job["output"]), pipeline.unet, weights, records, {"base_model_hash": base, "base_model": spec.model})


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Diverged as error:
        print(f"error: {error}", flush=True)
        sys.exit(3)
