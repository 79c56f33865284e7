"""Adversarial preservation with a continuous search: c_a is any embedding near c_e, found by projected gradient ascent.

    c_a ← Π_{‖c − c_e‖ ≤ r} (c_a + α ∇L2 / ‖∇L2‖), from c_a = c_e   (L2 ball; with the sign of ∇L2 for the L∞ ball)
    min_θ' L1 + λ L2(c_a)

L1 and L2, with a share of c_n in it, are those of `losses`, but that z_t of L2 is a latent of c_e, in whose ball c_a is: what is no
word has no latents of its own.

The study that the paper argues from (Bui et al., NeurIPS 2024, section on the concept space): the search leaves what
words can say, which is why the default chooses among words.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .losses import EDITED, FROZEN, erasing_loss, preservation_loss
from .settings import ConceptPreservingSettings, Finite

__all__ = [
    "CHOICE",
    "EDITED",
    "FROZEN",
    "SEARCHED",
    "VERSION",
    "Settings",
    "erasing_loss",
    "preservation_loss",
    "search_loss",
]

CHOICE = "pgd"
VERSION = 2
SEARCHED = (("preserved",), ("preserved",))
search_loss = preservation_loss


class Settings(ConceptPreservingSettings):
    """Projected gradient ascent in embedding space for the condition that the erasure hurts most."""

    norm: Literal["l2", "linf"] = Field("l2", description="The ball around c_e that the search stays in.")
    radius: Finite = Field(
        1.0, gt=0, description="The ball's radius, as a share of c_e's norm (l2) or root mean square (linf)."
    )
    step_size: Finite = Field(0.05, gt=0, description="α, in the same unit as the radius.")
    search_steps: int = Field(1, ge=1, description="Search steps before each update.")
