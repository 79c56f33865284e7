"""Preserve the neutral concept: L1 + λ ‖ε_θ'(z_t, t, c_n) − ε_θ(z_t, t, c_n)‖².

L1 is as in `losses`; the second term's z_t is a latent of c_n, and not of c_e.
"""

from __future__ import annotations

from .losses import EDITED, FROZEN, erasing_loss, preservation_loss
from .settings import PreservingSettings

__all__ = ["CHOICE", "EDITED", "FROZEN", "Settings", "erasing_loss", "preservation_loss"]

CHOICE = "neutral"


class Settings(PreservingSettings):
    """The neutral concept is preserved."""
