"""The published algorithm, written down plainly: the other side of every speed ratio.

Bui et al., NeurIPS 2024, with the settings of the code published with it: one sample a step, both latents sampled anew from
the edited model by partial DDIM sampling, one image a call. It shares no code with `erase_core`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel


@dataclass(frozen=True)
class Published:
    """The published settings."""

    steps: int = 1000
    ddim_steps: int = 50
    guidance: float = 3.0
    negative_guidance: float = 1.0
    preservation_weight: float = 1.0
    temperature: float = 2.0
    learning_rate: float = 1e-5
    search_learning_rate: float = 1e-2
    search_steps: int = 1


def noise_of(unet: UNet2DConditionModel, z: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    """ε(z_t [1, C, h, w], t, c [L, d])."""
    return unet(z, t, encoder_hidden_states=condition[None]).sample


@torch.no_grad()
def partial_sample(
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
    condition: torch.Tensor,
    unconditional: torch.Tensor,
    stop: int,
    guidance: float,
    noise: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """z_t [1, C, h, w] and t, after `stop` DDIM steps with guidance from noise, both halves of the guidance in one call."""
    z, both = noise, torch.stack([condition, unconditional])
    for t in scheduler.timesteps[:stop]:
        with_condition, without = unet(torch.cat([z, z]), t, encoder_hidden_states=both).sample.split(1)
        z = scheduler.step(without + guidance * (with_condition - without), t, z).prev_sample
    return z, scheduler.timesteps[stop]


def mixture(
    logits: torch.Tensor, rows: torch.Tensor, temperature: float, gumbel: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """G(π) ⊙ R [L, d] by the straight-through one-hot, differentiable in π [K], and which row it is. rows: R [K, L, d]."""
    soft = torch.softmax((logits + gumbel) / temperature, dim=0)
    hard = torch.zeros_like(soft)
    hard[soft.argmax()] = 1.0
    return torch.einsum("k,kld->ld", hard - soft.detach() + soft, rows), soft.argmax()


def clean(z: torch.Tensor, noise: torch.Tensor, bar: torch.Tensor) -> torch.Tensor:
    """The z_0 that a noise prediction at z_t implies, for ᾱ_t: what the published code compares."""
    return (z - (1 - bar).sqrt() * noise) / bar.sqrt()


def erasing_loss(edited, original, z, t, bar, erased, neutral, settings: Published) -> torch.Tensor:
    """L1."""
    with torch.no_grad():
        at_neutral, at_erased = noise_of(original, z, t, neutral), noise_of(original, z, t, erased)
        target = at_neutral - settings.negative_guidance * (at_erased - at_neutral)
    return (clean(z, noise_of(edited, z, t, erased), bar) - clean(z, target, bar)).square().mean()


def preservation_loss(edited, original, z, t, bar, preserved) -> torch.Tensor:
    """L2, differentiable in c_a as well."""
    made, known = noise_of(edited, z, t, preserved), noise_of(original, z, t, preserved)
    return (clean(z, made, bar) - clean(z, known, bar)).square().mean()


def erase(
    unet: UNet2DConditionModel,
    scheduler,
    concepts: list[tuple[torch.Tensor, torch.Tensor]],
    unconditional: torch.Tensor,
    trained: Callable[[str], bool],
    settings: Published,
    seed: int = 0,
    after_step: Callable[[int, UNet2DConditionModel], bool] = lambda step, edited: False,
) -> UNet2DConditionModel:
    """Erase concepts, each c_e [L, d] with its R [K, L, d], and return θ'. Stops early when after_step says so.

    A step draws one c_a, which its latents, its search and its update share; published, search and update sample anew each.
    """
    rng = torch.Generator().manual_seed(seed)
    ddim = DDIMScheduler.from_config(scheduler.config, timestep_spacing="leading")
    ddim.set_timesteps(settings.ddim_steps)
    edited = copy.deepcopy(unet)
    parameters = [p.requires_grad_(trained(name)) for name, p in edited.named_parameters()]
    optimizer = torch.optim.Adam([p for p in parameters if p.requires_grad], lr=settings.learning_rate)
    logits = [torch.zeros(len(rows), requires_grad=True) for _, rows in concepts]
    searches = [torch.optim.Adam([each], lr=settings.search_learning_rate, maximize=True) for each in logits]
    shape = (1, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)

    def gumbel(count: int) -> torch.Tensor:
        return -torch.log(-torch.log(torch.rand(count, generator=rng).clamp(1e-20, 1 - 1e-7)))

    def latent(condition: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        stop = int(torch.randint(settings.ddim_steps, (1,), generator=rng))
        noise = torch.randn(shape, generator=rng)
        return partial_sample(edited, ddim, condition, unconditional, stop, settings.guidance, noise)

    for step in range(settings.steps):
        which = int(torch.randint(len(concepts), (1,), generator=rng))
        (erased, rows), pi = concepts[which], logits[which]
        drawn = gumbel(len(rows))
        with torch.no_grad():
            _, row = mixture(pi, rows, settings.temperature, drawn)
        z_e, t_e = latent(erased)
        z_a, t_a = latent(rows[row])
        bar_e, bar_a = ddim.alphas_cumprod[t_e], ddim.alphas_cumprod[t_a]
        for _ in range(settings.search_steps):
            preserved, _ = mixture(pi, rows, settings.temperature, drawn)
            gain = preservation_loss(edited, unet, z_a, t_a, bar_a, preserved)
            (pi.grad,) = torch.autograd.grad(gain, pi)
            searches[which].step()
        loss = erasing_loss(edited, unet, z_e, t_e, bar_e, erased, unconditional, settings)
        loss = loss + settings.preservation_weight * preservation_loss(edited, unet, z_a, t_a, bar_a, rows[row])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if after_step(step, edited):
            break
    return edited.requires_grad_(False)
