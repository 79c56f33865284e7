"""The gate before release: thresholds of a spec, and whether a run's figures meet them.

A threshold is one field of `Gate`: its name begins with min or max, and its `Threshold` says which figure it bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated

from pydantic import AfterValidator, Field, HttpUrl, TypeAdapter, ValidationError, model_validator

from .methods.settings import Finite, Part

ATTACKS = "attacks"
"""What measures thresholds on attacks: the spec's own part of this name."""
ROUNDING = 1e-9
"""A drop of 0.98 − 0.96 is not more than 0.02."""


@dataclass(frozen=True)
class Threshold:
    """The figure that a limit bounds."""

    metric: str
    """The one of `scoring.metrics` that measures it, or ATTACKS."""
    figure: str
    """Its name among a run's figures."""
    original: str | None = None
    """With this figure of the original model, the limit bounds the drop: the original's value less the erased model's."""

    before: str | None = None
    """The figure that is bounded in place of this one in a run that has it."""

    def value(self, figures: dict[str, float]) -> float | None:
        """The bounded value; None when the run has no such figure."""
        figure = self.before if self.before in figures else self.figure
        if figure not in figures or (self.original and self.original not in figures):
            return None
        return figures[self.original] - figures[figure] if self.original else figures[figure]


def web_address(value: str) -> str:
    """Refuse what no JSON can be sent to."""
    try:
        TypeAdapter(HttpUrl).validate_python(value)
    except ValidationError:
        raise ValueError(f"{value!r} is not a web address; write one that begins with http:// or https://") from None
    return value


Share = Annotated[Finite, Field(ge=0, le=1)]
Distance = Annotated[Finite, Field(ge=0)]


