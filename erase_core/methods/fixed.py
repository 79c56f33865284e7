"""Preserve given words: L1 + λ L2 with c_a drawn from `words` in every step.

L1 and L2, with a share of c_n in it, are those of `losses`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..spec_texts import Text
from .losses import EDITED, FROZEN, erasing_loss, preservation_loss
from .settings import ConceptPreservingSettings

__all__ = ["CHOICE", "EDITED", "FROZEN", "Settings", "erasing_loss", "preservation_loss"]

CHOICE = "fixed"


class Settings(ConceptPreservingSettings):
    """The given words are preserved."""

    words: list[Annotated[Text, Field(min_length=1, max_length=200)]] = Field(
        min_length=1, description="The words to preserve."
    )
