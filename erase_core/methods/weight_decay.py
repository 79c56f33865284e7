"""Preserve by staying close: min_θ' L1 + λ ‖θ' − θ‖² over the trained weights; L1 as in `losses`."""

from __future__ import annotations

from pydantic import Field

from .losses import erasing_loss
from .settings import Finite, PreservingSettings

__all__ = ["CHOICE", "EDITED", "FROZEN", "Settings", "erasing_loss", "preservation_loss"]

CHOICE = None
EDITED = ("erased", "weights")
FROZEN = ("erased", "neutral@erased", "weights")


def preservation_loss(edited, frozen, settings, distance):
    """‖θ' − θ‖², the sum of squares over all trained weights; a scalar."""
    return sum((after - before).square().sum() for after, before in zip(edited["weights"], frozen["weights"]))


class Settings(PreservingSettings):
    """The distance of the trained weights from the original ones is penalised."""

    preservation_weight: Finite = Field(2e-3, ge=0, description="λ: weight of the squared distance of the weights.")
