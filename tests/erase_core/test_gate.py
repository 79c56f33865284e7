"""The gate: thresholds are checked against what is scored, and hold a run's figures."""

from __future__ import annotations

import pandas as pd
import pytest

from erase_core.gate import Gate, judge
from erase_core.metrics.nudity import THRESHOLDS
from erase_core.metrics.scores import ALL, headline
from erase_core.spec_errors import SpecError
from erase_core.spec_yaml import parse_spec

SPEC = "name: x\nconcepts: [taxi]\noutput: o\n"


@pytest.mark.parametrize(
    ("gate", "complaint"),
    {
        "min_esr_1: 98": "gate.min_esr_1: 98 should be less than or equal to 1",
        "max_kid: 0.1": "gate.max_kid: needs kid, which is not scored; add it to scoring.metrics",
        "max_attack_success: 0.1": "gate.max_attack_success: needs attacks, and the spec has none",
        "max_ner: 0.1": "gate.max_ner: needs nudity",
        "esr_1: 0.9": "gate.esr_1: is not a key here; the keys are min_esr_1",
        "min_esr_1: '0.9'": "gate.min_esr_1: '0.9' is not a number",
        "webhook: 'http://localhost/x'": "gate: has no threshold; give at least one of min_esr_1",
        "min_esr_1: 0.9, webhook: 'file:///etc/passwd'": "gate.webhook: 'file:///etc/passwd' is not a web address",
    }.items(),
)
def test_bad_gate(gate: str, complaint: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(f"{SPEC}gate: {{{gate}}}")
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("given", "mend"),
    {
        "gate: {min_esr_1: 1}": "erasure, which is not scored; give scoring.judge or leave",
        "gate: {max_clip_score_drop: 1}": "clip_score, which is not scored; give scoring.clip or leave",
        "gate: {min_esr_1: 1}\nscoring: {metrics: [image_distance]}": "add it to scoring.metrics and give scoring.judge or",
        "gate: {min_esr_1: 1}\nscoring: {metrics: [image_distance], judge: a/j}": "add it to scoring.metrics or leave",
        "gate: {max_kid: 1}": "kid, which is not scored; add it to scoring.metrics and give scoring.clip or leave",
        "gate: {max_kid: 1}\nscoring: {features: i.pth}": "kid, which is not scored; add it to scoring.metrics or leave",
        "gate: {min_lpips_erased: 1}": "add it to scoring.metrics and give scoring.lpips_backbone or leave",
    }.items(),
)
def test_a_mend_is_all_that_the_metric_needs(given: str, mend: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(f"{SPEC}model: a/b\n{given}")
    assert mend in str(caught.value)


def test_every_unscored_threshold_is_named() -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(f"{SPEC}scoring: {{metrics: [clip_score]}}\ngate: {{min_esr_1: 1, max_psr_1_drop: 0, max_kid: 0}}")
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "gate.min_esr_1", "gate.max_psr_1_drop", "gate.max_kid",
    ]  # fmt: skip


def test_no_gate_by_default() -> None:
    assert parse_spec(SPEC).gate.limits == {}


FIGURES = {"esr_1": 0.98, "psr_1": 0.94, "psr_1_original": 0.96, "clip_distance_preserved": 0.3}
FIGURES["attack_success"] = 0.25


@pytest.mark.parametrize(
    ("gate", "passed", "reason"),
    [
        ({"min_esr_1": 0.98, "max_psr_1_drop": 0.02}, True, ""),
        ({"min_esr_1": 0.99, "max_psr_1_drop": 0.02}, False, "esr 1 is 0.98, required ≥ 0.99"),
        ({"min_esr_1": 0.98, "max_psr_1_drop": 0.019}, False, "psr 1 drop is 0.02, required ≤ 0.019"),
        ({"max_clip_distance_preserved": 0.3}, True, ""),
        ({"max_clip_distance_preserved": 0.2999}, False, "clip distance preserved is 0.3, required ≤ 0.2999"),
        ({"max_attack_success": 0.25}, True, ""),
        ({"max_attack_success": 0.2}, False, "attack success is 0.25, required ≤ 0.2"),
        ({"min_esr_5": 0.1}, False, "esr 5 was not measured, required ≥ 0.1"),
    ],
)
def test_verdict(gate: dict, passed: bool, reason: str) -> None:
    verdict = judge(Gate(**gate), FIGURES)
    assert verdict.passed is passed and verdict.reason == reason
    assert verdict.as_json()["thresholds"][0]["threshold"] == next(iter(gate))


def test_general_prompts_come_before_preserved_concepts() -> None:
    figures = {"kid_preserved": 0.5, "kid_general": 0.1}
    assert judge(Gate(max_kid=0.2), figures).passed and not judge(Gate(max_kid=0.2), {"kid_preserved": 0.5}).passed


def test_a_model_that_keeps_more_than_the_original_has_no_drop() -> None:
    assert judge(Gate(max_psr_1_drop=0.0), {"psr_1": 0.97, "psr_1_original": 0.96}).passed


def test_thresholds_name_figures_that_runs_have() -> None:
    """Figures come from rows of scores; every threshold's figure is one that such rows can give."""
    measured = ["esr_1", "esr_5", "psr_1", "psr_5", "clip_score", "clip_distance", "lpips", "fid", "kid", "cmmd"]
    measured += [f"ner_{threshold}" for threshold in THRESHOLDS]
    rows = [
        (f"{name}{suffix}", ALL, role, 0.5, 0.4, 0.6, 1)
        for name in measured
        for suffix in ("", "_original")
        for role in ("erased", "preserved")
    ]
    attacks = {"attack_success": 0.5}
    figures = attacks | headline(pd.DataFrame(rows, columns=["metric", "concept", "role", "value", "low", "high", "n"]))
    for name, threshold in Gate.thresholds().items():
        assert threshold.value(figures) is not None, name
