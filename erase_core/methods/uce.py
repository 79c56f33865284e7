"""Unified concept editing: a closed form that also preserves (Gandikota et al., WACV 2024).

    W' = (Σ_e v* c_eᵀ + λ Σ_p W c_p c_pᵀ + ρ W) (Σ_e c_e c_eᵀ + λ Σ_p c_p c_pᵀ + ρ I)⁻¹,   v* = W c*

which minimises Σ_e ‖W' c_e − v*‖² + λ Σ_p ‖W' c_p − W c_p‖² + ρ ‖W' − W‖² for every cross-attention key and value
projection.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..spec_texts import Text
from .closed_form import gram, identity
from .settings import Finite, Part

CHOICE = "words"
TRAINING = {"trainable": "xattn-strict"}


def solve(weight, source, destination, preserved, settings):
    """W' [o, d] from W [o, d] and token embeddings: source and destination [n, d] by position, preserved [m, d]."""
    kept = settings.preservation_weight * gram(preserved, preserved)
    wanted = weight @ gram(destination, source) + weight @ kept + settings.regularisation * weight
    return wanted @ (gram(source, source) + kept + settings.regularisation * identity(weight)).inverse()


class Settings(Part):
    """Closed form: the concept's tokens are projected like the destination's, the preserved words' as before."""

    destination: str = Field("", description="The prompt that the concept becomes.")
    words: list[Annotated[Text, Field(min_length=1, max_length=200)]] | None = Field(
        None, min_length=1, description="The words to preserve. Default: the top-K."
    )
    preservation_weight: Finite = Field(
        0.1, ge=0, description="λ: weight of each preserved token. As published for ten words or more."
    )
    regularisation: Finite = Field(0.1, gt=0, description="ρ: how much staying close to W counts.")
