"""What the loop changes in an update: each method's gradient against its equations, in float64, on plain UNets."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from erase_core import methods
from erase_core.models.prompts import encode
from erase_core.models.trainable import trainable_names
from erase_core.spec import Method
from erase_core.training import loop
from erase_core.training.step import Step
from tests.erase_core.tiny_training import inputs, settings

ETA, LAMBDA, ERASED_TOKENS = 1.7, 0.6, {0: [1], 1: [2]}
"""η and λ, which are no method's own, and where the prompts of the tiny training name the concept."""


@dataclass
class Seen:
    """The last update of a training: what was drawn, θ' by name before it, and the gradients that Adam was given."""

    step: Step | None = None
    attacked: Step | None = None
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)


@pytest.fixture
def seen(monkeypatch) -> Seen:
    found, draw, attacked, rate = Seen(), loop.draw, loop.attacked, loop.set_learning_rate

    def drawn(*arguments, **named):
        found.step = draw(*arguments, **named)
        return found.step

    def moved(*arguments):
        found.attacked = attacked(*arguments)
        return found.attacked

    def before_the_step(engine, *rest) -> None:
        rate(engine, *rest)
        parameters = dict(engine.module.named_parameters())
        found.weights = {name: p.detach().double().clone() for name, p in parameters.items()}
        found.gradients = {name: p.grad.double().clone() for name, p in parameters.items() if p.grad is not None}

    monkeypatch.setattr(loop, "draw", drawn)
    monkeypatch.setattr(loop, "attacked", moved)
    monkeypatch.setattr(loop, "set_learning_rate", before_the_step)
    return found


@dataclass
class Sides:
    """θ' and θ in float64, asked for ε at the conditions and latents of a step, and ‖·‖² weighted as clean latents are."""

    edited: UNet2DConditionModel
    frozen: UNet2DConditionModel
    step: Step
    bars: torch.Tensor

    def ask(self, unet: UNet2DConditionModel, condition: str | torch.Tensor, latents: str) -> torch.Tensor:
        at = self.step.latents[latents]
        given = self.step.conditions[condition] if isinstance(condition, str) else condition
        return unet(at.latents.double(), at.timesteps, encoder_hidden_states=given.double()).sample

    def new(self, condition: str | torch.Tensor, latents: str) -> torch.Tensor:
        return self.ask(self.edited, condition, latents)

    def old(self, condition: str, latents: str) -> torch.Tensor:
        with torch.no_grad():
            return self.ask(self.frozen, condition, latents)

    def apart(self, a: torch.Tensor, b: torch.Tensor, latents: str) -> torch.Tensor:
        """The mean squared difference of the clean latents that two predictions imply."""
        at = self.step.latents[latents]
        bar = self.bars.double()[at.timesteps][:, None, None, None]
        clean = [(at.latents.double() - (1 - bar).sqrt() * noise) / bar.sqrt() for noise in (a, b)]
        return (clean[0] - clean[1]).square().mean()

    def led(self, at: str) -> torch.Tensor:
        """ε_θ(c_n) − η (ε_θ(c_e) − ε_θ(c_n))."""
        neutral = self.old("neutral", at)
        return neutral - ETA * (self.old("erased", at) - neutral)


def erased_as_published(sides: Sides, seen: Seen) -> torch.Tensor:
    """L1, at the attacker's prompt where there is one."""
    condition = "erased" if seen.attacked is None else seen.attacked.conditions["erased"]
    return sides.apart(sides.new(condition, "erased"), sides.led("erased"), "erased")


def both(sides: Sides, seen: Seen) -> torch.Tensor:
    """L1 + λ L2."""
    kept = sides.apart(sides.new("preserved", "preserved"), sides.old("preserved", "preserved"), "preserved")
    return erased_as_published(sides, seen) + LAMBDA * kept


def decayed(sides: Sides, seen: Seen) -> torch.Tensor:
    """L1 + λ ‖θ' − θ‖²."""
    before = dict(sides.frozen.named_parameters())
    apart = ((after - before[name]).square().sum() for name, after in sides.edited.named_parameters())
    return erased_as_published(sides, seen) + LAMBDA * sum(apart)


def taken_out(sides: Sides, seen: Seen) -> torch.Tensor:
    """ESD with erase_from."""
    direction = sides.old("erased", "subject") - sides.old("neutral", "subject")
    target = sides.old("subject", "subject") - ETA * direction
    return sides.apart(sides.new("subject", "subject"), target, "subject")


def esd(sides: Sides, seen: Seen) -> torch.Tensor:
    return sides.apart(sides.new("erased", "subject"), sides.led("subject"), "subject")


def age(sides: Sides, seen: Seen) -> torch.Tensor:
    erasing = sides.apart(sides.new("erased", "erased"), sides.old("preserved", "erased"), "erased")
    kept = sides.apart(sides.new("preserved", "preserved"), sides.old("preserved", "preserved"), "preserved")
    return erasing + LAMBDA * kept


