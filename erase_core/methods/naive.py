"""Erasing alone: min_θ' L1, with nothing preserved; L1 as in `losses`."""

from __future__ import annotations

from .losses import erasing_loss
from .settings import ErasingSettings

__all__ = ["CHOICE", "EDITED", "FROZEN", "Settings", "erasing_loss"]

CHOICE = None
EDITED = ("erased",)
FROZEN = ("erased", "neutral@erased")


class Settings(ErasingSettings):
    """Nothing is preserved."""
