"""Steps of the searches on a tiny model."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from erase_core import methods
from erase_core.models.pipeline import twin
from erase_core.models.trainable import trainable_names
from erase_core.randomness import Streams
from erase_core.search.gumbel import GumbelSearch
from erase_core.search.projected import ProjectedSearch
from erase_core.spec import Method
from erase_core.training.latents import Sampler, TrajectoryBank
from erase_core.training.predictions import distance_at, noise_predictor
from erase_core.training.searching import Searching, by_gradient, by_measuring
from tests.erase_core.tiny_training import WORDS, inputs


def test_rounding_leads_nowhere(tiny_pipeline) -> None:
    """Before the first update all that θ' differs in is rounding, which a normed gradient would take for a direction."""
    unet, scheduler, (concept,), conditions = inputs(tiny_pipeline)
    frozen = noise_predictor(unet, scheduler)
    sampler = Sampler(scheduler, (4, 8, 8), conditions.unconditional, conditions.neutral, steps=3, guidance=3.0)
    bank = TrajectoryBank(sampler, frozen, trajectories=2, seed=1)
    distance, settings = partial(distance_at, torch.ones(1000)), Method(name="adversarial-pgd").settings
    moved = []
    for off in (1e-6, 1e-2):
        edited = lambda *given, off=off: frozen(*given) * (1 + off)  # noqa: E731
        start = concept.embeddings[0]
        search = ProjectedSearch(
            "taxi", start, WORDS, concept.candidates, norm="l2", radius=1.0, step_size=settings.step_size
        )
        given = Searching(
            methods.load("adversarial-pgd"), settings, edited, edited, frozen, bank, conditions.neutral, distance
        )
        by_gradient(given, concept, search, Streams(7, samples=range(2)))
        moved.append(float((search.position - start).norm() / start.norm()))
    assert moved[0] == 0 and abs(moved[1] - settings.step_size) < 1e-4


def test_the_search_ascends_by_how_much_more_a_word_is_hurt_than_its_rivals(tiny_pipeline) -> None:
    """π's gradient in float64 numpy: each rival's L2, less its sample's mean and as a share of it, in the mean over all draws."""
    unet, scheduler, (concept,), conditions = inputs(tiny_pipeline)
    settings = Method(name="adversarial", rivals=5).settings
    edited_unet = twin(unet, trainable_names(unet, "xattn"))
    with torch.no_grad():
        for name in trainable_names(unet, "xattn"):
            edited_unet.get_parameter(name).mul_(1.3)
    frozen, edited = noise_predictor(unet, scheduler), noise_predictor(edited_unet, scheduler)
    sampler = Sampler(scheduler, (4, 8, 8), conditions.unconditional, conditions.neutral, steps=3, guidance=3.0)
    bank = TrajectoryBank(sampler, frozen, trajectories=2, seed=1)
    distance = partial(distance_at, torch.ones(1000))
    losses = methods.load("adversarial")
    searching = Searching(losses, settings, edited, edited, frozen, bank, conditions.neutral, distance)
    search = GumbelSearch(WORDS, concept.candidates, temperature=2.0, learning_rate=0.1)
    streams, same = Streams(7, samples=range(3)), Streams(7, "rivals", samples=[s for s in range(3) for _ in range(5)])
    rows, _ = search.rivals(Streams(7, samples=range(3)), 5)
    by_measuring(searching, concept, search, streams, same)

    wanted = np.zeros(len(WORDS))
    for sample, drawn in enumerate(rows.tolist()):
        hurt = []
        for row in drawn:
            under = concept.candidates[[row]]
            at = bank.draw([WORDS[row]], under, under, Streams(7, "rivals", samples=[sample]))
            with torch.no_grad():
                apart = edited(at.latents, at.timesteps, under) - frozen(at.latents, at.timesteps, under)
            hurt.append(apart.double().square().mean().item())
        for row, loss in zip(drawn, hurt):
            wanted[row] += (loss - np.mean(hurt)) / np.mean(hurt) / rows.numel()
    assert np.abs(wanted).max() > 1e-3
    assert np.allclose(search.logits.grad.numpy(), wanted, atol=1e-5)
    moved = np.abs(wanted) > 1e-4
    assert (np.sign(search.logits.detach().numpy()[moved]) == np.sign(wanted[moved])).all()
