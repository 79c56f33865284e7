"""What a step hands to each method's losses: the stated predictions, under the stated conditions, at the stated latents."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from erase_core import methods
from erase_core.models.pipeline import twin
from erase_core.models.prompts import encode
from erase_core.models.trainable import trainable_names
from erase_core.randomness import Streams
from erase_core.search.choosers import chooser_of
from erase_core.spec import Method
from erase_core.training.latents import Sampler, TrajectoryBank
from erase_core.training.predictions import alphas_cumprod, noise_predictor
from erase_core.training.step import SPECIAL, ErasedConcept, draw, frozen_predictions, predict

WORDS, PROMPTS = ["bus", "car", "apple"], ["taxi", "a taxi"]
BROADER = "vehicle"
GIVEN = {"fixed": {"words": WORDS}, "esd": {"erase_from": BROADER}, "age": {"mixed": 2}}
SAMPLES = 6


@pytest.fixture
def models(tiny_pipeline):
    """θ and a θ' that differs from it, as plain UNets."""
    edited = twin(tiny_pipeline.unet, trainable_names(tiny_pipeline.unet, "xattn"))
    with torch.no_grad():
        for name in trainable_names(tiny_pipeline.unet, "xattn"):
            edited.get_parameter(name).mul_(1.3)
    return tiny_pipeline.unet, edited


def bank_of(pipeline, empty: torch.Tensor, neutral: torch.Tensor) -> TrajectoryBank:
    sampler = Sampler(pipeline.scheduler, (4, 8, 8), empty, neutral, steps=4, guidance=3.0)
    return TrajectoryBank(sampler, noise_predictor(pipeline.unet, pipeline.scheduler), trajectories=2, seed=1)


def lies_on(states: torch.Tensor, timesteps: torch.Tensor, z: torch.Tensor, t: torch.Tensor) -> bool:
    """Whether z is what one of a word's trajectories [N, steps + 1, C, h, w] is at t."""
    (step,) = (timesteps == t).nonzero().flatten().tolist()
    return any(torch.allclose(state, z, atol=1e-4) for state in states[:, step])


@pytest.mark.parametrize("name", [n for n in methods.names() if not methods.solves(methods.load(n))])
def test_each_prediction_is_the_stated_one(name: str, tiny_pipeline, models) -> None:
    losses, settings = methods.load(name), Method(name=name, **GIVEN.get(name, {})).settings
    empty, neutral, broader = encode(tiny_pipeline, ["", "a photo", BROADER])
    prompts, rows = encode(tiny_pipeline, PROMPTS), encode(tiny_pipeline, WORDS)
    subject = (BROADER, broader) if getattr(settings, "erase_from", None) else None
    concept = ErasedConcept("taxi", PROMPTS, prompts, WORDS, rows, [[1], [2]], subject)
    chooser = chooser_of(losses.CHOICE, "taxi", prompts[0], WORDS, rows, settings, len(WORDS))
    if losses.CHOICE == "prompt":
        # Learnt by now: no longer c_e's own last tokens.
        chooser.tokens.data.mul_(-2)
    bank = bank_of(tiny_pipeline, empty, neutral)
    edited_names = [*losses.EDITED, *getattr(losses, "TEACHER", ())]
    names = [*edited_names, *losses.FROZEN]
    at = draw(names, concept, chooser, bank, neutral, Streams(5, samples=range(SAMPLES)))

    texts, chosen = [PROMPTS[p] for p in at.prompts], at.choice
    stated = {"erased": prompts[at.prompts], "neutral": neutral.expand(SAMPLES, -1, -1)}
    drawn_for = {"erased": list(zip(texts, stated["erased"]))}
    if losses.CHOICE == "prompt":
        stated["prompted"] = torch.cat([stated["erased"], chooser.tokens.detach().expand(SAMPLES, -1, -1)], dim=1)
    elif losses.CHOICE == "pgd":
        stated["preserved"] = chooser.position.expand(SAMPLES, -1, -1)
    elif chosen is not None and chosen.weights is not None and name == "age":
        stated["preserved"] = torch.einsum("bk,kld->bld", chosen.weights, rows)
    elif chosen is not None:
        stated["preserved"] = rows[[WORDS.index(word) for word in chosen.words]]
    if chosen is not None and losses.CHOICE != "prompt":
        drawn_for["preserved"] = list(zip(*chosen.at))
    if subject:
        stated["subject"] = broader.expand(SAMPLES, -1, -1)
        drawn_for["subject"] = [subject] * SAMPLES
    else:
        stated["subject"], drawn_for["subject"] = stated["erased"], drawn_for["erased"]

    # The words' trajectories, sampled by themselves.
    named = {word: embedding for drawn in drawn_for.values() for word, embedding in drawn}
    states = {word: torch.from_numpy(bank.sampled(word, embedding)["z"]) for word, embedding in named.items()}
    frozen_unet, edited_unet = models
    frozen, edited = (noise_predictor(unet, tiny_pipeline.scheduler) for unet in models)
    with torch.no_grad():
        found = {
            "edited": predict(edited, [n for n in edited_names if n not in SPECIAL], at),
            "frozen": frozen_predictions(frozen, [n for n in losses.FROZEN if n not in SPECIAL], at),
        }
    for unet, predictions in ((edited_unet, found["edited"]), (frozen_unet, found["frozen"])):
        for prediction, value in predictions.items():
            condition, _, latents = prediction.partition("@")
            z, t = at.latents[latents or condition].latents, at.latents[latents or condition].timesteps
            for row, (word, _) in enumerate(drawn_for[latents or condition]):
                assert lies_on(states[word], bank.sampler.timesteps, z[row], t[row]), (prediction, word)
            with torch.no_grad():
                wanted = unet(z, t, encoder_hidden_states=stated[condition]).sample
            assert torch.allclose(value, wanted, atol=1e-4), prediction
    if "noised" in at.latents:
        assert len(at.latents["noised"].latents) == SAMPLES


