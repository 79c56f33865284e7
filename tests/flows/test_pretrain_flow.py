"""The embedded model's training in one go, at a thousandth of its steps. Fetches the emoji packages with npm."""

from __future__ import annotations

import json
import os
from pathlib import Path

import mlflow
import pytest

from erase_core.files import home
from erase_core.models.pipeline import load_pipeline
from erase_core.models.source import ModelSource
from tests.command import erase


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_pretrain_and_go_on(tmp_path: Path) -> None:
    ran = erase("pretrain", "--output", str(tmp_path / "world"), "--scale", "0.001")
    assert ran.returncode == 0, ran.stderr
    assert "concept_top_1" in ran.stdout
    pipeline = load_pipeline(ModelSource("world", tmp_path / "world" / "pipeline"))
    assert pipeline("a taxi", num_inference_steps=2).images[0].size == (64, 64)
    figures = json.loads((tmp_path / "world" / "quality.json").read_text())["figures"]
    assert set(figures) >= {"concept_top_1", "style_top_1", "concept_judge_held_out", "style_judge_held_out"}
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("erase").experiment_id
    parent, *_ = client.search_runs([experiment], "tags.mlflow.runName = 'emoji world'")
    children = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert {run.data.tags["mlflow.runName"] for run in children} >= {"autoencoder", "clip", "unet", "decoder"}
    assert all(run.data.metrics for run in children)

    work = home() / "pretraining" / "seed-0-scale-0.001"
    trained = {path: path.stat().st_mtime_ns for path in work.glob("*/config.json")}
    (work / "unet" / "config.json").unlink()
    assert erase("pretrain", "--output", str(tmp_path / "again"), "--scale", "0.001").returncode == 0
    now = {path: path.stat().st_mtime_ns for path in work.glob("*/config.json")}
    assert {path for path in trained if trained[path] != now[path]} == {work / "unet" / "config.json"}
