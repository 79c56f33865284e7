"""Losses of trainings that go on side by side."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import mlflow

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
