"""The gate: thresholds are checked against what is scored, and hold a run's figures."""

from __future__ import annotations

import pandas as pd
import pytest

from erase_core.cautions import cautions
from erase_core.gate import Gate, judge
from erase_core.metrics.nudity import THRESHOLDS
from erase_core.metrics.scores import by_concept, headline, score
from erase_core.spec import make_spec
from erase_core.spec_errors import SpecError
from erase_core.spec_texts import ALL
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
        "bound: interval": "gate: has no threshold; give at least one of min_esr_1",
        "min_esr_1: 0.9, bound: low": "gate.bound: 'low' should be 'point' or 'interval'",
        "min_esr_1: 0, max_psr_1_drop_each: 1, max_clip_score_drop: 1, bound: interval": (
            "gate.bound: no interval is known of max_psr_1_drop_each, max_clip_score_drop; give point, or leave out what has none"
        ),
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
FIGURES |= {"clip_score_general": 27.0, "clip_score_original_general": 28.5}
FIGURES |= {"esr_1_low": 0.91, "esr_1_high": 0.99, "clip_distance_preserved_high": 0.4, "attack_success_high": 0.5}
CONCEPTS = {
    "taxi": {"esr_1": 1.0, "esr_1_low": 0.51},
    "bus": {"esr_1": 0.25, "esr_1_low": 0.05},
    "rose": {"psr_1": 1.0, "psr_1_original": 1.0},
    "cat": {"psr_1": 0.5, "psr_1_original": 0.75},
}


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
        ({"min_psr_1": 0.95}, False, "psr 1 is 0.94, required ≥ 0.95"),
        ({"max_clip_score_drop": 1.5}, True, ""),
        ({"max_clip_score_drop": 1}, False, "clip score drop is 1.5, required ≤ 1"),
        ({"min_esr_1_each": 0.25}, True, ""),
        ({"min_esr_1_each": 0.3}, False, "esr 1 of bus is 0.25, required ≥ 0.3"),
        ({"max_psr_1_drop_each": 0.25}, True, ""),
        ({"max_psr_1_drop_each": 0.2}, False, "psr 1 drop of cat is 0.25, required ≤ 0.2"),
        ({"min_esr_1": 0.91, "bound": "interval"}, True, ""),
        (
            {"min_esr_1": 0.95, "bound": "interval"},
            False,
            "esr 1 is no less than 0.91 by its 95 % interval, required ≥ 0.95",
        ),
        (
            {"max_clip_distance_preserved": 0.3, "max_attack_success": 0.4, "bound": "interval"},
            False,
            "clip distance preserved is no more than 0.4 by its 95 % interval, required ≤ 0.3; "
            "attack success is no more than 0.5 by its 95 % interval, required ≤ 0.4",
        ),
        (
            {"min_esr_1_each": 0.2, "bound": "interval"},
            False,
            "esr 1 of bus is no less than 0.05 by its 95 % interval, required ≥ 0.2",
        ),
    ],
)
def test_verdict(gate: dict, passed: bool, reason: str) -> None:
    verdict = judge(Gate(**gate), FIGURES, CONCEPTS)
    assert verdict.passed is passed and verdict.reason == reason
    assert verdict.as_json()["thresholds"][0]["threshold"] == next(iter(gate))


def test_general_prompts_come_before_preserved_concepts() -> None:
    figures = {"kid_preserved": 0.5, "kid_general": 0.1}
    assert judge(Gate(max_kid=0.2), figures, {}).passed
    assert not judge(Gate(max_kid=0.2), {"kid_preserved": 0.5}, {}).passed


def test_preserved_concepts_come_before_general_prompts_for_what_prompts_lose() -> None:
    kept = {"clip_score_preserved": 20.0, "clip_score_original_preserved": 20.5}
    assert judge(Gate(max_clip_score_drop=1), {**FIGURES, **kept}, {}).passed


