"""Concept ablation: the concept becomes its anchor (Kumari et al., ICCV 2023).

    min_θ' ‖ε_θ'(z_t, t, c_e) − sg(ε_θ'(z_t, t, c_a))‖²

z_t is a latent of the anchor c_a, and sg stops the gradient: the edited model is its own teacher. As published, z_t is an image of
the anchor with noise; here it lies on a trajectory that draws one, as every method's latents do.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .settings import Weighted

CHOICE = "anchor"
EDITED = ("erased@preserved",)
TEACHER = ("preserved",)
FROZEN = ()
# Its teacher moves with it: at a larger rate both drift away together.
TRAINING = {"learning_rate": 5e-5}


def erasing_loss(edited, frozen, settings, distance):
    """‖ε_θ'(z_t, t, c_e) − sg(ε_θ'(z_t, t, c_a))‖²; a scalar."""
    return distance(edited["erased@preserved"], edited["preserved"], "preserved")


class Settings(Weighted):
    """The concept is mapped to an anchor on the anchor's own images."""

    anchor: Annotated[str, Field(max_length=200)] | None = Field(
        None, description="The concept it becomes. Default: the nearest word of the vocabulary."
    )
