"""Checkpoints: weights, moments, searches and the trace of a step, consolidated, in a folder that is whole or absent.

Nothing in a checkpoint depends on the number of ranks or the ZeRO stage that wrote it, so any other may go on from it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from ..distributed.group import barrier, rank
from ..files import file_digest, new_folder, read_json, write_json
from .engine import export, moments

STATE, DIGEST = "state.pt", "digest.json"
KEPT = 2
"""How many checkpoints are kept: the newest, and the one before it should the newest be damaged."""


def save(folder: Path, step: int, engine, trained: list[str], searches: list[dict], records: list[dict]) -> None:
    """Save everything needed to go on after `step` as folder/step-NNNNNN and remove old ones. Called by every rank."""
    state, writes = {"step": step, "searches": searches, "records": records}, rank() == 0
    state |= {"weights": export(engine, trained, writes), "moments": moments(engine, trained, writes)}
    if writes:
        with new_folder(folder / f"step-{step:06d}") as partial:
            # Into a file of Python's, whose errors are the system's: torch's own tell a full disk as a wrong position.
            with open(partial / STATE, "wb") as file:
                torch.save(state, file)
            write_json(partial / DIGEST, file_digest(partial / STATE))
        for older in in_order(folder)[:-KEPT]:
            shutil.rmtree(older)
    barrier()


def in_order(folder: Path) -> list[Path]:
    """The checkpoints, the newest last; beyond a million steps their names' order is another."""
    return sorted(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))


def whole(checkpoint: Path) -> bool:
    """Whether a checkpoint's bytes are those that were written."""
    try:
        return read_json(checkpoint / DIGEST) == file_digest(checkpoint / STATE)
    except (OSError, ValueError):
        return False


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    return next((found for found in reversed(in_order(folder)) if whole(found)), None)


def load(checkpoint: Path) -> dict:
    """A checkpoint's step, searches, records, weights and moments, on the host whatever device they were saved on."""
    return torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
