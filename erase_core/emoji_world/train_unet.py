"""Train the world's UNet2DConditionModel to predict noise under the frozen autoencoder and text encoder."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from .augment import draw
from .catalogue import STYLES, caption, concepts
from .fit import Report, fit, silent

VIEWS = 6
COMPOSING = (200, 950)
"""Timesteps at which noise hides the details but not the thing: what is drawn is decided here."""
UNCONDITIONAL = 0.1


def build() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        block_out_channels=(96, 192),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=128,
        attention_head_dim=4,
    )


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's own noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@torch.no_grad()
def encode_views(rgba: torch.Tensor, vae: AutoencoderKL, seed: int) -> torch.Tensor:
    """Latent means of VIEWS gentle placements of each render: [VIEWS, N, 8, 8, 8], scaled to unit variance."""
    rng = np.random.default_rng([seed, 7])
    views = []
    for _ in range(VIEWS):
        batches = [vae.encode(draw(rgba[i : i + 64], rng)).latent_dist.mean for i in range(0, len(rgba), 64)]
        views.append(torch.cat(batches) * vae.config.scaling_factor)
    return torch.stack(views)


def timesteps(count: int, rng: np.random.Generator) -> np.ndarray:
    """A quarter of the timesteps over the whole schedule, the rest where the picture is composed; stratified; int64 [count]."""
    whole = count // 4
    parts = []
    for size, (low, high) in ((whole, (0, 1000)), (count - whole, COMPOSING)):
        parts.append(low + (np.arange(size) + rng.random(size)) * (high - low) / max(size, 1))
    return np.concatenate(parts).astype(np.int64)


class CaptionEmbeddings:
    """Prompt embeddings [L, d] of captions, each encoded once."""

    def __init__(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel):
        self.tokenizer, self.text_encoder, self.known = tokenizer, text_encoder, {}

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> torch.Tensor:
        missing = list(dict.fromkeys(t for t in texts if t not in self.known))
        if missing:
            tokens = self.tokenizer(missing, padding="max_length", truncation=True, return_tensors="pt")
            self.known.update(zip(missing, self.text_encoder(tokens.input_ids).last_hidden_state))
        return torch.stack([self.known[t] for t in texts])


def train(
    rgba: torch.Tensor,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    folder: Path,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    report: Report = silent,
) -> UNet2DConditionModel:
    """Minimise ||ε_θ(z_t, t, c) − ε||² and return the moving average of the weights."""
    torch.manual_seed(seed)
    model = build().to(memory_format=torch.channels_last)
    average = copy.deepcopy(model).requires_grad_(False)
    latents, noise_schedule = encode_views(rgba, vae, seed), scheduler()
    embeddings, styles = CaptionEmbeddings(tokenizer, text_encoder), list(STYLES)

    def loss_of(rng: np.random.Generator) -> torch.Tensor:
        words = random.Random(int(rng.integers(2**31)))
        picks = rng.integers(len(rgba), size=batch_size)
        texts = [
            ""
            if rng.random() < UNCONDITIONAL
            else caption(concepts()[p // len(styles)], styles[p % len(styles)], words)
            for p in picks
        ]
        clean = latents[rng.integers(VIEWS, size=batch_size), picks]
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
        t = torch.from_numpy(timesteps(batch_size, rng))
        noisy = noise_schedule.add_noise(clean, noise, t).to(memory_format=torch.channels_last)
        return F.mse_loss(model(noisy, t, embeddings(texts)).sample, noise)

    fit(
        "unet",
        model,
        loss_of,
        steps=steps,
        learning_rate=8e-4,
        checkpoint=folder / "unet.pt",
        seed=seed,
        warmup=200,
        average=average,
        average_decay=0.998,
        report=report,
    )
    return average
