"""Noise predictions, and the distance between two of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from diffusers import SchedulerMixin

from ..cores import share_rows
from ..distributed.messages import at_work
from ..models.conditions import Layout

PLAIN = Layout()
Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""predict(z_t [B, C, h, w], t [B], c [B, R, d]) → ε [B, C, h, w]."""


def alphas_cumprod(scheduler: SchedulerMixin) -> torch.Tensor:
    """ᾱ_t for every timestep, float32 [T] on the CPU; never 0, so that ε and z_0 follow from each other at a zero terminal SNR."""
    return scheduler.alphas_cumprod.float().cpu().clamp(min=2**-24)


def noise_predictor(unet: Callable, scheduler: SchedulerMixin, layout: Layout = PLAIN) -> Predict:
    """Wrap a UNet so that it predicts ε whatever its own prediction type is (epsilon, v_prediction or sample)."""
    kind, bars = scheduler.config.prediction_type, alphas_cumprod(scheduler)

    def predict(latents: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        # A step that samples trajectories can take hours on a CPU.
        at_work()
        output = unet(latents, timesteps, **layout.arguments(embeddings)).sample.float()
        if kind == "epsilon":
            return output
        bar = bars.to(latents.device)[timesteps].reshape(-1, 1, 1, 1)
        if kind == "v_prediction":
            return bar.sqrt() * output + (1 - bar).sqrt() * latents
        return (latents - bar.sqrt() * output) / (1 - bar).sqrt()

    return predict


def in_precision(forward: Callable, precision: str, device: torch.device) -> Callable:
    """A UNet, or a UNet's forward, computed in fp32 or under autocast to bf16."""

    def computed(*arguments, **named):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            return forward(*arguments, **named)

    return computed


def over_cores(predict: Predict) -> Predict:
    """The same, its rows shared among a CPU's cores; without gradients, and for a UNet whose layers all lie on this rank."""
    return partial(share_rows, predict)


def each_once(predict: Predict) -> Predict:
    """The same, with rows that are equal predicted once; without gradients. Samples of one condition may have drawn one latent."""

    def run(latents: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        rows = torch.cat([latents.flatten(1), timesteps[:, None].to(latents), embeddings.flatten(1).to(latents)], dim=1)
        _, kinds = rows.unique(dim=0, return_inverse=True)
        of_kind = {kind: row for row, kind in enumerate(kinds.tolist())}
        if len(of_kind) == len(rows):
            return predict(latents, timesteps, embeddings)
        at = [row for _, row in sorted(of_kind.items())]
        return predict(latents[at], timesteps[at], embeddings[at])[kinds]

    return run


def loss_weights(weighting: str, bars: torch.Tensor) -> torch.Tensor:
    """w_t for every timestep, from ᾱ_t [T]: 1 for "epsilon", (1 − ᾱ_t) / ᾱ_t for "clean".

    The latter makes w_t (a − b)² the squared distance between the predicted clean latents z_0 = (z_t − √(1 − ᾱ_t) ε) / √ᾱ_t.
    """
    return (1 - bars) / bars if weighting == "clean" else torch.ones_like(bars)


def weight_at(weights: torch.Tensor, timesteps: dict[str, torch.Tensor], noised: torch.Tensor | None = None) -> float:
    """The largest, over a step's latents, of the mean of `distance_at`'s weights."""
    return max(float(of(name, weights, noised)[at.cpu()].mean()) for name, at in timesteps.items())


def distance_at(
    weights: torch.Tensor, timesteps: dict[str, torch.Tensor], noised: torch.Tensor | None = None
) -> Callable:
    """The distance(a, b, which) of a step: the mean over samples and elements of weights_t (a − b)².

    weights: [T], one for each timestep. noised: [T], those of the latents of that name, when theirs are others. `which` names the
    latents whose timesteps [B] apply.
    """

    def distance(a: torch.Tensor, b: torch.Tensor, which: str) -> torch.Tensor:
        weight = of(which, weights, noised).to(a)[timesteps[which]].reshape(-1, *[1] * (a.ndim - 1))
        return (weight * (a - b).square()).mean()

    return distance


def of(latents: str, weights: torch.Tensor, noised: torch.Tensor | None) -> torch.Tensor:
    return weights if noised is None or latents != "noised" else noised
