"""Erasing alone: L1, with nothing preserved (also ESD's loss; Gandikota et al., ICCV 2023)."""

from __future__ import annotations

from .losses import erasing_loss
from .settings import ErasingSettings

__all__ = ["PRESERVES", "Settings", "erasing_loss"]

PRESERVES = None


class Settings(ErasingSettings):
    """Nothing is preserved."""
