"""A tracking or orchestration server goes away for a minute while a run works: the run goes on, and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
from prefect.client.orchestration import SyncPrefectClient

from infra.servers import answers
from tests.faults.runs import start_erase, wait_for
from tests.servers import free_port

SECONDS_AWAY = 60
SPEC = """
name: away
concepts: [taxi]
vocabulary: {{top_k: 4}}
training: {{steps: 40, batch_size: 1, trajectories: 1, latent_steps: 2}}
generation: {{seeds: [0], steps: 1}}
scoring: {{preserved: [bus], resamples: 100}}
output: {output}
"""


def server(kind: str, port: int, folder: Path) -> subprocess.Popen:
    """A real server of a kind, with its data in a folder."""
    commands = {
        "mlflow": ["mlflow", "server", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--workers", "1"],
        "prefect": ["prefect", "server", "start"],
    }
    command = [sys.executable, "-m", *commands[kind], "--host", "127.0.0.1", "--port", str(port)]
    places = ["--artifacts-destination", str(folder / "artifacts")] if kind == "mlflow" else []
    process = subprocess.Popen(
        command + places,
        env={**os.environ, "PREFECT_HOME": str(folder / "prefect")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(lambda: answers(port), process)
    return process


def end(process: subprocess.Popen, how: int = signal.SIGTERM) -> None:
    os.killpg(process.pid, how)
    process.wait()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["mlflow", "prefect"])
def test_away_for_a_minute(kind: str, tmp_path: Path) -> None:
    port, home = free_port(), tmp_path / "home"
    address = f"http://127.0.0.1:{port}"
    variables = {"MLFLOW_TRACKING_URI": address} if kind == "mlflow" else {"PREFECT_API_URL": f"{address}/api"}
    (tmp_path / "spec.yaml").write_text(SPEC.format(output=tmp_path / "out"))
    running = server(kind, port, tmp_path)
    try:
        process = start_erase("run", str(tmp_path / "spec.yaml"), home=home, **variables)
        wait_for(lambda: any((home / "training").glob("*/job.json")), process)
        end(running, signal.SIGKILL)
        gone = time.monotonic()
        wait_for(lambda: time.monotonic() > gone + SECONDS_AWAY, process)
        running = server(kind, port, tmp_path)
        assert process.wait() == 0, home.with_suffix(".log").read_text()
        if kind == "mlflow":
            client = mlflow.MlflowClient(address)
            runs = client.search_runs([client.get_experiment_by_name("erase").experiment_id])
            assert {run.info.status for run in runs} == {"FINISHED"} and len(runs) == 8
            (training,) = (run for run in runs if run.info.run_name == "training")
            steps = [metric.step for metric in client.get_metric_history(training.info.run_id, "update/erasing_loss")]
            assert sorted(steps) == list(range(40))
            assert client.get_model_version("away", "1").tags["concepts"] == "taxi"
        else:
            with SyncPrefectClient(f"{address}/api") as client:
                (run,) = client.read_flow_runs()
                tasks = {task.name.rsplit("-", 1)[0]: task for task in client.read_task_runs()}
            assert run.state.is_completed() and all(task.state.is_completed() for task in tasks.values())
            assert {"vocabulary", "embeddings", "nearest", "training", "images", "scores", "publish"} <= set(tasks)
    finally:
        end(running)
