"""The one training loop: search for c_a, then update the edited UNet."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from diffusers import SchedulerMixin, UNet2DConditionModel

from .. import methods
from ..distributed.group import average, gather, of_first, rank, world_size
from ..models.attention import AttentionRecord
from ..models.pipeline import hold_in_half, twin
from ..models.trainable import trainable_names
from ..randomness import Streams
from ..search.choosers import Chooser, chooser_of
from ..spec import Method, Training
from . import checkpoint
from .closed_form import solve_layers
from .engine import export, restore_moments, set_learning_rate, start_engine
from .latents import FreshLatents, TrajectoryBank
from .predictions import alphas_cumprod, distance_at, in_precision, loss_weights, noise_predictor, over_cores, weight_at
from .records import LOSSES, Diverged, Record, record_of, require_bounds
from .result import put_weights
from .searching import Searching, attacked, by_gradient, by_measuring
from .step import (
    SPECIAL,
    Conditions,
    ErasedConcept,
    Step,
    concept_attention,
    draw,
    frozen_predictions,
    predict,
    sampler_of,
)


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
    on_search: Callable[[int, str, torch.Tensor], None] | None = None,
    trajectories: Path | None = None,
    on_update: Callable[[int, torch.nn.Module], None] | None = None,
) -> dict[str, torch.Tensor]:
    """Erase `concepts` from a copy of `unet` and return the trained weights by name.

    `unet` is θ and stays as it is, but for what a frozen_precision of bf16 (its weights are rounded in place) and attention_slicing
    do to it. Goes on from the
    newest checkpoint in `checkpoints`, if there is one. Every rank calls this with the same arguments. on_search is given the
    step, the concept and the searched c_a after each search step, on_update the step and the edited UNet after each update; with
    ZeRO 3 its weights are not whole then. trajectories is a folder that runs on this model share their latents in.
    Raises Diverged when a loss is not a number or out of bounds.
    """
    losses, settings = methods.load(method.name), method.settings
    trained = trainable_names(unet, training.trainable)
    if methods.solves(losses):
        return solve(unet, trained, concepts, conditions, losses, settings, on_record)
    # ZeRO 3 takes every parameter of the engine's model apart, so nothing may be shared with θ.
    owned = trained if training.zero_stage < 3 else trainable_names(unet, "full")
    edited_unet = twin(unet, owned).train()
    # One that a single rank cannot read would let it go on from another step than the others.
    newest = of_first(checkpoint.latest(checkpoints) if checkpoints and rank() == 0 else None)
    saved = checkpoint.load(newest) if newest else None
    if saved is not None:
        put_weights(edited_unet, saved["weights"])
    own, teacher = set(trained), getattr(losses, "TEACHER", ())
    # Copies: a weight of the model's file keeps the whole file in memory.
    kept = own if "weights" in losses.FROZEN else set()
    originals = [p.detach().clone() for name, p in unet.named_parameters() if name in kept]
    if training.frozen_precision == "bf16":
        hold_in_half(unet, edited_unet, trained)
    if training.gradient_checkpointing:
        edited_unet.enable_gradient_checkpointing()
    if training.attention_slicing:
        # θ too: sampling trajectories has more rows than a step.
        for each in (unet, edited_unet):
            each.set_attention_slice("auto")
    # Kept for the whole training: what is checkpointed is computed again, by the same processors, in the backward pass.
    attention = AttentionRecord(edited_unet) if "attention@noised" in losses.EDITED else None
    if training.precision != "fp32":
        # Inside the module: an autocast around the engine's call, DeepSpeed turns off on an accelerator.
        edited_unet.forward = in_precision(edited_unet.forward, training.precision, unet.device)
    engine = start_engine(edited_unet, trained, training)
    share = training.batch_size // world_size()
    samples = range(rank() * share, (rank() + 1) * share)

    frozen = noise_predictor(in_precision(unet, training.precision, unet.device), scheduler, conditions.layout)
    edited = noise_predictor(engine, scheduler, conditions.layout)
    edited_for_search = noise_predictor(engine.module, scheduler, conditions.layout)

    weights = loss_weights(getattr(settings, "weighting", "epsilon"), alphas_cumprod(scheduler))
    # A loss's gradient grows with w_t and with an error that falls with √w_t.
    often = weights.sqrt() if training.timesteps == "weighted" else None
    sampler = sampler_of(unet, scheduler, conditions, training, often)
    counted = sampler.counted(weights)
    # Noised latents have timesteps of their own, drawn evenly.
    distances = partial(distance_at, counted, noised=weights)
    if training.latents == "fresh":
        source = FreshLatents(sampler, edited_for_search)
    else:
        source = TrajectoryBank(
            sampler,
            over_cores(frozen),
            training.trajectories,
            seed,
            trajectories,
            training.trajectory_gib * 2**30,
            training.refresh_every,
        )
    choosers = [
        chooser_of(
            losses.CHOICE,
            c.name,
            c.embeddings[0],
            c.candidate_words,
            c.candidates,
            settings,
            training.trajectory_words,
        )
        for c in concepts
    ]
    edited_weights = [p for name, p in engine.module.named_parameters() if name in own]

    records: list[Record] = []
    start = 0
    if saved is not None:
        start, records = saved["step"], saved["records"]
        restore_moments(engine, saved["moments"], start)
        for search, state in zip(searches_of(choosers), saved["searches"]):
            search.load_state_dict(state)
        for row in records:
            on_record(row)
        # Three times the trained weights, to the training's end.
        saved = None

    measured = over_cores(edited_for_search) if training.zero_stage < 3 else edited_for_search
    searching = Searching(losses, settings, edited_for_search, measured, frozen, source, conditions.neutral, distances)
    rivals = settings.rivals if getattr(settings, "search", None) == "measured" else 0
    unbounded = ("preservation",) if "weights" in losses.EDITED else ()

    def record(step: int, phase: str, concept: ErasedConcept, chooser, at: Step, began, **values: torch.Tensor):
        known = [float(values[name].detach()) if name in values else math.nan for name in LOSSES]
        *means, weight = average(torch.tensor([*known, weight_at(counted, at.timesteps, weights)])).tolist()
        found = {name: mean for name, mean in zip(LOSSES, means) if name in values}
        # The variance of ε is 1, at the step's timesteps what they count.
        limits = {name: training.divergence * weight for name in found if name not in unbounded}
        require_bounds(found, limits, step, checkpoints)
        row = record_of(step, total, phase, concept.name, found, time.perf_counter() - began, at.seconds)
        if chooser is not None:
            row |= dict(zip(("word", "probability", "distance"), chooser.favourite(at.choice)))
        if at.choice is not None and row["word"] is not None:
            row["drawn"] = gather(at.choice.words)
        records.append(row)
        on_record(row)

    total = training.steps * len(concepts)
    for step in range(start, total):
        streams = Streams(seed, "step", step, samples=samples)
        source.begin(step)
        index = step % len(concepts)
        concept, chooser = concepts[index], choosers[index]

        found = chooser
        for number in range(settings.search_steps if chooser is not None and chooser.searches else 0):
            began = time.perf_counter()
            if rivals:
                same = Streams(
                    seed, "rivals", step, number, samples=[sample for sample in samples for _ in range(rivals)]
                )
                at, gain, found = by_measuring(searching, concept, chooser, streams, same)
            else:
                at, gain, found = by_gradient(searching, concept, chooser, streams)
            record(step, "search", concept, chooser, at, began, search=gain)
            if on_search is not None:
                on_search(step, concept.name, chooser.searched())

        began = time.perf_counter()
        names = [*losses.EDITED, *teacher, *losses.FROZEN]
        neutral_share = getattr(settings, "neutral_share", 0.0)
        at = draw(names, concept, found, source, conditions.neutral, streams, neutral_share)
        with torch.no_grad():
            known = frozen_predictions(frozen, [n for n in losses.FROZEN if n not in SPECIAL], at)
        known["weights"] = originals
        if attention is not None:
            with attention.recording() as seen:
                predict(edited, ["erased@noised"], at)
            after = settings.positions == "concept-and-after"
            made = {"attention@noised": concept_attention(seen, concept.positions, at.prompts, after)}
        else:
            under = attacked(searching, at, known, streams) if getattr(settings, "attack_steps", 0) else at
            made = predict(edited, [n for n in losses.EDITED if n not in SPECIAL], under)
        with torch.no_grad():
            made |= predict(measured, teacher, at)
        made["weights"] = edited_weights
        distance = distances(at.timesteps)
        loss = erasing = losses.erasing_loss(made, known, settings, distance)
        both = {"erasing": erasing}
        if hasattr(losses, "preservation_loss"):
            both["preservation"] = losses.preservation_loss(made, known, settings, distance)
            loss = erasing + settings.preservation_weight * both["preservation"]
        engine.backward(loss)
        set_learning_rate(engine, training, step / total)
        engine.step()
        record(step, "update", concept, chooser, at, began, **both)
        if on_update is not None:
            on_update(step, engine.module)

        if checkpoints and ((step + 1) % training.checkpoint_every == 0) and step + 1 < total:
            searches = [search.state_dict() for search in searches_of(choosers)]
            checkpoint.save(checkpoints, step + 1, engine, trained, searches, records)

    exported = export(engine, trained)
    if not all(bool(torch.isfinite(value).all()) for value in exported.values()):
        raise Diverged("training: a trained weight is not a number; lower training.learning_rate")
    engine.destroy()
    return exported


def solve(unet, trained, concepts, conditions: Conditions, method, settings, on_record) -> dict[str, torch.Tensor]:
    """The weights of a closed-form method, a record a layer: its number as the step, and the errors that are left."""
    solved, began = {}, time.perf_counter()
    layers = solve_layers(unet, trained, concepts, conditions, method, settings)
    for step, (layer, weight, erasing, preservation) in enumerate(layers):
        solved[layer] = weight
        found = {"erasing": erasing, "preservation": preservation}
        name = concepts[0].name if len(concepts) == 1 else None
        on_record(record_of(step, len(trained), "update", name, found, time.perf_counter() - began))
        began = time.perf_counter()
    return solved


def searches_of(choosers: list[Chooser | None]) -> list[Chooser]:
    return [chooser for chooser in choosers if chooser is not None and chooser.searches]
