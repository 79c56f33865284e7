"""Erased Stable Diffusion (Gandikota et al., ICCV 2023).

    min_θ' ‖ε_θ'(z_t, t, c_e) − (ε_θ(z_t, t, c_n) − η (ε_θ(z_t, t, c_e) − ε_θ(z_t, t, c_n)))‖²

or, with `erase_from`, the concept is taken out of a broader one, c_f, and c_f is otherwise kept:

    min_θ' ‖ε_θ'(z_t, t, c_f) − (ε_θ(z_t, t, c_f) − η (ε_θ(z_t, t, c_e) − ε_θ(z_t, t, c_n)))‖²

Its variants are choices of `training.trainable`: ESD-x xattn, ESD-x-strict xattn-strict, ESD-u noxattn, all full.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .settings import ErasingSettings

CHOICE = None
EDITED = ("subject",)
FROZEN = ("subject", "erased@subject", "neutral@subject")


def erasing_loss(edited, frozen, settings, distance):
    """‖ε_θ'(c) − (base − η (ε_θ(c_e) − ε_θ(c_n)))‖², c and base being c_e and ε_θ(c_n), or c_f and ε_θ(c_f); a scalar."""
    base = frozen["neutral@subject"] if settings.erase_from is None else frozen["subject"]
    direction = frozen["erased@subject"] - frozen["neutral@subject"]
    return distance(edited["subject"], base - settings.negative_guidance * direction, "subject")


class Settings(ErasingSettings):
    """Negative guidance alone, with nothing preserved."""

    erase_from: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        None, description="A broader concept that the erased one is taken out of."
    )
