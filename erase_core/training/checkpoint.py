"""Checkpoints: the engine, the searches and the trace of a step, in a folder that is whole or absent."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

TAG = "engine"


def rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def barrier() -> None:
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.barrier()


def save(folder: Path, step: int, engine, searches: list[dict], records: list[dict]) -> None:
    """Save everything needed to go on after `step` as folder/step-NNNNNN and remove the older ones. Called by every rank."""
    final, partial = folder / f"step-{step:06d}", folder / f".step-{step:06d}.partial"
    if rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    barrier()
    engine.save_checkpoint(str(partial), tag=TAG, save_latest=False, exclude_frozen_parameters=True)
    if rank() == 0:
        torch.save({"step": step, "searches": searches, "records": records}, partial / "progress.pt")
    barrier()
    if rank() == 0:
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        for older in sorted(folder.glob("step-*")):
            if older != final:
                shutil.rmtree(older)
    barrier()


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    found = sorted(folder.glob("step-*"))
    return found[-1] if found else None


def load(folder: Path, engine) -> dict:
    """Restore the engine from a checkpoint folder and return its step, searches and records."""
    engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
    return torch.load(folder / "progress.pt", weights_only=True)
