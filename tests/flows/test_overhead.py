"""What the orchestration of a run costs: time outside the stages' own work, from the command's start to its end."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import mlflow
import pytest

from tests.faults.runs import places, start, start_erase

DEMO = Path(__file__).parents[2] / "examples" / "taxi.yaml"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_orchestration_costs_less_than_a_twentieth_of_the_demo(tmp_path: Path) -> None:
    """A first run, on a machine where nothing is there but what was installed: empty databases, and no cache."""
    home = tmp_path / "home"
    assert start([sys.executable, "-m", "infra.databases"], tmp_path / "made.log", **places(home)).wait() == 0
    (tmp_path / "spec.yaml").write_text(DEMO.read_text().replace("results/taxi", str(tmp_path / "out")))
    began = time.time()
    process = start_erase("run", str(tmp_path / "spec.yaml"), home=home)
    assert process.wait() == 0, home.with_suffix(".log").read_text()
    wall = time.time() - began
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    client = mlflow.MlflowClient(f"sqlite:///{home / 'mlflow' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("erase").experiment_id], "run_name = 'taxi'")
    stages = {**summary["seconds"], "register": run.data.metrics["seconds/register"]}
    spans = sorted((at, at + summary["seconds"][stage]) for stage, at in summary["began"].items())
    covered, until = stages["register"], 0.0
    for start_of, end_of in spans:
        covered += max(0.0, end_of - max(start_of, until))
        until = max(until, end_of)
    outside = wall - covered
    first = min(summary["began"].values()) - began
    last = began + wall - max(summary["began"][stage] + summary["seconds"][stage] for stage in summary["began"])
    print(
        f"wall {wall:.1f} s, outside {outside:.1f} s ({100 * outside / wall:.1f} %): {first:.1f} s before, {last:.1f} s after"
    )
    print(stages)
    assert outside / wall < 0.05
