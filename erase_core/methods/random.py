"""Preserve a random word: L1 + λ L2 with c_a drawn evenly from the erased concept's K nearest words in every step.

L1 and L2, with a share of c_n in it, are those of `losses`.
"""

from __future__ import annotations

from .losses import EDITED, FROZEN, erasing_loss, preservation_loss
from .settings import ConceptPreservingSettings

__all__ = ["CHOICE", "EDITED", "FROZEN", "Settings", "erasing_loss", "preservation_loss"]

CHOICE = "random"


class Settings(ConceptPreservingSettings):
    """A random one of the K nearest words is preserved in each step."""