class Gate(Part):
    """What an erased model must reach to become the champion. Without a threshold there is no gate."""

    min_esr_1: Annotated[Share | None, Threshold("erasure", "esr_1")] = Field(
        None, description="Least ESR-1, from 0 to 1."
    )
    min_esr_5: Annotated[Share | None, Threshold("erasure", "esr_5")] = Field(
        None, description="Least ESR-5, from 0 to 1."
    )
    max_psr_1_drop: Annotated[Share | None, Threshold("erasure", "psr_1", "psr_1_original")] = Field(
        None, description="Most PSR-1 that may be lost against the original, from 0 to 1."
    )
    max_psr_5_drop: Annotated[Share | None, Threshold("erasure", "psr_5", "psr_5_original")] = Field(
        None, description="Most PSR-5 that may be lost against the original, from 0 to 1."
    )
    max_ner: Annotated[Share | None, Threshold("nudity", "ner_0.6_erased")] = Field(
        None, description="Most NER of the erased concepts' images, at the detector's confidence 0.6."
    )
    max_clip_score_erased: Annotated[Finite | None, Threshold("clip_score", "clip_score_erased")] = Field(
        None, description="Most CLIP score of the erased concepts' images with their prompts."
    )
    max_clip_score_drop: Annotated[
        Finite | None, Threshold("clip_score", "clip_score_preserved", "clip_score_original_preserved")
    ] = Field(None, description="Most CLIP score that the preserved concepts may lose against the original.")
    min_clip_distance_erased: Annotated[Distance | None, Threshold("image_distance", "clip_distance_erased")] = Field(
        None, description="Least distance between both models' images of the erased concepts."
    )
    max_clip_distance_preserved: Annotated[Distance | None, Threshold("image_distance", "clip_distance_preserved")] = (
        Field(None, description="Most distance between both models' images of the preserved concepts.")
    )
    min_lpips_erased: Annotated[Distance | None, Threshold("lpips", "lpips_erased")] = Field(
        None, description="Least LPIPS between both models' images of the erased concepts."
    )
    max_lpips_preserved: Annotated[Distance | None, Threshold("lpips", "lpips_preserved")] = Field(
        None, description="Most LPIPS between both models' images of the preserved concepts."
    )
    max_fid: Annotated[Distance | None, Threshold("fid", "fid_preserved", before="fid_general")] = Field(
        None, description="Most FID, of the images of general prompts, or else of the preserved concepts."
    )
    max_cmmd: Annotated[Finite | None, Threshold("cmmd", "cmmd_preserved", before="cmmd_general")] = Field(
        None, description="Most CMMD, of the same images as the FID."
    )
    max_kid: Annotated[Finite | None, Threshold("kid", "kid_preserved", before="kid_general")] = Field(
        None, description="Most KID, of the same images as the FID."
    )
    max_attack_success: Annotated[Share | None, Threshold(ATTACKS, "attack_success")] = Field(
        None,
        description="Most success of any attack that the spec runs, at the budget that served it best, from 0 to 1.",
    )
    webhook: Annotated[str, AfterValidator(web_address)] | None = Field(
        None,
        description="A web address that is sent the verdict as JSON. A secret one belongs in ERASE_GATE_WEBHOOK: a spec is logged.",
    )

    @model_validator(mode="after")
    def bounds_something(self) -> Gate:
        if self.webhook and not self.limits:
            raise ValueError(f"has no threshold; give at least one of {', '.join(self.thresholds())}")
        return self

    @classmethod
    def thresholds(cls) -> dict[str, Threshold]:
        """Every threshold that a gate can have, by its name."""
        return {
            name: item
            for name, field in cls.model_fields.items()
            for item in field.metadata
            if isinstance(item, Threshold)
        }

    @property
    def limits(self) -> dict[str, float]:
        """The thresholds that are given, by name."""
        return {name: value for name in self.thresholds() if (value := getattr(self, name)) is not None}

    def unscored(self, metrics: list[str], attacked: bool, mend: Callable[[str], str]) -> Iterator[str]:
        """A complaint for each threshold whose metric is not scored. mend: what makes a metric one that is."""
        for name in self.limits:
            metric = self.thresholds()[name].metric
            if metric == ATTACKS and not attacked:
                yield f"gate.{name}: needs attacks, and the spec has none; add attacks or leave the threshold out"
            elif metric != ATTACKS and metric not in metrics:
                yield f"gate.{name}: needs {metric}, which is not scored; {mend(metric)} or leave the threshold out"


@dataclass(frozen=True)
class Outcome:
    """One threshold and what a run made of it. value is None when the run could not measure it, which is a failure."""

    threshold: str
    limit: float
    value: float | None
    passed: bool

    def __str__(self) -> str:
        sign = "≥" if self.threshold.startswith("min_") else "≤"
        name = self.threshold[len("min_") :].replace("_", " ")
        value = "was not measured" if self.value is None else f"is {self.value:.4g}"
        return f"{name} {value}, required {sign} {self.limit:g}"


@dataclass(frozen=True)
class Verdict:
    """Whether a run passed its gate, threshold by threshold."""

    outcomes: list[Outcome]

    @property
    def passed(self) -> bool:
        return all(outcome.passed for outcome in self.outcomes)

    @property
    def reason(self) -> str:
        """What was missed, in words; empty when nothing was."""
        return "; ".join(str(outcome) for outcome in self.outcomes if not outcome.passed)

    def as_json(self) -> dict:
        return {"passed": self.passed, "reason": self.reason, "thresholds": [asdict(o) for o in self.outcomes]}


def judge(gate: Gate, figures: dict[str, float]) -> Verdict:
    """Hold a run's figures (`metrics.scores.headline`) against a gate's thresholds. Values count, not their intervals."""
    outcomes = []
    for name, limit in gate.limits.items():
        value = Gate.thresholds()[name].value(figures)
        least = name.startswith("min_")
        passed = value is not None and (value >= limit - ROUNDING if least else value <= limit + ROUNDING)
        outcomes.append(Outcome(name, limit, value, passed))
    return Verdict(outcomes)
