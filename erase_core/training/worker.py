"""One rank of a training run. Started by `launch`, with a job file as its only argument."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import torch

from ..concepts.embeddings import EmbeddingTable
from ..concepts.neighbours import read_neighbours
from ..distributed.group import begin, rank
from ..distributed.messages import tell
from ..distributed.rank import run_rank
from ..files import write_json
from ..models.delta import weights_hash
from ..models.origin import named, origin_of
from ..models.pipeline import load_pipeline
from ..models.source import source_in
from .candidates import conditions_of, erased_concepts
from .loop import train
from .records import Diverged
from .result import Snapshots, save_result
from .trajectory_files import folder_for

SEARCHED = "searched.safetensors"
SNAPSHOTS = 20
"""About how many times in a training the searched c_a is kept, for each concept."""


def main(path: Path) -> None:
    job, spec = begin(path)
    source, base = source_in(spec.model, Path(job["model"])), job["model_hash"]
    pipeline = load_pipeline(source)
    table, near = EmbeddingTable(Path(job["embeddings"])), read_neighbours(Path(job["nearest"]))
    concepts, conditions = erased_concepts(spec, pipeline, table, near), conditions_of(spec, pipeline)
    # Nothing else is needed of the pipeline, and text encoders can be larger than what is trained.
    unet, scheduler = pipeline.unet, pipeline.scheduler
    del pipeline
    own = weights_hash(unet)
    # A delta goes on the model it was trained from, whatever that was made from.
    origin = replace(
        origin_of(source.folder, spec.model, base, own),
        **named(source.folder, spec.model),
        base_model_hash=base,
        base_unet_hash=own,
        erased_concepts=", ".join(spec.concept_words),
        erasure_method=spec.method.name,
    )
    records: list[dict] = []

    def on_record(record: dict) -> None:
        records.append(record)
        if rank() == 0:
            tell(record)

    every = max(1, spec.training.steps * len(concepts) // SNAPSHOTS)
    snapshots = Snapshots(every, Path(job["checkpoints"]) / "searched") if rank() == 0 else None
    weights = train(
        unet,
        scheduler,
        concepts,
        conditions,
        spec.method,
        spec.training,
        spec.seed,
        Path(job["checkpoints"]),
        on_record,
        snapshots,
        folder_for(spec.training, base),
    )
    if rank() == 0:
        save_result(Path(job["output"]), unet, weights, records, origin.header)
        sampling = sum(record["latent_seconds"] for record in records)
        whole = sum(record["seconds"] for record in records)
        used = {"peak_memory_gib": peak_memory(), "latent_seconds": sampling, "step_seconds": whole - sampling}
        write_json(Path(job["output"]) / "resources.json", used)
        snapshots.save(Path(job["output"]) / SEARCHED)


def peak_memory() -> float:
    """The most memory that this rank held, in GiB: the accelerator's where there is one, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    # Not getrusage: what that says is never less than what the process held that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE).group(1)) / 2**20


if __name__ == "__main__":
    job_file = Path(sys.argv[1])
    run_rank(lambda: main(job_file), expected=(Diverged,))
