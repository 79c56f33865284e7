"""One step's latents and conditions, and the predictions of a model at them, by name.

A prediction's name is "condition@latents", or one word where both are the same.

Conditions, prompt embeddings [B, L, d]:
    erased      one of the erased concept's prompts, c_e
    neutral     the neutral concept, c_n
    preserved   what the method's chooser chose, c_a
    prompted    c_e followed by the learnable tokens that the chooser holds, [B, L + n, d]
    subject     the prompt that is edited: c_e, or the broader concept it is taken out of

Latents: erased, preserved and subject, from trajectories of those conditions; noised, the concept's own images with noise.
Two names stand for something else: attention@noised, the cross-attention probabilities of θ' to the concept's tokens under
c_e, a layer each; and weights, the trained weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch
from diffusers import SchedulerMixin, UNet2DConditionModel

from ..distributed.group import barrier
from ..models.conditions import Layout, latent_shape
from ..randomness import Streams
from ..search.choice import Choice, Given
from ..search.choosers import Chooser
from ..search.rows import Rows
from ..spec import Training
from .latents import FreshLatents, Latents, Sampler, TrajectoryBank
from .predictions import Predict, each_once

SPECIAL = ("attention@noised", "weights")


@dataclass(frozen=True)
class ErasedConcept:
    """A concept to erase: its prompts' embeddings [P, L, d], its tokens' positions in each, and its candidates [K, L, d].

    subject, when given, is the broader concept that it is taken out of, with its embedding [L, d]. neutrals, when given, is what
    each prompt is led to in place of the method's neutral concept; anchors, its c_a in place of a chosen one.
    """

    name: str
    prompts: list[str]
    embeddings: torch.Tensor
    candidate_words: list[str]
    candidates: Rows | None
    positions: list[list[int]] = field(default_factory=list)
    subject: tuple[str, torch.Tensor] | None = None
    neutrals: Choice | None = None
    anchors: Choice | None = None


@dataclass(frozen=True)
class Conditions:
    """The conditions [R, d] of "" and of the neutral concept c_n, and how the UNet reads conditions."""

    unconditional: torch.Tensor
    neutral: torch.Tensor
    layout: Layout = Layout()


@dataclass(frozen=True)
class Step:
    """What a step drew. prompts holds the index of each row's prompt; known, the frozen predictions that came with latents;
    unknown, the rows of a known one that are of another condition; seconds, how long the latents took.
    """

    latents: dict[str, Latents]
    conditions: dict[str, torch.Tensor]
    known: dict[str, torch.Tensor]
    unknown: dict[str, list[int]]
    prompts: list[int]
    choice: Choice | None
    seconds: float

    @property
    def timesteps(self) -> dict[str, torch.Tensor]:
        return {name: at.timesteps for name, at in self.latents.items()}

    def under(self, **conditions: torch.Tensor) -> Step:
        """The same step with other embeddings [B, L, d] for some conditions."""
        kept = {name for name in self.known if split(name)[0] not in conditions}
        known, unknown = ({n: v for n, v in part.items() if n in kept} for part in (self.known, self.unknown))
        return replace(self, conditions={**self.conditions, **conditions}, known=known, unknown=unknown)


def sampler_of(
    unet: UNet2DConditionModel,
    scheduler: SchedulerMixin,
    conditions: Conditions,
    training: Training,
    often: torch.Tensor | None = None,
) -> Sampler:
    """What samples a training's latents for a UNet; often as in `Sampler`."""
    return Sampler(
        scheduler,
        latent_shape(unet),
        conditions.unconditional,
        conditions.neutral,
        training.latent_steps,
        training.latent_guidance,
        often,
    )


def split(name: str) -> tuple[str, str]:
    """The condition and the latents of a prediction's name."""
    condition, _, latents = name.partition("@")
    return condition, latents or condition


def chosen_conditions(erased: torch.Tensor | None, chosen: torch.Tensor) -> dict[str, torch.Tensor]:
    prompted = {"prompted": torch.cat([erased, chosen], dim=1)} if erased is not None else {}
    return {"preserved": chosen, **prompted}


