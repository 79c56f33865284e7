"""The plain loop that speed is measured against has the same gradients as the training loop, for the same noise."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from benchmarks import reference_loop as plain
from erase_core.methods import adversarial
from erase_core.models.prompts import encode
from erase_core.models.trainable import CHOICES
from erase_core.randomness import Streams
from erase_core.search.gumbel import GumbelSearch
from erase_core.training.latents import Sampler
from erase_core.training.predictions import alphas_cumprod, distance_at, loss_weights, noise_predictor

WORDS = ["bus", "car", "apple", "dog"]


@pytest.fixture
def pair(tiny_pipeline):
    """θ and a θ' that differs from it."""
    edited = copy.deepcopy(tiny_pipeline.unet)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in edited.named_parameters():
            parameter.requires_grad_(CHOICES["xattn"](name))
            if CHOICES["xattn"](name):
                parameter += 0.1 * torch.randn_like(parameter)
    return tiny_pipeline.unet, edited


def test_latents(pair, tiny_pipeline) -> None:
    unet, _ = pair
    condition, unconditional = encode(tiny_pipeline, ["a taxi", ""])
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    ddim = DDIMScheduler.from_config(tiny_pipeline.scheduler.config, timestep_spacing="leading")
    ddim.set_timesteps(5)
    z, t = plain.partial_sample(unet, ddim, condition, unconditional, 3, 3.0, noise)
    sampler = Sampler(tiny_pipeline.scheduler, (4, 8, 8), unconditional, unconditional, 5, 3.0)
    *_, (ours, at, *_) = sampler.run(noise_predictor(unet, tiny_pipeline.scheduler), condition[None], noise, 3)
    assert t == at and torch.allclose(z, ours, atol=1e-5)


def test_gradients(pair, tiny_pipeline) -> None:
    unet, edited = pair
    erased, neutral = encode(tiny_pipeline, ["a taxi", ""])
    rows = encode(tiny_pipeline, WORDS)
    rng = torch.Generator().manual_seed(2)
    z_e, z_a = torch.randn(2, 1, 4, 8, 8, generator=rng)
    t_e, t_a = torch.tensor(301), torch.tensor(701)
    settings = adversarial.Settings(preservation_weight=1.0, negative_guidance=1.0)
    times = {"erased": t_e[None], "preserved": t_a[None]}
    bars = alphas_cumprod(tiny_pipeline.scheduler)
    distance = distance_at(loss_weights("clean", bars), times)
    theirs, ours = (noise_predictor(model, tiny_pipeline.scheduler) for model in (unet, edited))

    search = GumbelSearch(WORDS, rows, temperature=2.0, learning_rate=1e-2)
    choice = search.choose(Streams(3, samples=[0]))
    chosen = choice.embeddings.clone().requires_grad_(True)
    gain = adversarial.search_loss(
        {"preserved": ours(z_a, t_a[None], chosen)}, {"preserved": theirs(z_a, t_a[None], chosen)}, settings, distance
    )
    (gradient,) = torch.autograd.grad(gain, chosen)
    found = search.gradient(choice, gradient)

    logits = torch.zeros(len(WORDS), requires_grad=True)
    (uniform,) = Streams(3, samples=[0]).uniform(len(WORDS)).clamp_(1e-20, 1 - 1e-7)
    preserved, row = plain.mixture(logits, rows, 2.0, -torch.log(-torch.log(uniform)))
    plain_gain = plain.preservation_loss(edited, unet, z_a, t_a, bars[t_a], preserved)
    (wanted,) = torch.autograd.grad(plain_gain, logits)
    assert WORDS[row] == choice.words[0] and torch.allclose(gain, plain_gain)
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-6 * wanted.abs().max()) and wanted.abs().max() > 0

    published = plain.Published()
    total = plain.erasing_loss(edited, unet, z_e, t_e, bars[t_e], erased, neutral, published)
    total = total + published.preservation_weight * plain.preservation_loss(
        edited, unet, z_a, t_a, bars[t_a], rows[row]
    )
    trained = [p for p in edited.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(total, trained)
    with torch.no_grad():
        frozen = {
            "erased": theirs(z_e, t_e[None], erased[None]),
            "neutral@erased": theirs(z_e, t_e[None], neutral[None]),
            "preserved": theirs(z_a, t_a[None], rows[row][None]),
        }
    both = ours(torch.cat([z_e, z_a]), torch.stack([t_e, t_a]), torch.stack([erased, rows[row]]))
    made = dict(zip(("erased", "preserved"), both.split(1)))
    loss = adversarial.erasing_loss(made, frozen, settings, distance)
    loss = loss + settings.preservation_weight * adversarial.preservation_loss(made, frozen, settings, distance)
    found = torch.autograd.grad(loss, trained)
    for a, b in zip(found, wanted):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()))


def test_the_whole_loop_calls_and_trains_what_is_published(tiny_pipeline, monkeypatch) -> None:
    """A step: two samplings; both models in the search, θ' once and θ twice for L1, both for L2. Only what is chosen changes.

    The preserved word's latent, its search and its update are of one word.
    """
    calls, stops, sampled_of, compared_at = [], [], [], []
    forward, sampled = UNet2DConditionModel.forward, plain.partial_sample

    def counted(self, sample, *arguments, **named):
        calls.append(len(sample))
        if len(sample) == 1:
            compared_at.append(named["encoder_hidden_states"][0].detach())
        return forward(self, sample, *arguments, **named)

    def stopped(unet, ddim, condition, unconditional, stop, *rest):
        stops.append(stop)
        sampled_of.append(condition)
        return sampled(unet, ddim, condition, unconditional, stop, *rest)

    monkeypatch.setattr(UNet2DConditionModel, "forward", counted)
    monkeypatch.setattr(plain, "partial_sample", stopped)
    erased, unconditional = encode(tiny_pipeline, ["a taxi", ""])
    concepts, settings = [(erased, encode(tiny_pipeline, WORDS))], plain.Published(steps=5, ddim_steps=4)
    arguments = (tiny_pipeline.unet, tiny_pipeline.scheduler, concepts, unconditional, CHOICES["xattn"], settings)
    seen = []
    edited = plain.erase(*arguments, after_step=lambda step, unet: seen.append(step) or step == 2)
    assert seen == [0, 1, 2] and len(stops) == 2 * 3 and sum(stops) > 0
    assert calls.count(2) == sum(stops) and calls.count(1) == 3 * (2 + 3 + 2)
    for step in range(3):
        words, at = sampled_of[2 * step : 2 * step + 2], compared_at[7 * step : 7 * step + 7]
        wanted = [words[1], words[1], unconditional, words[0], words[0], words[1], words[1]]
        assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(at, wanted, strict=True))
    before = tiny_pipeline.unet.state_dict()
    changed = {name for name, value in edited.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(CHOICES["xattn"](name) for name in changed)
