"""Preserve the nearest word: L1 + λ L2 with c_a the word closest to the erased concept by text similarity."""

from __future__ import annotations

from .losses import erasing_loss, preservation_loss
from .settings import PreservingSettings

__all__ = ["PRESERVES", "Settings", "erasing_loss", "preservation_loss"]

PRESERVES = "nearest"


class Settings(PreservingSettings):
    """The word nearest to the erased concept is preserved."""
