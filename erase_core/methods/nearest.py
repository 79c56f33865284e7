"""Preserve the nearest word: L1 + λ L2 with c_a the word closest to the erased concept by text similarity.

L1 and L2, with a share of c_n in it, are those of `losses`.
"""

from __future__ import annotations

from .losses import EDITED, FROZEN, erasing_loss, preservation_loss
from .settings import ConceptPreservingSettings

__all__ = ["CHOICE", "EDITED", "FROZEN", "Settings", "erasing_loss", "preservation_loss"]

CHOICE = "nearest"


class Settings(ConceptPreservingSettings):
    """The word nearest to the erased concept is preserved."""
