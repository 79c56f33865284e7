"""What a training tells of each of its steps, and the bounds that its losses must keep."""

from __future__ import annotations

import math
from pathlib import Path

from . import checkpoint

LOSSES = ("search", "erasing", "preservation")
Record = dict[str, object]


class Diverged(RuntimeError):
    """A loss stopped being a number or grew out of bounds; the last checkpoint is still there."""


def record_of(
    step: int,
    steps: int,
    phase: str,
    concept: str | None,
    losses: dict[str, float],
    seconds: float,
    latent_seconds: float = 0.0,
) -> Record:
    """A row of the trace. phase: search or update. Nothing is said of a preserved concept."""
    return {
        "step": step,
        "steps": steps,
        "phase": phase,
        "concept": concept,
        "word": None,
        "probability": None,
        "distance": None,
        "drawn": [],
        **{f"{name}_loss": losses.get(name) for name in LOSSES},
        "seconds": seconds,
        "latent_seconds": latent_seconds,
    }


def require_bounds(
    losses: dict[str, float], limits: dict[str, float], step: int, checkpoints: Path | None = None
) -> None:
    """Raise Diverged for a loss that is no number or beyond its limit; one without a limit must be finite."""
    for name, value in losses.items():
        if math.isfinite(value) and abs(value) <= limits.get(name, math.inf):
            continue
        newest = checkpoint.latest(checkpoints) if checkpoints else None
        kept = f" (the checkpoint of step {int(newest.name.removeprefix('step-'))} is kept)" if newest else ""
        raise Diverged(f"training: the {name} loss is {value:.3g} at step {step}; lower training.learning_rate{kept}")
