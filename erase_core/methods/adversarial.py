"""Adversarial preservation: preserve the concept that the erasure hurts most (Bui et al., NeurIPS 2024).

    min_θ' max_{π ∈ simplex(R)} E_{c_e ∈ E} [ L1 + λ L2 ]

    L1 = ‖ε_θ'(z_t, t, c_e) − (ε_θ(z_t, t, c_n) − η (ε_θ(z_t, t, c_e) − ε_θ(z_t, t, c_n)))‖²
    L2 = ‖ε_θ'(z_t, t, G(π) ⊙ R) − ε_θ(z_t, t, G(π) ⊙ R)‖²

with z_t a latent of c_e in L1, and in L2 one of the word that G(π) chose, at a timestep of its own.

Each step first ascends L2 in π with θ' fixed (search), then descends L1 + λ L2 in θ' with π fixed (update). G is the
Gumbel-softmax; there is one π for each erased concept, over its own K nearest words. π ascends in one of two ways:

    gradient    ∇_π L2 through the straight-through one-hot or the mixture, as published
    measured    of several words drawn from softmax(π) for each sample, the one with the largest L2 is the update's c_a, and π
                moves along the mean over the draws of A(c) ∇ log softmax(π)_c,  A(c) = L2(c) / mean L2 − 1

That is the score-function estimate of ∇_π E_{c ~ softmax(π)} L2(c), but for the mean L2, which is over a sample's own rivals: they
are measured at the same timestep of their own trajectories, and by how much L2 differs among timesteps says nothing of the words.
Since that mean goes with the draw, the estimate leans towards words that stand out among their rivals.

In the update a share of L2's samples, neutral_share, have c_n in place of G(π) ⊙ R, at the same latents.

With attack_steps the search has a second adversary: L1 is taken at the prompt c_w near c_e that brings the concept back under
θ' (`erase_core.search.attacker`), as the worst prompt for the erasure beside the worst concept for the preservation.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from .losses import EDITED, FROZEN, erasing_loss, preservation_loss
from .settings import ConceptPreservingSettings, Finite

__all__ = ["CHOICE", "EDITED", "FROZEN", "SEARCHED", "Settings", "erasing_loss", "preservation_loss", "search_loss"]

CHOICE = "gumbel"
SEARCHED = (("preserved",), ("preserved",))
search_loss = preservation_loss


class Settings(ConceptPreservingSettings):
    """Search over the vocabulary for the concept that the erasure hurts most."""

    preservation_weight: Finite = Field(
        1.5,
        ge=0,
        description="λ: weight of the preservation loss; published: 1. What is hurt most needs less than any word.",
    )
    temperature: Finite = Field(2.0, gt=0, description="τ of the Gumbel-softmax, with `search: gradient`.")
    gumbel: Literal["hard", "soft"] = Field(
        "hard",
        description="Straight-through one-hot, or, with `search: gradient`, the mixture of the words' embeddings.",
    )
    search: Literal["measured", "gradient"] = Field(
        "measured",
        description="Preserve the one that is hurt most of several drawn words, or ascend the gradient to the words' weights.",
    )
    rivals: int = Field(4, gt=1, description="Words drawn for each sample, with `search: measured`.")
    search_steps: int = Field(1, ge=0, description="Search steps before each update.")
    search_learning_rate: Finite = Field(1e-2, gt=0, description="Adam's learning rate for π.")
    attack_steps: int = Field(
        0,
        ge=0,
        description="Steps of an attacker who looks for the prompt that brings the concept back; 0: no attacker.",
    )
    attack_radius: Finite = Field(
        0.5, gt=0, description="How far the attacker may move the prompt's embedding, as a share of its norm."
    )

    @model_validator(mode="after")
    def _words_are_measured(self) -> Settings:
        if self.search == "measured" and self.gumbel == "soft":
            raise ValueError("gumbel: soft has mixtures, which are not measured; use search: gradient")
        return self
