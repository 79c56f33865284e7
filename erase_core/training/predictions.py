"""Noise predictions, and the distance between two of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from diffusers import SchedulerMixin

from ..cores import share_rows
from ..models.conditions import Layout

PLAIN = Layout()
Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""predict(z_t [B, C, h, w], t [B], c [B, R, d]) → ε [B, C, h, w]."""


def alphas_cumprod(scheduler: SchedulerMixin) -> torch.Tensor:
    """ᾱ_t for every timestep, float32 [T]; never 0, so that ε and z_0 follow from each other at a zero terminal SNR too."""
    return scheduler.alphas_cumprod.float().clamp(min=2**-24)


def noise_predictor(
    unet: Callable, scheduler: SchedulerMixin, autocast: torch.dtype | None = None, layout: Layout = PLAIN
) -> Predict:
    """Wrap a UNet so that it predicts ε whatever its own prediction type is (epsilon, v_prediction or sample)."""
    kind, bars = scheduler.config.prediction_type, alphas_cumprod(scheduler)

    def predict(latents: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        with torch.autocast(latents.device.type, autocast or torch.float32, enabled=autocast is not None):
            output = unet(latents, timesteps, **layout.arguments(embeddings)).sample
        output = output.float()
        if kind == "epsilon":
            return output
        bar = bars.to(latents.device)[timesteps].reshape(-1, 1, 1, 1)
        if kind == "v_prediction":
            return bar.sqrt() * output + (1 - bar).sqrt() * latents
        return (latents - bar.sqrt() * output) / (1 - bar).sqrt()

    return predict


def over_cores(predict: Predict) -> Predict:
    """The same, its rows shared among a CPU's cores; without gradients, and for a UNet whose layers all lie on this rank."""
    return partial(share_rows, predict)


def loss_weights(weighting: str, bars: torch.Tensor) -> torch.Tensor:
    """w_t for every timestep, from ᾱ_t [T]: 1 for "epsilon", (1 − ᾱ_t) / ᾱ_t for "clean".

    The latter makes w_t (a − b)² the squared distance between the predicted clean latents z_0 = (z_t − √(1 − ᾱ_t) ε) / √ᾱ_t.
    """
    return (1 - bars) / bars if weighting == "clean" else torch.ones_like(bars)


def weight_at(weights: torch.Tensor, timesteps: dict[str, torch.Tensor]) -> float:
    """The largest, over a step's latents, of the mean of `distance_at`'s weights."""
    return max(float(weights[at.cpu()].mean()) for at in timesteps.values())


def distance_at(weights: torch.Tensor, timesteps: dict[str, torch.Tensor]) -> Callable:
    """The distance(a, b, which) of a step: the mean over samples and elements of weights_t (a − b)².

    weights: [T], one for each timestep. `which` names the latents whose timesteps [B] apply.
    """

    def distance(a: torch.Tensor, b: torch.Tensor, which: str) -> torch.Tensor:
        weight = weights.to(a)[timesteps[which]].reshape(-1, *[1] * (a.ndim - 1))
        return (weight * (a - b).square()).mean()

    return distance
