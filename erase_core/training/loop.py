"""The one training loop: search for the preserved concept, then update the edited UNet."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import SchedulerMixin, UNet2DConditionModel

from .. import methods
from ..models.pipeline import twin
from ..models.trainable import trainable_names
from ..randomness import generator
from ..search.gumbel import GumbelSearch
from ..search.uniform import UniformChoice
from ..spec import Method, Training
from . import checkpoint
from .engine import average, export, start_engine
from .latents import FreshLatents, Latents, Sampler, TrajectoryBank
from .predictions import Predictions, alphas_cumprod, distance_at, noise_predictor


class Diverged(RuntimeError):
    """The loss stopped being a number or grew out of bounds; the last checkpoint is still there."""


@dataclass(frozen=True)
class ErasedConcept:
    """A concept to erase: its prompts' embeddings [P, L, d], and its candidates for preservation [K, L, d]."""

    name: str
    prompts: list[str]
    embeddings: torch.Tensor
    candidate_words: list[str]
    candidates: torch.Tensor | None


@dataclass(frozen=True)
class Conditions:
    """Prompt embeddings [L, d] of "" and of the neutral concept c_n."""

    unconditional: torch.Tensor
    neutral: torch.Tensor


Record = dict[str, object]


def train(
    unet: UNet2DConditionModel,
    scheduler: SchedulerMixin,
    concepts: list[ErasedConcept],
    conditions: Conditions,
    method: Method,
    training: Training,
    seed: int,
    checkpoints: Path | None = None,
    on_record: Callable[[Record], None] = lambda record: None,
) -> dict[str, torch.Tensor]:
    """Erase `concepts` from a copy of `unet` and return the trained weights by name.

    `unet` is θ and stays as it is. Goes on from the newest checkpoint in `checkpoints`, if there is one. Every rank calls
    this with the same arguments. Raises Diverged when a loss is not a number or out of bounds.
    """
    losses, settings = methods.load(method.name), method.settings
    trained = trainable_names(unet, training.trainable)
    # ZeRO 3 takes every parameter of the engine's model apart, so nothing may be shared with θ.
    owned = trained if training.zero_stage < 3 else trainable_names(unet, "full")
    edited_unet = twin(unet, owned).train()
    engine = start_engine(edited_unet, trained, training)
    rank = checkpoint.rank()

    autocast = torch.bfloat16 if training.precision == "bf16" else None
    frozen = noise_predictor(unet, scheduler, autocast)
    edited = noise_predictor(engine, scheduler, autocast)
    edited_for_search = noise_predictor(engine.module, scheduler, autocast)
    bars = alphas_cumprod(scheduler)

    side = unet.config.sample_size
    height, width = (side, side) if isinstance(side, int) else side
    sampler = Sampler(
        scheduler,
        (unet.config.in_channels, height, width),
        conditions.unconditional,
        conditions.neutral,
        training.latent_steps,
        training.latent_guidance,
    )
    if training.latents == "fresh":
        source = FreshLatents(sampler, edited_for_search)
    else:
        source = TrajectoryBank(sampler, frozen, training.trajectories, seed)
    choosers = [chooser_of(losses.PRESERVES, concept, settings) for concept in concepts]

    records: list[Record] = []
    start = 0
    newest = checkpoint.latest(checkpoints) if checkpoints else None
    if newest is not None:
        state = checkpoint.load(newest, engine)
        start, records = state["step"], state["records"]
        for search, saved in zip(searches_of(choosers), state["searches"]):
            search.load_state_dict(saved)
        for record in records:
            on_record(record)

    def record(
        step: int, phase: str, concept: ErasedConcept, chooser, choice, began: float, erasing=None, preservation=None
    ):
        values = average(torch.tensor([math.nan if v is None else float(v.detach()) for v in (erasing, preservation)]))
        erasing, preservation = (None if v is None else float(mean) for v, mean in zip((erasing, preservation), values))
        for name, value in (("erasing", erasing), ("preservation", preservation)):
            if value is None:
                continue
            first = next((r[f"{name}_loss"] for r in records if r[f"{name}_loss"]), None)
            if not abs(value) <= training.divergence * max(first or 1.0, 1e-3):
                kept = newest_step(checkpoints)
                told = f" (the checkpoint of step {kept} is kept)" if kept else ""
                raise Diverged(
                    f"training: the {name} loss is {value:.3g} at step {step}; lower training.learning_rate{told}"
                )
        word, probability = favourite(chooser, choice)
        row = {
            "step": step,
            "phase": phase,
            "concept": concept.name,
            "word": word,
            "probability": probability,
            "drawn": choice.words if choice is not None else [],
            "erasing_loss": erasing,
            "preservation_loss": preservation,
            "seconds": time.perf_counter() - began,
        }
        records.append(row)
        on_record(row)

    for step in range(start, training.steps):
        rng = generator(seed, "step", step, rank)
        index = step % len(concepts)
        concept, chooser = concepts[index], choosers[index]

        for _ in range(settings.search_steps if isinstance(chooser, GumbelSearch) else 0):
            began = time.perf_counter()
            choice = chooser.choose(training.batch_size, rng)
            at = source.draw(choice.words, choice.embeddings, rng)
            embeddings = choice.embeddings.clone().requires_grad_(True)
            distance = distance_at(settings.weighting, bars, {"preserved": at.timesteps})
            hurt = losses.preservation_loss(
                Predictions(preserved=edited_for_search(at.latents, at.timesteps, embeddings)),
                Predictions(preserved=frozen(at.latents, at.timesteps, embeddings)),
                settings,
                distance,
            )
            (gradient,) = torch.autograd.grad(hurt, embeddings)
            chooser.ascend(average(chooser.logit_gradient(choice, gradient)))
            record(step, "search", concept, chooser, choice, began, preservation=hurt)

        began = time.perf_counter()
        prompts = torch.randint(len(concept.prompts), (training.batch_size,), generator=rng).tolist()
        wanted = concept.embeddings[prompts]
        erased = source.draw([concept.prompts[p] for p in prompts], wanted, rng)
        choice = chooser.choose(training.batch_size, rng) if chooser else None
        preserved = source.draw(choice.words, choice.embeddings, rng) if choice else None
        known = frozen_predictions(frozen, conditions.neutral, erased, wanted, preserved, choice, settings)

        if preserved is None:
            made = Predictions(erased=edited(erased.latents, erased.timesteps, wanted))
            times = {"erased": erased.timesteps}
        else:
            both = edited(
                torch.cat([erased.latents, preserved.latents]),
                torch.cat([erased.timesteps, preserved.timesteps]),
                torch.cat([wanted, choice.embeddings]),
            )
            made = Predictions(erased=both[: len(wanted)], preserved=both[len(wanted) :])
            times = {"erased": erased.timesteps, "preserved": preserved.timesteps}
        distance = distance_at(settings.weighting, bars, times)
        erasing = losses.erasing_loss(made, known, settings, distance)
        preservation = losses.preservation_loss(made, known, settings, distance) if preserved is not None else None
        loss = erasing if preservation is None else erasing + settings.preservation_weight * preservation
        record(step, "update", concept, chooser, choice, began, erasing, preservation)
        engine.backward(loss)
        engine.step()

        if checkpoints and ((step + 1) % training.checkpoint_every == 0) and step + 1 < training.steps:
            checkpoint.save(checkpoints, step + 1, engine, [s.state_dict() for s in searches_of(choosers)], records)

    weights = export(engine, trained)
    unet_is_finite = all(bool(torch.isfinite(value).all()) for value in weights.values())
    if not unet_is_finite:
        raise Diverged("training: a trained weight is not a number; lower training.learning_rate")
    engine.destroy()
    return weights


