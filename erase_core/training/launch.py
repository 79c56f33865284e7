"""Run the training of a spec in ranks of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..artifacts import Artifact
from ..distributed.messages import heard
from ..distributed.ranks import run_ranks
from ..files import write_json
from ..models.source import local_model
from ..spec import Spec


def run_training(
    spec: Spec, work: Path, nearest: Artifact, embeddings: Artifact, folder: Path, on_record: Callable[[dict], None]
) -> None:
    """Train and leave delta.safetensors and trace.parquet in `folder`. on_record is called with each step's record.

    embeddings: the stage whose embeddings.arrow has the nearest words' rows.

    Checkpoints are kept in `work`, so that the next try goes on from the last one, also with another number of ranks; who has the
    whole result removes it. Raises RanksFailed with the failing rank's own error.
    """
    work.mkdir(parents=True, exist_ok=True)
    job, (source, base) = work / "job.json", local_model(spec.model)
    write_json(
        job,
        {
            "spec": spec.model_dump(mode="json"),
            "model": str(source.folder),
            "model_hash": base,
            "nearest": str(nearest.file("preserved.parquet")),
            "embeddings": str(embeddings.file("embeddings.arrow")),
            "checkpoints": str(work / "checkpoints"),
            "output": str(folder),
        },
    )

    def on_line(line: str) -> None:
        if (record := heard(line, "step")) is not None:
            on_record(record)

    training = spec.training
    run_ranks(
        "erase_core.training.worker", job, training.processes, on_line, training.hostfile and Path(training.hostfile)
    )
