"""The benchmark's committed table: each figure is one of the MLflow run that its row names."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.benchmark_page import PAGE, RUNS, TRACKED, page
from benchmarks.tracked_runs import keep, kept
from erase_core import benchmark, methods
from tasks import tracking

DOCS = RUNS.parent
IN_MLFLOW = {"seconds": "step_seconds"}
"""Figures that MLflow has under another name than the table."""


def test_every_figure_is_the_run_s() -> None:
    runs = kept(TRACKED)
    rows = pd.read_parquet(RUNS).to_dict("records")
    every = benchmark.cells(methods.MODULES, list(benchmark.TASKS), list(benchmark.SEEDS))
    assert len(rows) == len(every) and {row["mlflow_run"] for row in rows} == set(runs)
    for row in rows:
        run = runs[row["mlflow_run"]]
        cell = benchmark.Cell(*(row[name] for name in ("task", "case", "method", "seed")))
        assert run["name"].endswith(cell.label) and run["status"] == "FINISHED"
        assert run["parameters"]["method.name"] == cell.method and run["parameters"]["seed"] == str(cell.seed)
        for name in (*benchmark.METRICS, *benchmark.OF_ORIGINAL.values()):
            told = run["metrics"].get(IN_MLFLOW.get(name, name))
            assert told is None if pd.isna(row[name]) else told == pytest.approx(row[name], rel=1e-9), (cell, name)
        if not methods.solves(methods.load(cell.method)):
            took = (run["ended"] - run["began"]).total_seconds()
            assert run["metrics"]["seconds/training"] < took, f"{cell}: its training is an earlier run's"


def test_the_page_is_the_tables() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()


def test_what_is_kept_outlives_the_store(tmp_path: Path, monkeypatch) -> None:
    with tracking.run("erased", tags={"kind": "run"}, output=str(tmp_path / "out")) as known:
        tracking.log_parameters(known, {"seed": 3, "output": str(tmp_path / "out")})
        tracking.log_metrics(known, {"psr_1": 0.5})
    path = tmp_path / "kept.parquet"
    assert keep(["unknown", known], path) == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    assert keep(["unknown", known], path) == 1
    (run,) = kept(path).values()
    assert run["mlflow_run"] == known and run["name"] == "erased" and run["status"] == "FINISHED"
    assert run["parameters"] == {"seed": "3"} and run["metrics"] == {"psr_1": 0.5} and run["ended"] >= run["began"]
    assert str(tmp_path) not in str(run), "where a run's files lie is the machine's own"
    assert keep([], path) == 0 and kept(path) == {}


def test_the_table_of_methods_is_what_was_measured() -> None:
    """Each with its own defaults on the included model: all of them, and the original."""
    measured = pd.read_parquet(DOCS / "methods.parquet").set_index("method")
    page = (DOCS / "methods.md").read_text(encoding="utf-8")
    part = page.split("## What each does with its own defaults")[1].split("\n## ")[0]
    rows = {
        line.split("|")[1].strip(" `"): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in part.splitlines()
        if line.startswith("|") and "%" in line
    }
    assert list(rows) == list(measured.index) and set(rows) == {"original", *methods.MODULES}
    for name, cells in rows.items():
        figures = measured.loc[name]
        told = [f"{100 * figures[rate]:.1f} %" for rate in ("esr_1", "esr_5", "psr_1", "psr_5")]
        assert cells[:4] == told, name
        assert name == "original" or cells[4] == f"{figures['clip_distance_preserved']:.3f}"
