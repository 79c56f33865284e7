"""Attacks for real: as a part of a run, and by themselves on the model that the run left."""

from __future__ import annotations

import json
import os
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import yaml
from huggingface_hub import constants

from erase_core.models.source import WEIGHTS
from erase_core.spec import make_spec
from erase_core.spec_errors import SpecError
from erase_core.spec_yaml import parse_spec
from flows.attack import attack
from flows.command.attack import attack_spec, attack_value
from tests.command import erase, erase_here

SPEC = """
name: attacked
concepts: [taxi]
method: uce
vocabulary: {{top_k: 4}}
generation: {{seeds: [0], sampler: dpm-solver++, steps: 8}}
scoring: {{preserved: [bus, car], resamples: 100}}
attacks:
  references: 2
  run:
    - {{name: seeds, budgets: [1, 4]}}
    - {{name: inversion, budgets: [0, 2], images: 2}}
gate: {{max_attack_success: 0.9, min_esr_1: 0}}
output: {output}
"""


@pytest.mark.timeout(1200)
def test_attacks_in_a_run_and_on_its_model(server, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "spec.yaml").write_text(SPEC.format(output=out))
    ran = erase_here("run", str(tmp_path / "spec.yaml"))
    assert ran.returncode == 0, ran.stderr
    assert "Attempts to bring taxi back" in ran.stdout

    table = pd.read_parquet(out / "attacks.parquet").set_index(["attack", "model", "budget"])
    attempts = pd.read_parquet(out / "attempts.parquet")
    assert attempts.groupby(["attack", "model", "role"]).size().to_dict() == {
        ("inversion", "erased", "attack"): 4, ("inversion", "erased", "control"): 2, ("inversion", "original", "attack"): 4,
        ("seeds", "erased", "attack"): 4, ("seeds", "erased", "control"): 4, ("seeds", "original", "attack"): 4,
    }  # fmt: skip
    assert attempts["png"].map(lambda png: png.startswith(b"\x89PNG")).all()
    # The original draws what it is asked for; a closed form over plain prompts leaves nothing to them.
    assert table.loc[("seeds", "original", 4), "success"] > 0.9 and table.loc[("seeds", "erased", 4), "success"] == 0

    summary = json.loads((out / "summary.json").read_text())
    assert summary["metrics"]["attack_success_seeds"] == 0 and summary["seconds"]["attack/seeds/erased"] > 0
    assert "<h2>Attacks</h2>" in (out / "report.html").read_text()
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    history = client.get_metric_history(summary_run(client, "attacked"), "attack_success_seeds_original")
    assert [(m.step, m.value > 0.5) for m in history] == [(1, True), (4, True)]

    again = erase_here("run", str(tmp_path / "spec.yaml"))
    assert "attack/inversion/erased" in " ".join(again.stdout.split()).split("Served from the cache:")[1]

    own = yaml.safe_load(SPEC.format(output=out))
    own["attacks"]["run"] = [{"name": "sdedit", "budgets": [0.5, 1.0], "images": 2}]
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump(own))
    alone = erase_here(
        "attack", str(out / "model"), "--concept", "taxi", "--spec", str(tmp_path / "alone.yaml"),
        "--output", str(tmp_path / "alone"),
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    assert {p.name for p in (tmp_path / "alone").iterdir()} == {
        "attacks.html", "attacks.json", "attacks.parquet", "attempts.parquet",
    }  # fmt: skip
    known = json.loads((tmp_path / "alone" / "attacks.json").read_text())
    assert known["attacks"]["sdedit"]["unit"] == "strength" and len(known["attacks"]["sdedit"]["rates"]) == 6


def summary_run(client: mlflow.MlflowClient, name: str) -> str:
    """The id of the newest run of a name."""
    experiment = client.get_experiment_by_name("erase")
    runs = client.search_runs([experiment.experiment_id], order_by=["start_time DESC"])
    return next(run.info.run_id for run in runs if run.info.run_name == name)


BAD = {
    "attack": (("--attacks", "magic"), "attacks.run.0.name: 'magic' is not an attack"),
    "budget of another": (("--attacks", "seeds", "--budget", "words=3"), "--budget: 'words=3' should be ATTACK="),
    "budget": (("--budget", "seeds=many"), "--budget: 'many' should be numbers"),
    "images of none": (
        ("--attacks", "seeds, words", "--per-budget", "4"),
        "--per-budget: none of seeds, words has budgets of steps",
    ),
    "falling": (("--attacks", "seeds", "--budget", "seeds=4,2"), "attacks.run.0.budgets: must ascend"),
    "images": (("--images", "/no/such"), "attacks.images: '/no/such' is not a folder"),
    "concept": (("--concept", "happiness"), "'happiness' is not a concept"),
}


OF_A_RUN = """
name: a run
model: emoji-world
concepts: [rose, {concept: taxi, synonyms: [cab], prompts: [a yellow taxi]}]
attacks: {run: [seeds]}
output: results/a-run
"""


def test_a_spec_s_own_concept_is_attacked(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(OF_A_RUN)
    given = attack_spec(tmp_path / "spec.yaml", "taxi", ["hackney", "cab"], None)
    assert given["concepts"] == [
        {"concept": "taxi", "synonyms": ["cab", "hackney"], "prompts": [{"prompt": "a yellow taxi"}]}
    ]
    assert [attack["name"] for attack in given["attacks"]["run"]] == ["seeds"]
    assert given["output"] == "results/attack-taxi"
    assert attack_spec(tmp_path / "spec.yaml", "TAXI", ["hackney", "cab"], None) == given
    several = OF_A_RUN.replace("concepts: [", "concepts: [bus, ") + "report: {unsafe: [bus, Taxi]}\n"
    (tmp_path / "several.yaml").write_text(several)
    assert attack_spec(tmp_path / "several.yaml", "taxi", [], None)["report"]["unsafe"] == ["Taxi"]
    assert attack_spec(tmp_path / "several.yaml", "cat", [], None)["report"]["unsafe"] is None
    (tmp_path / "several.yaml").write_text(several.replace("{run: [seeds]}", "{images: pictures}"))
    assert attack_spec(tmp_path / "several.yaml", "taxi", [], None)["attacks"]["images"] == "pictures/taxi"
    (tmp_path / "spec.yaml").write_text("name: a\nconcepts: [taxi]\noutput: o\nattacks: {images: pictures}\n")
    assert attack_spec(tmp_path / "spec.yaml", "taxi", [], None)["attacks"]["images"] == "pictures"
    (tmp_path / "spec.yaml").write_text(OF_A_RUN)
    assert attack_spec(tmp_path / "spec.yaml", "cat", [], tmp_path)["concepts"] == [{"concept": "cat", "synonyms": []}]


@pytest.mark.parametrize("model", ["owner/erased", "/no/such"])
def test_a_model_to_attack_that_is_not_there(model: str, monkeypatch, tmp_path: Path) -> None:
    """Said before anything is drawn, and told from the spec's own model."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("flows.attack.run_attacks", lambda *_: pytest.fail("the attacks have begun"))
    with pytest.raises(SpecError, match=f"^attacked model: .*{model}"):
        attack.fn(parse_spec(SPEC.format(output=tmp_path / "out")), model)
    assert not (tmp_path / "out").exists()


def test_learning_rates_of_the_included_model_are_told(
    tiny_folder: Path, server, monkeypatch, tmp_path, caplog
) -> None:
    """Of the attacks alone: nothing is trained or released here."""

    def begun(*_) -> None:
        raise InterruptedError("the attacks have begun")

    monkeypatch.setattr("flows.attack.run_attacks", begun)
    given = SPEC.format(output=tmp_path / "out") + f"model: {tiny_folder}\n"
    judged = given.replace("scoring: {", f"scoring: {{judge: {WEIGHTS / 'concept_judge'}, metrics: [erasure], ")
    with pytest.raises(InterruptedError):
        attack(parse_spec(judged), str(tiny_folder))
    assert "attacks.run.1.learning_rate: is not given for inversion" in caplog.text
    assert "training.steps" not in caplog.text


def test_options_make_a_spec(tmp_path: Path) -> None:
    own = ("sdedit, words", ["sdedit=0.5,1"], 2, "semaphore, ampel", tmp_path, None, 3, None)
    given = attack_value("traffic light", ["signal"], "emoji-world", *own)
    spec = make_spec(given)
    edited, words = (attack.settings for attack in spec.attacks.run)
    assert (edited.budgets, edited.images, words.words) == ([0.5, 1.0], 2, ["semaphore", "ampel"])
    assert spec.erased_names[:2] == ["traffic light", "signal"] and spec.attacks.images == str(tmp_path)
    assert (spec.seed, spec.name, spec.output) == (3, "attack on traffic light", "results/attack-traffic-light")


def test_a_long_concept_s_attack_has_a_name(tmp_path: Path) -> None:
    given = attack_value(
        "a " + "very " * 25 + "long car", [], "emoji-world", "seeds", [], None, "", None, None, 0, None
    )
    assert len(make_spec(given).name) <= 100


def test_a_model_that_is_no_copy_of_the_base_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    """Its attackers would have the images and the judge of another model."""
    ran = erase("attack", str(tiny_folder), "--concept", "garbage truck", "--output", str(tmp_path / "out"))
    told = " ".join(ran.stderr.split())
    assert (
        ran.returncode == 2
        and f"attacked model: '{tiny_folder}' is no copy of 'emoji-world', whose UNet has another" in told
    )
    assert "as --base" in told and not (tmp_path / "out").exists()


def test_options_that_a_spec_says_are_refused(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(OF_A_RUN)
    given = ("--concept", "taxi", "--spec", str(tmp_path / "spec.yaml"), "--seed", "3", "--per-budget", "2")
    ran = erase("attack", "emoji-world", *given)
    assert ran.returncode == 2 and "--per-budget, --seed: stands in the spec" in " ".join(ran.stderr.split())


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_options(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    given = ("emoji-world", "--concept", "taxi", *options, "--output", str(tmp_path / "out"))
    ran = erase("attack", *given, ERASE_HOME=str(tmp_path / "home"))
    assert ran.returncode == 2 and message in ran.stderr and "Traceback" not in ran.stderr
    assert not list(tmp_path.iterdir())
