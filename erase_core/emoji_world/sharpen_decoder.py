"""Sharpen the autoencoder's decoder with its encoder frozen, so that latents, and a UNet trained on them, stay valid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from .augment import draw
from .fit import Report, fit, silent
from .train_autoencoder import reconstruction_loss

LATENT_NOISE = 0.05
"""Noise on the latents, relative to their spread: sampled latents are never quite those of an image."""


def sharpen(
    vae: AutoencoderKL,
    rgba: torch.Tensor,
    folder: Path,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    report: Report = silent,
) -> None:
    """Train the decoder on, in place, on premultiplied renders [N, 4, S, S]."""
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    vae.to(memory_format=torch.channels_last)

    def loss_of(rng: np.random.Generator) -> torch.Tensor:
        image = draw(rgba[rng.integers(len(rgba), size=batch_size)], rng).to(memory_format=torch.channels_last)
        with torch.no_grad():
            latents = vae.encode(image).latent_dist.mean
        noise = torch.from_numpy(rng.standard_normal(tuple(latents.shape), dtype=np.float32))
        noisy = latents + LATENT_NOISE / vae.config.scaling_factor * noise
        return reconstruction_loss(vae.decode(noisy).sample, image)

    fit(
        "decoder",
        vae,
        loss_of,
        steps=steps,
        learning_rate=1.5e-3,
        checkpoint=folder / "decoder.pt",
        seed=seed,
        report=report,
    )