def chooser_of(kind: str | None, concept: ErasedConcept, settings):
    """The search or draw that a method's PRESERVES names; None when nothing is preserved."""
    if kind is None:
        return None
    if kind == "gumbel":
        return GumbelSearch(
            concept.candidate_words,
            concept.candidates,
            temperature=settings.temperature,
            hard=settings.gumbel == "hard",
            learning_rate=settings.search_learning_rate,
        )
    return UniformChoice(concept.candidate_words, concept.candidates)


def searches_of(choosers: list) -> list[GumbelSearch]:
    return [chooser for chooser in choosers if isinstance(chooser, GumbelSearch)]


def favourite(chooser, choice) -> tuple[str | None, float | None]:
    """The word that π favours and its probability; for an even draw, the first word drawn."""
    if isinstance(chooser, GumbelSearch):
        probabilities = torch.softmax(chooser.logits.detach(), 0)
        best = int(probabilities.argmax())
        return chooser.words[best], float(probabilities[best])
    return (choice.words[0], float(choice.probabilities[0])) if choice is not None else (None, None)


def newest_step(checkpoints: Path | None) -> int | None:
    newest = checkpoint.latest(checkpoints) if checkpoints else None
    return int(newest.name.removeprefix("step-")) if newest else None


@torch.no_grad()
def frozen_predictions(
    frozen, neutral, erased: Latents, wanted, preserved: Latents | None, choice, settings
) -> Predictions:
    """θ's predictions that an update's losses need: read from the latents where they are known, computed where not.

    A soft mixture is not the word whose trajectory it borrows, so its prediction is always computed.
    """
    at_concept, at_neutral = erased.conditional, erased.neutral
    if at_concept is None:
        stacked = torch.cat([wanted, neutral.expand_as(wanted)])
        at_concept, at_neutral = frozen(erased.latents.repeat(2, 1, 1, 1), erased.timesteps.repeat(2), stacked).chunk(2)
    kept = None
    if preserved is not None:
        kept = preserved.conditional
        if kept is None or getattr(settings, "gumbel", "hard") == "soft":
            kept = frozen(preserved.latents, preserved.timesteps, choice.embeddings)
    return Predictions(erased=at_concept, neutral=at_neutral, preserved=kept)
