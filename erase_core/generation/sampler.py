"""Batched sampling over prompts and seeds: both guidance halves in one UNet call, decoding in chunks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import nn

from ..cores import FEWEST_ROWS, share_rows
from ..cpu_kernels import cpu_forwards, using
from ..models.conditions import latent_shape, layout_of
from ..models.prompts import encode
from ..spec import Generation
from .before_text import shared_forwards

SAMPLERS = {
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "dpm-solver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": (UniPCMultistepScheduler, {}),
}
DECODED_PIXELS = 2**17
"""At most so many pixels are encoded or decoded together, but at least one image."""


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


@dataclass
class Ready:
    """What drawings by a pipeline have in common while its weights stay as they are, made once for all of them."""

    pipeline: DiffusionPipeline
    texts: dict[str, torch.Tensor] = field(default_factory=dict)
    """The conditions of the last drawing's prompts: images of one prompt stand together, and may be drawn in two."""

    @functools.cached_property
    def unconditional(self) -> torch.Tensor:
        """The condition [R, d] of ""."""
        return encode(self.pipeline, [""])[0]

    @functools.cached_property
    def forwards(self) -> dict[nn.Module, Callable]:
        """The layers' faster ways, if any."""
        return cpu_forwards(self.pipeline.unet)

    @functools.cached_property
    def guided_forwards(self) -> dict[nn.Module, Callable]:
        """The same where both halves of the guidance are given together."""
        return shared_forwards(self.pipeline.unet, self.forwards)

    def conditions(self, prompts: list[str]) -> list[torch.Tensor]:
        """The condition [R, d] of each prompt."""
        wanted = dict.fromkeys(prompts)
        if new := [prompt for prompt in wanted if prompt not in self.texts]:
            self.texts |= zip(new, encode(self.pipeline, new))
        self.texts = {prompt: self.texts[prompt] for prompt in wanted}
        return [self.texts[prompt] for prompt in prompts]


def sample(
    pipeline: DiffusionPipeline,
    prompts: list[str],
    seeds: list[int],
    settings: Generation,
    clean: torch.Tensor | None = None,
    strength: float = 1.0,
    ready: Ready | None = None,
) -> Iterator[np.ndarray]:
    """Yield batches of images uint8 [B, H, W, 3], in order, for pairs of prompt and seed.

    An image depends on its own prompt and seed alone, not on the batch it is sampled in. With `clean` latents [N, C, h, w] it
    starts from those, noised for the last `strength` (0 to 1] of the sampler's steps, in place of noise alone. ready: of this
    pipeline, when more is drawn by it than this.
    """
    ready = ready or Ready(pipeline)
    return sample_embeddings(pipeline, ready.conditions(prompts), seeds, settings, clean, strength, ready)


@torch.inference_mode()
def sample_embeddings(
    pipeline: DiffusionPipeline,
    embeddings: Sequence[torch.Tensor],
    seeds: list[int],
    settings: Generation,
    clean: torch.Tensor | None = None,
    strength: float = 1.0,
    ready: Ready | None = None,
) -> Iterator[np.ndarray]:
    """As `sample`, for pairs of condition [R, d] and seed."""
    ready = ready or Ready(pipeline)
    skipped = 0 if clean is None else settings.steps - max(1, round(strength * settings.steps))
    guided = settings.guidance_scale > 1
    device, dtype, layout = pipeline.device, pipeline.unet.dtype, layout_of(pipeline)
    forwards = ready.guided_forwards if guided else ready.forwards

    def predict(z: torch.Tensor, conditions: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The predictions [B, G, …] for latents z [B, …] under each one's G conditions [B, G, R, d], in one call."""
        each = conditions.shape[1]
        given = layout.arguments(conditions.flatten(0, 1))
        return pipeline.unet(z.repeat_interleave(each, dim=0), t, **given).sample.unflatten(0, (-1, each))

    for start in range(0, len(embeddings), settings.batch_size):
        rows = slice(start, start + settings.batch_size)
        scheduler = make_scheduler(pipeline, settings)
        noise = start_noise(pipeline, seeds[rows]).to(device, dtype)
        timesteps = scheduler.timesteps[skipped:]
        if clean is None:
            z = noise * scheduler.init_noise_sigma
        else:
            if hasattr(scheduler, "set_begin_index"):  # DDIM keeps no index of its steps.
                scheduler.set_begin_index(skipped)
            z = scheduler.add_noise(clean[rows].to(device, dtype), noise, timesteps[:1].expand(len(noise)))
        conditions = torch.stack(list(embeddings[rows])).to(device, dtype)[:, None]
        if guided:
            conditions = torch.cat([ready.unconditional.to(conditions).expand_as(conditions), conditions], dim=1)
        fewest = max(1, FEWEST_ROWS // conditions.shape[1])
        for t in timesteps:
            inputs = scheduler.scale_model_input(z, t)
            with using(forwards):
                predicted = share_rows(functools.partial(predict, t=t), inputs, conditions, fewest=fewest)
            prediction = predicted[:, -1]
            if guided:
                without = predicted[:, 0]
                prediction = without + settings.guidance_scale * (prediction - without)
            z = scheduler.step(prediction, t, z).prev_sample
        yield decode(pipeline, z)


def decode(pipeline: DiffusionPipeline, latents: torch.Tensor) -> np.ndarray:
    """Latents [B, C, h, w] → images uint8 [B, H, W, 3]."""
    vae = pipeline.vae
    pixels_of_one = latents.shape[-2] * latents.shape[-1] * pipeline.vae_scale_factor**2
    parts = latents.to(vae.dtype).split(max(1, DECODED_PIXELS // pixels_of_one))
    chunks = [share_rows(lambda rows: vae.decode(rows / vae.config.scaling_factor).sample, part) for part in parts]
    pixels = (torch.cat(chunks).float() / 2 + 0.5).clamp(0, 1) * 255
    return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


@torch.no_grad()
def encode_images(pipeline: DiffusionPipeline, images: np.ndarray) -> torch.Tensor:
    """Images uint8 [N, H, W, 3] → clean latents [N, C, h, w], the means of the autoencoder's posteriors, in float32."""
    vae = pipeline.vae
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(vae.device, vae.dtype) / 127.5 - 1
    parts = pixels.split(max(1, DECODED_PIXELS // (pixels.shape[-2] * pixels.shape[-1])))
    return torch.cat([vae.encode(part).latent_dist.mean for part in parts]).float() * vae.config.scaling_factor