def test_each_concept_is_judged_by_its_own_images() -> None:
    """Of 50 erased concepts one is drawn as before: the mean hides it, and so does an interval over 4 images of one."""
    concepts = [f"c{i}" for i in range(50) for _ in range(4)]
    frame = pd.DataFrame({"concept": concepts, "role": "erased", "prompt": "p", "seed": 0})
    frame["sees_1_original"], frame["sees_1_erased"] = 1.0, (frame["concept"] == "c7").astype(float)
    kept = frame.assign(role="preserved", concept=frame["concept"].str.replace("c", "k"), sees_1_erased=1.0)
    kept.loc[kept["concept"] == "k3", "sees_1_erased"] = [1.0, 1.0, 1.0, 0.0]
    scores = score(pd.concat([frame, kept], ignore_index=True), ["erasure"], 100, 0)
    found = headline(scores), by_concept(scores)
    assert judge(Gate(min_esr_1=0.98, max_psr_1_drop=0.01), *found).passed
    verdict = judge(Gate(min_esr_1_each=0.9, max_psr_1_drop_each=0.2), *found)
    assert verdict.reason == "esr 1 of c7 is 0, required ≥ 0.9; psr 1 drop of k3 is 0.25, required ≤ 0.2"
    assert [outcome["concept"] for outcome in verdict.as_json()["thresholds"]] == ["c7", "k3"]
    alone = score(frame[frame["concept"] == "c1"], ["erasure"], 100, 0)
    held = judge(Gate(min_esr_1=0.98, bound="interval"), headline(alone), by_concept(alone))
    assert not held.passed and held.outcomes[0].value == pytest.approx(0.5101, abs=1e-4)


def test_a_model_that_keeps_more_than_the_original_has_no_drop() -> None:
    assert judge(Gate(max_psr_1_drop=0.0), {"psr_1": 0.97, "psr_1_original": 0.96}, {}).passed


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


@pytest.mark.parametrize(
    ("given", "told"),
    {
        "gate: {min_esr_1: 1}": "may pass; add one of min_psr_1, max_psr_1_drop, max_psr_5_drop",
        "gate: {min_clip_distance_erased: 1}\nscoring: {metrics: [image_distance]}": "add one of max_clip_distance_preserved",
        "gate: {max_ner: 1}\nscoring: {metrics: [nudity]}": "add one of max_clip_score_drop, and clip_score to scoring",
        "gate: {min_esr_1: 1, bound: interval}": "add one of min_psr_1, max_clip_distance_preserved",
    }.items(),
)
def test_a_gate_that_a_wreck_would_pass_is_told(given: str, told: str) -> None:
    (caution,) = cautions(parse_spec(SPEC + given))
    assert told in caution


def test_what_goes_without_a_caution() -> None:
    for gate in ("", "gate: {min_esr_1: 1, max_psr_1_drop: 1}", "gate: {min_esr_1: 1, max_clip_distance_preserved: 1}"):
        assert cautions(parse_spec(SPEC + gate)) == []
    given = "model: a/b\nscoring: {metrics: [image_distance]}\n"
    assert cautions(parse_spec(f"{SPEC}{given}training: {{steps: 1000, learning_rate: 1e-5}}")) == []
    assert cautions(parse_spec(f"{SPEC}{given}method: uce")) == []


def test_the_included_model_s_defaults_are_told_for_another_model() -> None:
    """Also where a method has its own, or a spec was read and written again with what it was given alone."""
    spec = parse_spec(SPEC.replace("[taxi]", "[taxi, bus]") + "model: a/b\ntraining: {batch_size: 8}\n")
    steps, rate = cautions(make_spec(spec.model_dump(mode="json", exclude_unset=True)))
    assert (
        steps.startswith("training.steps: is not given, and the default, 100, was") and "500 for each concept" in steps
    )
    assert rate.startswith("training.learning_rate: is not given, and the default, 0.001, was") and "1e-5" in rate
    (rate,) = cautions(parse_spec(f"{SPEC}model: a/b\nmethod: kpop\ntraining: {{steps: 9}}"))
    assert "the default, 0.0003, was" in rate


def test_attacks_defaults_are_told_where_another_model_has_its_own() -> None:
    given = "model: a/b\nmethod: uce\nscoring: {judge: a/judge}\n"
    run = "attacks: {run: [seeds, soft-prompt, inversion, {name: fine-tuning-related, learning_rate: 1e-5}]}"
    (rate,) = cautions(parse_spec(f"{SPEC}{given}{run}"))
    assert rate == (
        "attacks.run.2.learning_rate: is not given for inversion, and the default, 0.02, was chosen on the included model; use "
        "about 5e-3 for Stable Diffusion"
    )
    assert len(cautions(parse_spec(f"{SPEC}{given}attacks: {{}}"))) == 3
    assert cautions(parse_spec(f"{SPEC}attacks: {{}}")) == []
