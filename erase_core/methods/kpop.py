"""Learnable prompts as the concept's memory (KPOP; Bui et al., arXiv 2403.12326).

Extra tokens p follow the prompt's embedding, so that every cross-attention layer has further keys and values. In turn:

    search:  min_p  ‖ε_θ'(z_t, t, [c_e; p]) − ε_θ(z_t, t, c_e)‖²       p learns to bring c_e back
    update:  min_θ' ½ Σ_c ‖ε_θ'(z_t, t, c) − (ε_θ(z_t, t, c_n) − η (ε_θ(z_t, t, c_e) − ε_θ(z_t, t, c_n)))‖²
                    + λ ‖ε_θ'(z_t, t, c_n) − ε_θ(z_t, t, c_n)‖²,   c ∈ {c_e, [c_e; p]}

What θ' still knows moves into p and is erased from there too; p is thrown away at the end.
"""

from __future__ import annotations

from pydantic import Field

from .settings import ErasingSettings, Finite

CHOICE = "prompt"
EDITED = ("erased", "prompted@erased", "neutral@erased")
FROZEN = ("erased", "neutral@erased")
SEARCHED = (("prompted@erased",), ("erased",))
TRAINING = {"learning_rate": 3e-4}


def erasing_loss(edited, frozen, settings, distance):
    """The mean of L1 with and without the learnt prompt, so that the model erases once the prompt is gone; a scalar."""
    neutral = frozen["neutral@erased"]
    target = neutral - settings.negative_guidance * (frozen["erased"] - neutral)
    return 0.5 * sum(distance(edited[name], target, "erased") for name in ("erased", "prompted@erased"))


def preservation_loss(edited, frozen, settings, distance):
    """‖ε_θ'(z_t, t, c_n) − ε_θ(z_t, t, c_n)‖²; a scalar."""
    return distance(edited["neutral@erased"], frozen["neutral@erased"], "erased")


def search_loss(edited, frozen, settings, distance):
    """−‖ε_θ'(z_t, t, [c_e; p]) − ε_θ(z_t, t, c_e)‖², which p ascends; a scalar."""
    return -distance(edited["prompted@erased"], frozen["erased"], "erased")


class Settings(ErasingSettings):
    """Learnable prompts hold the concept while it is erased."""

    preservation_weight: Finite = Field(1.0, ge=0, description="λ: weight of the neutral concept's preservation.")
    prompt_tokens: int = Field(4, gt=0, description="Learnable tokens for each concept.")
    search_steps: int = Field(1, ge=0, description="Prompt steps before each update.")
    search_learning_rate: Finite = Field(1e-2, gt=0, description="Adam's learning rate for the prompt.")
