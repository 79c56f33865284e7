"""One rank of a training run. Started by `launch`, with a job file as its only argument."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from ..concepts.embeddings import EmbeddingTable
from ..concepts.nearest import read_neighbours
from ..files import read_json
from ..models.pipeline import load_pipeline
from ..models.prompts import encode
from ..models.source import local_model
from ..spec import Spec
from .candidates import erased_concepts
from .checkpoint import rank
from .engine import join_process_group
from .loop import Conditions, Diverged, train
from .result import save_result


def main(path: str) -> None:
    job = read_json(Path(path))
    spec = Spec.model_validate_json(json.dumps(job["spec"]))
    join_process_group()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    source, base = local_model(spec.model)
    pipeline = load_pipeline(source)
    table, near = EmbeddingTable(Path(job["embeddings"])), read_neighbours(Path(job["nearest"]))
    concepts = erased_concepts(spec, pipeline, table, near)
    conditions = Conditions(encode(pipeline, [""])[0], encode(pipeline, [spec.method.settings.neutral])[0])
    records: list[dict] = []

    def on_record(record: dict) -> None:
        records.append(record)
        if rank() == 0:
            print(json.dumps(record), flush=True)

    weights = train(
        pipeline.unet,
        pipeline.scheduler,
        concepts,
        conditions,
        spec.method,
        spec.training,
        spec.seed,
        Path(job["checkpoints"]),
        on_record,
    )
    if rank() == 0:
        save_result(
            Path(job["output"]), pipeline.unet, weights, records, {"base_model_hash": base, "base_model": spec.model}
        )


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Diverged as error:
        print(f"error: {error}", flush=True)
        sys.exit(3)
