"""The flow's process is killed in every stage and started again: it goes on, and ends with the same weights bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
import torch
from safetensors.torch import load_file

from tests.faults.runs import all_ended, kill_when, start_erase

SPEC = """
name: killed
seed: 2
concepts: [taxi]
vocabulary: {{top_k: 6}}
training: {{steps: 6, batch_size: 1, trajectories: 1, latent_steps: 2, checkpoint_every: 2}}
generation: {{seeds: [0], steps: 2}}
scoring: {{preserved: [bus, car], resamples: 100}}
output: {output}
"""


def spec_file(folder: Path, output: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.yaml").write_text(SPEC.format(output=output))
    return str(folder / "spec.yaml")


def moments(home: Path, output: Path) -> dict[str, Callable[[], object]]:
    """Stage → what is true in the middle of it, in the order of the stages."""

    def began(stage: str, count: int = 0) -> Callable[[], object]:
        """`count` results of a stage are there, and the next one is under way."""
        cache = home / "cache" / stage
        return lambda: len(list(cache.glob("*/artifact.json"))) == count and any(cache.glob(".*.partial"))

    return {
        "vocabulary": began("vocabulary"),
        "embeddings": began("embeddings"),
        "nearest": began("nearest"),
        "training before a checkpoint": began("training"),
        "writing a checkpoint": lambda: any(home.glob("training/*/checkpoints/.step-*.partial")),
        "training after a checkpoint": lambda: any(home.glob("training/*/checkpoints/step-*")),
        "images of the original": began("images"),
        "images of the erased": began("images", 1),
        "scores": began("scores"),
        "model export": lambda: any(output.glob(".model.*.partial")),
        "report": lambda: (output / "scores.parquet").exists(),
    }


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_in_every_stage(tmp_path: Path) -> None:
    calm, home, out = tmp_path / "calm", tmp_path / "home", tmp_path / "out"
    process = start_erase("run", spec_file(tmp_path / "a", tmp_path / "calm-out"), home=calm)
    assert process.wait() == 0, calm.with_suffix(".log").read_text()
    spec = spec_file(tmp_path / "b", out)
    for stage, moment in moments(home, out).items():
        process = start_erase("run", spec, home=home)
        kill_when(process, moment)
        assert all_ended(home), f"killed in {stage}: processes are left"
    process = start_erase("run", spec, home=home)
    assert process.wait() == 0, home.with_suffix(".log").read_text()
    undisturbed, disturbed = (load_file(folder / "delta.safetensors") for folder in (tmp_path / "calm-out", out))
    assert undisturbed.keys() == disturbed.keys() and len(undisturbed) > 0
    assert all(torch.equal(undisturbed[name], disturbed[name]) for name in undisturbed)
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["cached"]) == set(summary["keys"])
    assert not list(out.rglob("*.partial")) and not list((home / "cache").rglob("*.partial"))
    client = mlflow.MlflowClient(f"sqlite:///{home / 'mlflow' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("erase").experiment_id], max_results=1000)
    assert {run.info.status for run in runs} == {"FINISHED", "KILLED"}
    assert [run.info.status for run in runs if run.data.tags.get("whole")] == ["FINISHED"]
