"""Run the training of a spec in processes of its own: one, or as many ranks as the spec asks for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ..artifacts import Artifact
from ..files import home, write_json
from ..spec import Spec

KEPT_LINES = 30
GROUP_VARIABLES = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


class TrainingFailed(RuntimeError):
    """The training processes ended with an error; the message is the rank's own."""


def run_training(
    spec: Spec, key: str, nearest: Artifact, embeddings: Artifact, folder: Path, on_record: Callable[[dict], None]
) -> None:
    """Train and leave delta.safetensors and trace.parquet in `folder`. on_record is called with each step's record.

    Checkpoints are kept below the project's home by the training's key, so that the next try goes on from the last one.
    """
    work = home() / "training" / key
    work.mkdir(parents=True, exist_ok=True)
    job = work / "job.json"
    write_json(
        job,
        {
            "spec": spec.model_dump(mode="json"),
            "nearest": str(nearest.file("preserved.parquet")),
            "embeddings": str(embeddings.file("embeddings.arrow")),
            "checkpoints": str(work / "checkpoints"),
            "output": str(folder),
        },
    )
    module = "erase_core.training.worker"
    if spec.training.processes == 1:
        command = [sys.executable, "-m", module, str(job)]
    else:
        ranks = str(spec.training.processes)
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            ranks,
            "-m",
            module,
            str(job),
        ]
    threads = max(1, (os.cpu_count() or 1) // spec.training.processes)
    # A launch starts a process group of its own, also from a process that belongs to another.
    inherited = {name: value for name, value in os.environ.items() if name not in GROUP_VARIABLES}
    environment = {**inherited, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    kept: list[str] = []
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            for line in process.stdout:
                if line.startswith('{"step"'):
                    on_record(json.loads(line))
                elif line.strip():
                    kept = [*kept, line.rstrip()][-KEPT_LINES:]
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        told = [line for line in kept if line.startswith("error: ")]
        raise TrainingFailed(told[-1].removeprefix("error: ") if told else "training failed:\n" + "\n".join(kept))
    shutil.rmtree(work)
