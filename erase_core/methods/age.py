"""Adaptive guided erasure: the erasing target is searched too (Bui et al., ICLR 2025).

    min_θ' max_{π ∈ simplex(R_e)} ‖ε_θ'(z_t, t, c_e) − ε_θ(z_t, t, c_t)‖² + λ ‖ε_θ'(z_t, t, c_t) − ε_θ(z_t, t, c_t)‖²

with c_t = G(π) ⊙ R_e, a mixture of the few heaviest of the K words nearest to c_e. The concept is led to a close but
different one instead of all concepts to the same neutral one. The first term's z_t is a latent of c_e, the second's one
of the mixture's heaviest word.
"""

from __future__ import annotations

from pydantic import Field

from .settings import Finite, Weighted

CHOICE = "gumbel"
EDITED = ("erased", "preserved")
FROZEN = ("preserved@erased", "preserved")
SEARCHED = (EDITED, FROZEN)
# The target changes from step to step, and what they have in common is learnt slowly.
TRAINING = {"learning_rate": 2e-3}


def erasing_loss(edited, frozen, settings, distance):
    """‖ε_θ'(z_t, t, c_e) − ε_θ(z_t, t, c_t)‖²; a scalar."""
    return distance(edited["erased"], frozen["preserved@erased"], "erased")


def preservation_loss(edited, frozen, settings, distance):
    """‖ε_θ'(z_t, t, c_t) − ε_θ(z_t, t, c_t)‖²; a scalar."""
    return distance(edited["preserved"], frozen["preserved"], "preserved")


def search_loss(edited, frozen, settings, distance):
    """Both terms, which π ascends; a scalar."""
    preserved = preservation_loss(edited, frozen, settings, distance)
    return erasing_loss(edited, frozen, settings, distance) + settings.preservation_weight * preserved


class Settings(Weighted):
    """A target close to each concept is searched, and preserved."""

    preservation_weight: Finite = Field(1.0, ge=0, description="λ: weight of the target's preservation.")
    temperature: Finite = Field(2.0, gt=0, description="τ of the Gumbel-softmax.")
    mixed: int = Field(2, gt=0, description="How many of the heaviest words a target is mixed from.")
    search_steps: int = Field(1, ge=0, description="Search steps before each update.")
    search_learning_rate: Finite = Field(1e-2, gt=0, description="Adam's learning rate for π.")