def kpop(sides: Sides, seen: Seen) -> torch.Tensor:
    target = sides.led("erased")
    erasing = sum(sides.apart(sides.new(name, "erased"), target, "erased") for name in ("erased", "prompted")) / 2
    kept = sides.apart(sides.new("neutral", "erased"), sides.old("neutral", "erased"), "erased")
    return erasing + LAMBDA * kept


def concept_ablation(sides: Sides, seen: Seen) -> torch.Tensor:
    anchor = sides.new("preserved", "preserved").detach()
    return sides.apart(sides.new("erased", "preserved"), anchor, "preserved")


def forget_me_not(sides: Sides, seen: Seen) -> torch.Tensor:
    """The mean square of the cross-attention to the concept's tokens, by each layer's own projections."""
    layers: list[torch.Tensor] = []

    def record(layer, arguments, named) -> None:
        text = named["encoder_hidden_states"]
        query, key = (
            part.unflatten(-1, (layer.heads, -1)).transpose(1, 2)
            for part in (layer.to_q(arguments[0]), layer.to_k(text))
        )
        seen_by = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(dim=-1)
        for row, prompt in enumerate(seen.step.prompts):
            layers.append(seen_by[row, :, :, ERASED_TOKENS[prompt]].square().mean())

    hooks = [
        layer.register_forward_pre_hook(record, with_kwargs=True)
        for name, layer in sides.edited.named_modules()
        if name.endswith("attn2")
    ]
    sides.new("erased", "noised")
    for hook in hooks:
        hook.remove()
    return torch.stack(layers).mean()


CASES: dict[str, tuple[dict, Callable[[Sides, Seen], torch.Tensor]]] = {
    "adversarial": ({}, both),
    "adversarial, by gradient": ({"name": "adversarial", "search": "gradient"}, both),
    "adversarial, with an attacker": ({"name": "adversarial", "attack_steps": 2}, both),
    "adversarial, half neutral": ({"name": "adversarial", "neutral_share": 0.5}, both),
    "adversarial-pgd": ({}, both),
    "naive": ({}, erased_as_published),
    "neutral": ({}, both),
    "fixed": ({"words": ["bus"]}, both),
    "random": ({}, both),
    "nearest": ({}, both),
    "weight-decay": ({}, decayed),
    "weight-decay, taken up again": ({"name": "weight-decay"}, decayed),
    "esd": ({}, esd),
    "esd, from a broader concept": ({"name": "esd", "erase_from": "car"}, taken_out),
    "age": ({}, age),
    "kpop": ({}, kpop),
    "forget-me-not": ({}, forget_me_not),
    "concept-ablation": ({}, concept_ablation),
}


def trained(pipeline, method: dict, checkpoints: Path | None = None) -> torch.Tensor:
    """Three updates at a rate at which θ' is no longer θ; returns ᾱ_t. With a folder it goes on from the checkpoint there."""
    unet, scheduler, (concept,), conditions = inputs(pipeline)
    if "erase_from" in method:
        concept = replace(concept, subject=("car", encode(pipeline, ["car"])[0]))
    fields = methods.load(method["name"]).Settings.model_fields
    own = {"negative_guidance": ETA, "preservation_weight": LAMBDA}
    given = Method(**{name: value for name, value in own.items() if name in fields}, **method)
    training = settings(steps=3, learning_rate=1e-2, timesteps="even", checkpoint_every=2)
    loop.train(unet, scheduler, [concept], conditions, given, training, seed=3, checkpoints=checkpoints)
    return scheduler.alphas_cumprod


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_the_equations(case: str, tiny_pipeline, seen: Seen, tmp_path: Path) -> None:
    changes, equation = CASES[case]
    method = {"name": case, **changes}
    for _ in range(2 if "again" in case else 1):
        bars = trained(tiny_pipeline, method, tmp_path)
    frozen = copy.deepcopy(tiny_pipeline.unet).double()
    edited = copy.deepcopy(frozen)
    edited.load_state_dict(seen.weights, strict=False)
    wanted = trainable_names(edited, "xattn")
    for name, parameter in edited.named_parameters():
        parameter.requires_grad_(name in wanted)
    assert any(not torch.equal(a, b) for a, b in zip(edited.parameters(), frozen.parameters())), "θ' has moved"
    equation(Sides(edited, frozen, seen.step, bars), seen).backward()
    assert set(seen.gradients) <= set(wanted)
    largest = max(float(p.grad.abs().max()) for p in edited.parameters() if p.grad is not None)
    assert largest > 0
    for name, parameter in edited.named_parameters():
        if name in wanted:
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            found = seen.gradients.get(name, torch.zeros_like(parameter))
            assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * largest), name


def test_every_trained_method_is_tested_here() -> None:
    named = {changes.get("name", case) for case, (changes, _) in CASES.items()}
    assert named == {name for name in methods.MODULES if not methods.solves(methods.load(name))}


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_neutral_concept_s_share(share: float, tiny_pipeline, seen: Seen) -> None:
    """That many preserved samples are of c_n."""
    trained(tiny_pipeline, {"name": "nearest", "neutral_share": share})
    neutral = encode(tiny_pipeline, [""])[0]
    assert [torch.equal(row, neutral) for row in seen.step.conditions["preserved"]] == [share == 1.0] * 2
