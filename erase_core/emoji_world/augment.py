"""Batches of training images: renders moved and scaled, and for the judges also bent and spoiled."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from .render import SIDE

IMAGE_SIDE = 64


def premultiplied(renders: np.ndarray) -> torch.Tensor:
    """RGBA renders uint8 [N, S, S, 4] → float16 [N, 4, S, S] in [0, 1], colour multiplied by alpha."""
    rgba = torch.from_numpy(renders.reshape(-1, SIDE, SIDE, 4)).permute(0, 3, 1, 2).float() / 255
    rgba[:, :3] *= rgba[:, 3:]
    return rgba.half()


def place(
    rgba: torch.Tensor, rng: np.random.Generator, *, scale, shift: float, rotation: float = 0, bend: float = 0
) -> torch.Tensor:
    """Place renders on white at a random size, position and angle, and bend them.

    rgba: [B, 4, SIDE, SIDE], premultiplied. scale: (low, high) share of the side that is filled. shift: largest move
    as a share of the side. rotation: largest angle in degrees. bend: standard deviation of a smooth displacement, as a
    share of the side. Returns float [B, 3, IMAGE_SIDE, IMAGE_SIDE] in [-1, 1].
    """
    count = len(rgba)
    size = rng.uniform(*scale, count)
    angle = np.radians(rng.uniform(-rotation, rotation, count))
    move = rng.uniform(-shift, shift, (count, 2)) * 2
    theta = np.zeros((count, 2, 3), dtype=np.float32)
    theta[:, 0, 0], theta[:, 0, 1] = np.cos(angle) / size, -np.sin(angle) / size
    theta[:, 1, 0], theta[:, 1, 1] = np.sin(angle) / size, np.cos(angle) / size
    theta[:, :, 2] = -np.einsum("bij,bj->bi", theta[:, :, :2], move)
    grid = F.affine_grid(torch.from_numpy(theta), [count, 4, IMAGE_SIDE, IMAGE_SIDE], align_corners=False)
    if bend:
        coarse = torch.from_numpy(rng.standard_normal((count, 2, 5, 5), dtype=np.float32) * 2 * bend)
        smooth = F.interpolate(coarse, (IMAGE_SIDE, IMAGE_SIDE), mode="bicubic", align_corners=False)
        grid = grid + smooth.permute(0, 2, 3, 1)
    placed = F.grid_sample(rgba.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (placed[:, :3] + 1 - placed[:, 3:]) * 2 - 1


def draw(rgba: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """The gentle placement that the generator and its text encoder learn from."""
    return place(rgba, rng, scale=(0.90, 0.96), shift=0.01)


def spoil(rgba: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """The hard placement the judges learn from: turned, shrunk, bent, recoloured, blurred, noisy."""
    images = place(rgba, rng, scale=(0.78, 1.02), shift=0.05, rotation=7, bend=0.02)
    count = len(images)
    uniform = lambda low, high: torch.from_numpy(rng.uniform(low, high, (count, 1, 1, 1)).astype(np.float32))  # noqa: E731
    images = images * uniform(0.8, 1.2) + uniform(-0.12, 0.12)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * uniform(0.6, 1.3)
    blur = torch.from_numpy(rng.choice([0.0, 0.6, 1.0, 1.5, 2.0, 2.5], count).astype(np.float32))
    images = torch.where(blur[:, None, None, None] > 0, gaussian_blur(images, blur.clamp(min=0.3)), images)
    return (images + grain(images.shape, rng) * uniform(0, 0.25)).clamp(-1, 1)


def grain(shape: torch.Size, rng: np.random.Generator) -> torch.Tensor:
    """Unit noise [B, C, H, W] of one grain for the whole batch, 1 to 8 pixels wide: a decoder's errors are smudges."""
    batch, channels, height, width = shape
    size = int(rng.choice([1, 2, 4, 8]))
    noise = rng.standard_normal((batch, channels, height // size, width // size), dtype=np.float32)
    return F.interpolate(torch.from_numpy(noise), (height, width), mode="bilinear" if size > 1 else "nearest")


def gaussian_blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Blur each image [B, 3, H, W] with its own standard deviation [B], in pixels."""
    radius = math.ceil(3 * float(sigma.max()))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(images.shape[1], 0)
    batch, channels, height, width = images.shape
    flat = F.pad(images.reshape(1, batch * channels, height, width), [radius] * 4, mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=batch * channels)
    return F.conv2d(flat, kernel[:, None, None, :], groups=batch * channels).reshape_as(images)
