"""The objective of the attacks that learn: the noise-prediction loss on images z_0.

    L(c, θ') = E_{z_0, t, ε} ‖ε_θ'(√ᾱ_t z_0 + √(1 − ᾱ_t) ε, t, c) − ε‖²

The diffusion's own training loss, taken as a function of the condition c by textual inversion (Gal et al., arXiv 2208.01618,
eq. 2) and by UnlearnDiffAtk (Zhang et al., arXiv 2310.11868, eq. 5), and of the weights θ' by fine-tuning.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..training.predictions import Predict


@dataclass(frozen=True)
class Noised:
    """A step's batch: rows of the images, their latents z_0 [B, C, h, w], timesteps [B] and noise ε [B, C, h, w]."""

    rows: list[int]
    clean: torch.Tensor
    timesteps: torch.Tensor
    noise: torch.Tensor


def draw_noised(clean: torch.Tensor, count: int, steps: int, rng: torch.Generator) -> Noised:
    """`count` of the latents z_0 [N, C, h, w], with a timestep below `steps` and a noise each."""
    rows = torch.randint(len(clean), (count,), generator=rng)
    timesteps = torch.randint(steps, (count,), generator=rng)
    noise = torch.randn(count, *clean.shape[1:], generator=rng)
    return Noised(rows.tolist(), clean[rows], timesteps.to(clean.device), noise.to(clean.device))


def noise_losses(predict: Predict, bars: torch.Tensor, at: Noised, conditions: torch.Tensor) -> torch.Tensor:
    """‖ε_θ'(z_t, t, c) − ε‖², the mean over elements, of each row; [B]. conditions: [B, R, d]; bars: ᾱ_t [T]."""
    bar = bars.to(at.clean.device)[at.timesteps].reshape(-1, 1, 1, 1).to(at.clean.dtype)
    z = bar.sqrt() * at.clean + (1 - bar).sqrt() * at.noise
    return (predict(z, at.timesteps, conditions) - at.noise).square().flatten(1).mean(1)
