"""What a spec may say and somebody may regret: told when a run starts or is planned, and refused nowhere. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator

from . import methods
from .spec import Spec

STEPS_IN_ALL = 1000
"""Update steps that are published for Stable Diffusion, over all concepts."""
SHOWN_LIMITS = 3


def cautions(spec: Spec) -> list[str]:
    """Each as "field: what may be wrong with it; what to do"."""
    return [*of_gate(spec), *of_defaults(spec), *of_attacks(spec)]


def of_gate(spec: Spec) -> Iterator[str]:
    """A gate that every wreck of a model would pass."""
    gate = spec.gate
    if gate.limits and not gate.of_preserved:
        scored = [
            name
            for name, limit in gate.thresholds().items()
            if limit.of_preserved and limit.metric in spec.metrics and (limit.has_interval or gate.bound == "point")
        ]
        more = ", ".join(scored[:SHOWN_LIMITS]) or "max_clip_score_drop, and clip_score to scoring.metrics"
        yield f"gate: bounds nothing that is to be preserved, so a model that draws noise may pass; add one of {more}"


def of_defaults(spec: Spec) -> Iterator[str]:
    """Defaults of the included model that would be taken for another one. Closed forms have no steps."""
    if spec.embedded or methods.solves(methods.load(spec.method.name)):
        return
    each = max(1, STEPS_IN_ALL // len(spec.concepts))
    published = {"steps": f"{each} for each concept, {STEPS_IN_ALL} in all", "learning_rate": "1e-5"}
    for name, value in published.items():
        if name not in spec.training.model_fields_set:
            default = getattr(spec.training, name)
            yield (
                f"training.{name}: is not given, and the default, {default:g}, was chosen on the included model; for Stable "
                f"Diffusion {value} is published"
            )


def of_attacks(spec: Spec) -> Iterator[str]:
    """Attacks' learning rates of the included model that would be taken for another one, where another is known."""
    if spec.embedded or spec.attacks is None:
        return
    for i, attack in enumerate(spec.attacks.run):
        own, field = attack.settings, type(attack.settings).model_fields.get("learning_rate")
        _, _, known = ((field and field.description) or "").partition("; ")
        if "Stable Diffusion" in known and "learning_rate" not in own.model_fields_set:
            yield (
                f"attacks.run.{i}.learning_rate: is not given for {attack.name}, and the default, {own.learning_rate:g}, was "
                f"chosen on the included model; use {known.rstrip('.')}"
            )
