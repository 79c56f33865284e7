"""TIME: a closed form for every cross-attention key and value projection (Orgad et al., ICCV 2023).

    W' = (ρ W + Σ_i W c_i* c_iᵀ) (ρ I + Σ_i c_i c_iᵀ)⁻¹

which minimises Σ_i ‖W' c_i − W c_i*‖² + ρ ‖W' − W‖²: each source token c_i is projected like its destination c_i*.
"""

from __future__ import annotations

from pydantic import Field

from .closed_form import gram, identity
from .settings import Finite, Part

CHOICE = None
TRAINING = {"trainable": "xattn-strict"}


def solve(weight, source, destination, preserved, settings):
    """W' [o, d] from W [o, d] and token embeddings [n, d] of the source and, position by position, the destination."""
    wanted = settings.regularisation * weight + weight @ gram(destination, source)
    return wanted @ (settings.regularisation * identity(weight) + gram(source, source)).inverse()


class Settings(Part):
    """Closed form: the concept's tokens are projected like the destination's."""

    destination: str = Field("", description="The prompt that the concept becomes.")
    regularisation: Finite = Field(1.0, gt=0, description="ρ: how much staying close to W counts.")
