"""Forget-Me-Not: attention resteering (Zhang et al., arXiv 2303.17591).

    min_θ' mean_layers,samples mean (A_θ'(z_t, c_e)[:, :, T_e])²

A are the cross-attention probabilities [B · heads, pixels, tokens] at noised latents of the concept's own images, T_e the
positions of its tokens. By default only cross-attention weights are trained, as published.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .settings import Part

CHOICE = None
EDITED = ("attention@noised",)
FROZEN = ()
TRAINING = {"trainable": "xattn", "learning_rate": 1.5e-4}


def erasing_loss(edited, frozen, settings, distance):
    """The mean square of the attention to the concept's tokens, averaged over layers and samples; a scalar."""
    parts = edited["attention@noised"]
    return sum(part.square().mean() for part in parts) / len(parts)


class Settings(Part):
    """The cross-attention is turned away from the concept's tokens."""

    positions: Literal["concept", "concept-and-after"] = Field(
        "concept",
        description="Which tokens are unlearnt: the concept's own, or also all that follow, which have read it.",
    )
