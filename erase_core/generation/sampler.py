"""Batched sampling over prompts and seeds: both guidance halves in one UNet call, decoding in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from ..models.conditions import latent_shape, layout_of
from ..models.prompts import encode
from ..spec import Generation

SAMPLERS = {
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "dpm-solver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": (UniPCMultistepScheduler, {}),
}
DECODED_PIXELS = 2**17
"""At most so many pixels are decoded together, but at least one image."""


def make_scheduler(pipeline: DiffusionPipeline, settings: Generation):
    """A fresh scheduler of the wanted kind with the model's own noise schedule."""
    kind, options = SAMPLERS[settings.sampler]
    scheduler = kind.from_config(pipeline.scheduler.config, **options)
    scheduler.set_timesteps(settings.steps)
    return scheduler


def start_noise(pipeline: DiffusionPipeline, seeds: list[int]) -> torch.Tensor:
    """Noise [N, C, h, w], each image's from its own seed, as the stock pipeline draws it."""
    shape = (1, *latent_shape(pipeline.unet))
    return torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def sample(
    pipeline: DiffusionPipeline, prompts: list[str], seeds: list[int], settings: Generation
) -> Iterator[np.ndarray]:
    """Yield batches of images uint8 [B, H, W, 3], in order, for pairs of prompt and seed.

    An image depends on its own prompt and seed alone, not on the batch it is sampled in.
    """
    unique = list(dict.fromkeys(prompts))
    embedding = dict(zip(unique, encode(pipeline, unique)))
    return sample_embeddings(pipeline, [embedding[prompt] for prompt in prompts], seeds, settings)


@torch.inference_mode()
def sample_embeddings(
    pipeline: DiffusionPipeline, embeddings: Sequence[torch.Tensor], seeds: list[int], settings: Generation
) -> Iterator[np.ndarray]:
    """As `sample`, for pairs of condition [R, d] and seed."""
    (unconditional,) = encode(pipeline, [""])
    guided = settings.guidance_scale > 1
    device, dtype, layout = pipeline.device, pipeline.unet.dtype, layout_of(pipeline)
    for start in range(0, len(embeddings), settings.batch_size):
        rows = slice(start, start + settings.batch_size)
        scheduler = make_scheduler(pipeline, settings)
        z = start_noise(pipeline, seeds[rows]).to(device, dtype) * scheduler.init_noise_sigma
        condition = torch.stack(list(embeddings[rows])).to(device, dtype)
        if guided:
            condition = torch.cat([unconditional.to(condition).expand_as(condition), condition])
        for t in scheduler.timesteps:
            inputs = scheduler.scale_model_input(torch.cat([z, z]) if guided else z, t)
            prediction = pipeline.unet(inputs, t, **layout.arguments(condition)).sample
            if guided:
                without, with_condition = prediction.chunk(2)
                prediction = without + settings.guidance_scale * (with_condition - without)
            z = scheduler.step(prediction, t, z).prev_sample
        yield decode(pipeline, z)


def decode(pipeline: DiffusionPipeline, latents: torch.Tensor) -> np.ndarray:
    """Latents [B, C, h, w] → images uint8 [B, H, W, 3]."""
    vae = pipeline.vae
    pixels_of_one = latents.shape[-2] * latents.shape[-1] * pipeline.vae_scale_factor**2
    parts = latents.to(vae.dtype).split(max(1, DECODED_PIXELS // pixels_of_one))
    chunks = [vae.decode(part / vae.config.scaling_factor).sample for part in parts]
    pixels = (torch.cat(chunks).float() / 2 + 0.5).clamp(0, 1) * 255
    return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