def draw(
    names: Iterable[str],
    concept: ErasedConcept,
    chooser: Chooser | Given | None,
    source: FreshLatents | TrajectoryBank,
    neutral: torch.Tensor,
    streams: Streams,
    neutral_share: float = 0.0,
) -> Step:
    """Draw the prompts, the choice and the latents that the named predictions need, a sample for each stream.

    neutral_share: the chance of a preserved sample to be of the neutral concept, at the chosen one's latents.
    """
    seconds = 0.0

    def timed(way: Callable[..., Latents], *given) -> Latents:
        nonlocal seconds
        began = time.perf_counter()
        drawn = way(*given)
        seconds += time.perf_counter() - began
        return drawn

    pairs = [split(name) for name in names if name != "weights"]
    needed = {part for pair in pairs for part in pair}
    at = {latents for _, latents in pairs}
    latents, conditions, known, unknown, prompts, choice = {}, {}, {}, {}, [], None
    if needed & {"erased", "prompted", "subject", "noised"}:
        prompts = streams.integers(len(concept.prompts)).tolist()
        texts, erased = [concept.prompts[p] for p in prompts], concept.embeddings[prompts]
        led_to = concept.neutrals and concept.neutrals.picked(prompts)
        conditions |= {"erased": erased, "neutral": led_to.embeddings if led_to else neutral.expand_as(erased)}
        if "erased" in at:
            latents["erased"] = timed(source.draw, texts, erased, erased, streams, led_to)
        if "noised" in at:
            latents["noised"] = timed(source.draw_noised, texts, erased, streams)
        if "subject" in needed:
            word, embedding = concept.subject or (None, None)
            subject = erased if word is None else embedding.expand_as(erased)
            conditions["subject"] = subject
            named, others = ([word] * len(streams), (texts, erased)) if word else (texts, None)
            latents["subject"] = timed(source.draw, named, subject, subject, streams, led_to, others)
    if chooser is not None:
        chooser = Given(concept.anchors.picked(prompts)) if concept.anchors else chooser
        choice = chooser.choose(streams)
        conditions |= chosen_conditions(conditions.get("erased"), choice.embeddings)
        if "preserved" in at:
            words, under = choice.at
            latents["preserved"] = timed(source.draw, words, choice.embeddings, under, streams)
    for name, drawn in latents.items():
        if drawn.conditional is not None:
            known[name] = drawn.conditional
        if drawn.neutral is not None:
            known[f"neutral@{name}"] = drawn.neutral
        if drawn.other is not None:
            known[f"erased@{name}"] = drawn.other
    if "subject" in known and concept.subject is None:
        known["erased@subject"] = known["subject"]
    if "preserved" in known:
        unknown["preserved"] = choice.elsewhere
    if neutral_share and "preserved" in latents:
        kept = streams.uniform(1).to(neutral.device) < neutral_share
        conditions["preserved"] = torch.where(kept[:, :, None], neutral, conditions["preserved"])
        if "preserved" in known:
            stays = kept[:, :, None, None].to(known["preserved"].device)
            known["preserved"] = torch.where(stays, known["neutral@preserved"], known["preserved"])
            unknown["preserved"] = [row for row in unknown["preserved"] if not kept[row]]
    # Ranks sample for different times, and DeepSpeed's own groups do not wait as long as this one.
    barrier()
    return Step(latents, conditions, known, unknown, prompts, choice, seconds)


def predict(
    model: Predict, names: Iterable[str], step: Step, only: dict[str, list[int]] | None = None
) -> dict[str, torch.Tensor]:
    """The model's named predictions, each [B, C, h, w], in one call for each length of condition.

    only: the rows of some of the names that are asked for, all rows of the others.
    """
    names, found = list(names), {}
    lengths = dict.fromkeys(step.conditions[split(name)[0]].shape[1] for name in names)
    for length in lengths:
        group = [name for name in names if step.conditions[split(name)[0]].shape[1] == length]
        parts = []
        for name in group:
            condition, at = split(name)
            rows = (only or {}).get(name, slice(None))
            latents = step.latents[at]
            parts.append((latents.latents[rows], latents.timesteps[rows], step.conditions[condition][rows]))
        output = model(*map(torch.cat, zip(*parts)))
        found |= zip(group, output.split([len(latents) for latents, _, _ in parts]))
    return found


def frozen_predictions(frozen: Predict, names: Iterable[str], step: Step) -> dict[str, torch.Tensor]:
    """θ's named predictions: read from the latents where they are known, computed where not, row by row."""
    names = list(names)
    in_part = {name: rows for name, rows in step.unknown.items() if rows and name in names}
    missing = [name for name in names if name not in step.known or name in in_part]
    # A gradient is each row's own.
    model = frozen if torch.is_grad_enabled() else each_once(frozen)
    computed = predict(model, missing, step, in_part) if missing else {}
    found = {name: step.known[name] if name in step.known else computed[name] for name in names}
    for name, rows in in_part.items():
        at = torch.tensor(rows, device=found[name].device)
        found[name] = found[name].index_copy(0, at, computed[name].to(found[name].dtype))
    return found


def concept_attention(
    seen: list[torch.Tensor], positions: list[list[int]], prompts: list[int], after: bool
) -> list[torch.Tensor]:
    """From each layer's probabilities [B · heads, pixels, tokens] those to the concept's tokens, and, with `after`, to all
    tokens behind them: one tensor [tokens, heads, pixels] a layer and sample, since prompts differ in their tokens.
    """
    layers = []
    for layer in seen:
        heads = len(layer) // len(prompts)
        chosen = torch.zeros(len(prompts), layer.shape[-1], dtype=torch.bool, device=layer.device)
        for row, prompt in enumerate(prompts):
            chosen[row, positions[prompt]] = True
            if after:
                chosen[row, positions[prompt][0] :] = True
        by_token = layer.unflatten(0, (len(prompts), heads)).permute(0, 3, 1, 2)
        layers += [row[tokens] for row, tokens in zip(by_token, chosen)]
    return layers
