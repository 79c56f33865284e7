"""A study for real: its runs through the DAG, its plot, table and MLflow run."""

from __future__ import annotations

import os
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import typer

from flows.command.app import read_spec
from tests.command import erase

SPEC = """
name: small study
concepts: [taxi]
vocabulary: {{top_k: 6}}
training: {{steps: 4, batch_size: 2, trajectories: 1, latent_steps: 3}}
generation: {{seeds: [0], steps: 2}}
scoring: {{preserved: [bus, car], resamples: 100}}
output: {output}
"""


@pytest.mark.slow
def test_search_collapse(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(SPEC.format(output=tmp_path / "out"))
    ran = erase("study", "search-collapse", "--spec", str(tmp_path / "base.yaml"))
    assert ran.returncode == 0, ran.stderr
    folder = tmp_path / "out" / "search-collapse"
    table = pd.read_parquet(folder / "search-collapse.parquet")
    assert set(table["search"]) == {"gradient ascent", "gumbel"} and set(table["step"]) == {0, 1, 2, 3}
    gumbel = table[table["search"] == "gumbel"]
    assert gumbel["distance"].max() < 1e-3
    assert (folder / "search-collapse.png").read_bytes().startswith(b"\x89PNG")
    assert "Plotly.newPlot" in (folder / "search-collapse.html").read_text()
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("erase").experiment_id
    (study,) = client.search_runs([experiment], "tags.study = 'search-collapse'")
    children = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{study.info.run_id}'")
    assert {run.data.tags["method"] for run in children} == {"adversarial", "adversarial-pgd"}
    assert "final_distance/gumbel" in study.data.metrics


def test_an_unknown_study_is_named() -> None:
    ran = erase("study", "happiness")
    assert ran.returncode == 2 and "'happiness' is not a study; choose one of sensitivity" in ran.stderr.replace(
        "\n", " "
    )


def test_a_second_study_may_lie_beside_the_first(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(SPEC.format(output=tmp_path / "out"))
    (tmp_path / "out" / "sensitivity").mkdir(parents=True)
    assert read_spec(tmp_path / "base.yaml", several=True).output == str(tmp_path / "out")
    with pytest.raises(typer.Exit):
        read_spec(tmp_path / "base.yaml")
