"""One step of the searches with θ' fixed: for c_a, in each of its two ways, and for prompts that bring c_e back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import torch

from ..distributed.group import average
from ..randomness import Streams
from ..search.attacker import worst_prompts
from ..search.choice import Given
from ..search.choosers import Chooser
from .latents import FreshLatents, TrajectoryBank
from .predictions import Predict
from .step import ErasedConcept, Step, chosen_conditions, draw, frozen_predictions, predict

ROUNDING = 1e-9
"""Predictions of variance 1 that differ by no more are the same: before the first update no word is hurt, whatever is rounded, and
a gradient would lead nowhere.
"""


@dataclass(frozen=True)
class Searching:
    """What a search reads. losses and settings are the method's, distance that of a step's timesteps (`distance_at`).

    measured: the edited model, for predictions without gradients.
    """

    losses: ModuleType
    settings: object
    edited: Predict
    measured: Predict
    frozen: Predict
    source: FreshLatents | TrajectoryBank
    neutral: torch.Tensor
    distance: Callable[[dict[str, torch.Tensor]], Callable]


class Found(NamedTuple):
    """What a search step drew, its search loss, and the chooser that the update draws from."""

    at: Step
    loss: torch.Tensor
    chooser: Chooser | Given


def by_gradient(given: Searching, concept: ErasedConcept, chooser: Chooser, streams: Streams) -> Found:
    """Ascend the gradient through the conditions that the chooser draws; the update draws anew."""
    of_edited, of_frozen = given.losses.SEARCHED
    at = draw([*of_edited, *of_frozen], concept, chooser, given.source, given.neutral, streams)
    chosen = at.choice.embeddings.clone().requires_grad_(True)
    searched = at.under(**chosen_conditions(at.conditions.get("erased"), chosen))
    loss = given.losses.search_loss(
        predict(given.edited, of_edited, searched),
        frozen_predictions(given.frozen, of_frozen, searched),
        given.settings,
        given.distance(at.timesteps),
    )
    (gradient,) = torch.autograd.grad(loss, chosen)
    ascent, size = average(chooser.gradient(at.choice, gradient)), average(loss.detach().abs())
    if size > ROUNDING:
        chooser.ascend(ascent)
    return Found(at, loss, chooser)


@torch.no_grad()
def by_measuring(given: Searching, concept: ErasedConcept, chooser: Chooser, streams: Streams, same: Streams) -> Found:
    """Measure L2 of each sample's rivals in one call, and ascend by what it is; the update preserves the largest's word.

    same: the streams of the samples, each as often as it has rivals, so that these are measured at the same timestep.
    """
    rows, rivals = chooser.rivals(streams, given.settings.rivals)
    of_edited, of_frozen = given.losses.SEARCHED
    at = draw(of_edited, concept, Given(rivals.measurable), given.source, given.neutral, same)
    made, known = predict(given.measured, of_edited, at), frozen_predictions(given.frozen, of_frozen, at)
    hurt = (made["preserved"] - known["preserved"]).square().flatten(1).mean(1).reshape(rows.shape)
    hurt = torch.where(hurt > ROUNDING, hurt, 0.0)
    mean = hurt.mean(1, keepdim=True)
    chooser.ascend(average(chooser.score_gradient(rows, (hurt - mean) / mean.clamp(min=ROUNDING))))
    most = [rows.shape[1] * sample + worst for sample, worst in enumerate(hurt.argmax(1).tolist())]
    loss = given.losses.search_loss(
        {name: value[most] for name, value in made.items()},
        {name: value[most] for name, value in known.items()},
        given.settings,
        given.distance({"preserved": at.timesteps["preserved"][most]}),
    )
    return Found(at, loss, Given(rivals.picked(most)))


def attacked(given: Searching, at: Step, known: dict[str, torch.Tensor], streams: Streams) -> Step:
    """The same step, with the prompts that bring the concept back under θ' in place of its own; known: θ's predictions so far."""
    settings = given.settings
    goal = known["erased"] if "erased" in known else frozen_predictions(given.frozen, ["erased"], at)["erased"]

    def recovery(prompts: torch.Tensor) -> torch.Tensor:
        return (predict(given.edited, ["erased"], at.under(erased=prompts))["erased"] - goal).square().mean()

    radius, steps = settings.attack_radius, settings.attack_steps
    return at.under(erased=worst_prompts(at.conditions["erased"], recovery, radius, steps, streams))
