"""Train the world's AutoencoderKL: 64×64 images to 8×8 latents of 8 channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from .augment import draw
from .fit import Report, fit, silent

KL_WEIGHT = 3e-6


def build() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=8,
        sample_size=64,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )


def reconstruction_loss(made: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """L1 + MSE + L1 of the image gradients + L1 of the 4- and 8-fold pooled images; both [B, 3, H, W] in [-1, 1]."""
    loss = F.l1_loss(made, image) + F.mse_loss(made, image)
    loss = loss + F.l1_loss(made.diff(dim=-1), image.diff(dim=-1)) + F.l1_loss(made.diff(dim=-2), image.diff(dim=-2))
    for factor in (4, 8):
        loss = loss + F.l1_loss(F.avg_pool2d(made, factor), F.avg_pool2d(image, factor))
    return loss


def train(
    rgba: torch.Tensor, folder: Path, *, steps: int, batch_size: int, seed: int, report: Report = silent
) -> AutoencoderKL:
    """Train on premultiplied renders [N, 4, S, S]; sets scaling_factor so that latents have unit variance."""
    torch.manual_seed(seed)
    model = build().to(memory_format=torch.channels_last)

    def loss_of(rng: np.random.Generator) -> torch.Tensor:
        image = draw(rgba[rng.integers(len(rgba), size=batch_size)], rng).to(memory_format=torch.channels_last)
        posterior = model.encode(image).latent_dist
        return reconstruction_loss(model.decode(posterior.sample()).sample, image) + KL_WEIGHT * posterior.kl().mean()

    fit(
        "autoencoder",
        model,
        loss_of,
        steps=steps,
        learning_rate=2e-3,
        checkpoint=folder / "autoencoder.pt",
        seed=seed,
        report=report,
    )
    with torch.inference_mode():
        rng = np.random.default_rng(seed)
        latents = torch.cat(
            [model.encode(draw(rgba[i : i + 64], rng)).latent_dist.mean for i in range(0, len(rgba), 64)]
        )
    model.register_to_config(scaling_factor=1.0 / float(latents.std()))
    return model
