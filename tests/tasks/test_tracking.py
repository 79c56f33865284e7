"""Losses of trainings that go on side by side."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import mlflow
import pytest

from tasks import tracking

RECORD = {"phase": "update", "search_loss": None, "preservation_loss": None, "probability": None, "distance": None}


def test_trainings_side_by_side_send_all_their_losses(tmp_path: Path, monkeypatch) -> None:
    """None ends what another still sends by."""
    monkeypatch.setattr(tracking, "SECONDS_BETWEEN_CALLS", 0.0)
    failed: list[BaseException] = []

    def train(run_id: str) -> None:
        try:
            for part in range(4):
                with tracking.StepMetrics(run_id) as metrics:
                    for step in range(10 * part, 10 * part + 10):
                        metrics.add({**RECORD, "step": step, "erasing_loss": float(step)})
        except BaseException as error:
            failed.append(error)

    with tracking.run("one") as one, tracking.run("two") as two:
        threads = [threading.Thread(target=train, args=(run_id,)) for run_id in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    for run_id in (one, two):
        found = client.get_metric_history(run_id, "update/erasing_loss")
        assert sorted((m.step, m.value) for m in found) == [(step, float(step)) for step in range(40)]


def test_a_table_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"")
    with tracking.run("table") as run_id:
        for count in (3, 2):
            tracking.log_table(run_id, [{"number": i} for i in range(count)], path, "text")
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    found = json.loads(Path(client.download_artifacts(run_id, "rows.json", str(tmp_path))).read_text())
    assert found["data"] == [[0], [1]]
    assert json.loads(client.get_run(run_id).data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "rows.json", "type": "table"}
    ]


def test_a_long_table_is_cut_at_a_line(tmp_path: Path) -> None:
    text = "\n".join(f"| list {number} | {'x' * 90} |" for number in range(100))
    with tracking.run("many") as run_id:
        tracking.set_description(run_id, text, "batch.parquet")
    found = tracking.client().get_run(run_id).data.tags["mlflow.note.content"]
    lines = found.splitlines()
    assert len(found) <= 8000 and lines[:-2] == text.splitlines()[: len(lines) - 2]
    assert lines[-1] == f"{100 - len(lines) + 2} more lines: batch.parquet" and len(lines) > 70


def test_a_run_that_is_taken_up_has_no_error_any_more(tmp_path: Path) -> None:
    tags = {"batch": str(tmp_path)}
    with pytest.raises(RuntimeError), tracking.run("night", tags=tags, same="batch") as first:
        raise RuntimeError("3 of 100 lists failed")
    assert "3 of 100" in tracking.client().get_run(first).data.tags["error"]
    with tracking.run("night", tags=tags, same="batch") as second:
        pass
    run = tracking.client().get_run(second)
    assert first == second and run.info.status == "FINISHED" and "error" not in run.data.tags


def test_all_that_a_killed_process_left_is_ended(tmp_path: Path) -> None:
    """The batch's run, its lists' and their stages'; not those of a place that others share."""
    client, experiment = tracking.client(), tracking.experiment_id()
    with tracking.run("night", output=str(tmp_path)) as batch, tracking.run("list", batch) as one:
        stage = client.create_run(experiment, tags={"mlflow.parentRunId": one}).info.run_id
    for run_id in (batch, one):
        client.update_run(run_id, status="RUNNING")
    with tracking.run("night", output=str(tmp_path), alone=False):
        pass
    assert client.get_run(stage).info.status == "RUNNING"
    with tracking.run("night", output=str(tmp_path)):
        assert {client.get_run(run_id).info.status for run_id in (batch, one, stage)} == {"KILLED"}
