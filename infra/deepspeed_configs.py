"""Writes infra/deepspeed/: the configurations that the training hands to DeepSpeed, to read or to use elsewhere.

    python -m infra.deepspeed_configs

The training makes its own from the spec (`erase_core.training.engine.config`) and reads none of these files.
"""

from __future__ import annotations

from pathlib import Path

from erase_core.files import write_json
from erase_core.spec import Training
from erase_core.training.engine import config

FOLDER = Path(__file__).parent / "deepspeed"


def write(folder: Path = FOLDER) -> None:
    """One file for each ZeRO stage, with the spec's defaults for all else."""
    for stage in (0, 1, 2, 3):
        write_json(folder / f"zero-{stage}.json", config(Training(zero_stage=stage)))


if __name__ == "__main__":
    write()