def test_a_share_of_the_preserved_samples_is_neutral(tiny_pipeline, models) -> None:
    """Of the neutral concept at the chosen word's latents, in what is asked of both models."""
    losses, settings = methods.load("adversarial"), Method(name="adversarial").settings
    empty, neutral = encode(tiny_pipeline, ["", "a photo"])
    prompts, rows = encode(tiny_pipeline, PROMPTS), encode(tiny_pipeline, WORDS)
    concept = ErasedConcept("taxi", PROMPTS, prompts, WORDS, rows, [[1], [2]])
    chooser = chooser_of(losses.CHOICE, "taxi", prompts[0], WORDS, rows, settings, len(WORDS))
    bank = bank_of(tiny_pipeline, empty, neutral)
    at = draw(["preserved"], concept, chooser, bank, neutral, Streams(5, samples=range(40)), neutral_share=0.5)
    own = rows[[WORDS.index(word) for word in at.choice.words]]
    kept = [torch.equal(condition, neutral) for condition in at.conditions["preserved"]]
    assert 10 < sum(kept) < 30
    assert all(kept[i] or torch.equal(at.conditions["preserved"][i], own[i]) for i in range(40))
    z, t = at.latents["preserved"].latents, at.latents["preserved"].timesteps
    frozen = noise_predictor(tiny_pipeline.unet, tiny_pipeline.scheduler)
    with torch.no_grad():
        wanted = frozen(z, t, at.conditions["preserved"])
    assert torch.allclose(frozen_predictions(frozen, ["preserved"], at)["preserved"], wanted, atol=1e-4)


def test_images_are_noised_by_the_schedule(tiny_pipeline) -> None:
    """z_t = √ᾱ_t z_0 + √(1 − ᾱ_t) n, in float64, from a finished latent of the concept's own trajectories."""
    empty, under = encode(tiny_pipeline, ["", "taxi"])
    bank = bank_of(tiny_pipeline, empty, empty)
    found = bank.draw_noised(["taxi"] * SAMPLES, under.expand(SAMPLES, -1, -1), Streams(5, samples=range(SAMPLES)))
    same = Streams(5, samples=range(SAMPLES))
    which, t, noise = same.integers(2), same.integers(1000), same.normal(4, 8, 8)
    assert torch.equal(found.timesteps, t) and len(set(t.tolist())) > 1 and len(set(which.tolist())) == 2
    bars = alphas_cumprod(tiny_pipeline.scheduler).double().numpy()[t.numpy()][:, None, None, None]
    finished = bank.sampled("taxi", under)["z"][which.numpy(), -1].astype(np.float64)
    wanted = np.sqrt(bars) * finished + np.sqrt(1 - bars) * noise.double().numpy()
    assert np.allclose(found.latents.numpy(), wanted, atol=1e-5)
