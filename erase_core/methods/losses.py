"""The two losses that most methods share.

    L1 = ‖ε_θ'(z_t, t, c_e) − (ε_θ(z_t, t, c_n) − η (ε_θ(z_t, t, c_e) − ε_θ(z_t, t, c_n)))‖²    z_t a latent of c_e
    L2 = ‖ε_θ'(z_t, t, c_a) − ε_θ(z_t, t, c_a)‖²                                                z_t a latent of c_a

Notation: θ is the frozen UNet, θ' the edited one; c_e the concept to erase, c_n the neutral concept, c_a the preserved
one. The latents of L1 and of L2 are drawn apart, each at a timestep of its own. Where a method has a neutral_share, that share
of L2's samples has c_n in place of c_a, at c_a's latents.
"""

from __future__ import annotations

EDITED = ("erased", "preserved")
FROZEN = ("erased", "neutral@erased", "preserved")
"""The predictions of θ' and of θ that the two losses are made of."""


def negative_guidance_target(frozen, settings):
    """ε_θ(z_t, t, c_n) − η (ε_θ(z_t, t, c_e) − ε_θ(z_t, t, c_n)), the target of L1; [B, C, h, w]."""
    return frozen["neutral@erased"] - settings.negative_guidance * (frozen["erased"] - frozen["neutral@erased"])


def erasing_loss(edited, frozen, settings, distance):
    """L1 = ‖ε_θ'(z_t, t, c_e) − target‖²; a scalar, the mean over samples and latent elements."""
    return distance(edited["erased"], negative_guidance_target(frozen, settings), "erased")


def preservation_loss(edited, frozen, settings, distance):
    """L2 = ‖ε_θ'(z_t, t, c_a) − ε_θ(z_t, t, c_a)‖²; a scalar, the mean over samples and latent elements."""
    return distance(edited["preserved"], frozen["preserved"], "preserved")
