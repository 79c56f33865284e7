"""Batches for real: one list that fails among others, run again, and thirty lists that are killed twice on the way."""

from __future__ import annotations

import json
import os
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from prefect.client.orchestration import get_client

from erase_core.emoji_world.catalogue import words
from tests.command import erase
from tests.faults.runs import all_ended, kill_when, start_erase

SPEC = """
name: {name}
vocabulary: {{top_k: 4}}
training: {{steps: 3, batch_size: 1, trajectories: 1, latent_steps: 2, checkpoint_every: 1}}
generation: {{seeds: [0], steps: 2}}
scoring: {{preserved: [bus, apple], resamples: 100}}
output: {output}
"""


def prepared(folder: Path, name: str, lists: dict[str, str]) -> tuple[str, ...]:
    """The batch's arguments, once its files are written."""
    (folder / "spec.yaml").write_text(SPEC.format(name=name, output=folder / "out"))
    (folder / "lists").mkdir()
    for file, text in lists.items():
        (folder / "lists" / file).write_text(text)
    return "batch", str(folder / "spec.yaml"), "--lists", str(folder / "lists")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_list_fails_alone_and_only_what_is_missing_is_made(tmp_path: Path) -> None:
    wild = "training: {steps: 20, learning_rate: 1e4, divergence: 1.0}\n"
    lists = {
        "taxis.txt": "taxi\n",
        "wild.txt": "rose\n",
        "wild.yaml": wild,
        "again.txt": "taxi\n",
        "again.yaml": "seed: 1\n",
    }
    arguments = prepared(tmp_path, "batch test", lists)
    ran = erase(*arguments, "--training-slots", "2")
    assert ran.returncode == 1, ran.stderr
    assert "3 lists: 2 done, 0 cached, 1 failed." in ran.stdout
    table = pd.read_parquet(tmp_path / "out" / "batch.parquet").set_index("list")
    assert table["status"].to_dict() == {"again": "done", "taxis": "done", "wild": "failed"}
    assert "lower training.learning_rate" in table.loc["wild", "reason"]
    summaries = [json.loads((tmp_path / "out" / name / "summary.json").read_text()) for name in ("taxis", "again")]
    assert summaries[0]["keys"]["training"] != summaries[1]["keys"]["training"]
    for shared in ("vocabulary", "embeddings", "original"):
        assert summaries[0]["keys"][shared] == summaries[1]["keys"][shared]
        assert sum(shared not in summary["cached"] for summary in summaries) <= 1

    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("erase").experiment_id
    (parent,) = client.search_runs([experiment], "tags.batch != ''")
    children = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert {run.info.run_name: run.info.status for run in children} == {
        "batch test - taxis": "FINISHED", "batch test - again": "FINISHED", "batch test - wild": "FAILED",
    }  # fmt: skip
    assert "| wild | failed | rose |" in parent.data.tags["mlflow.note.content"]
    assert {"batch.json", "batch.parquet"} <= {a.path for a in client.list_artifacts(parent.info.run_id)}
    with get_client(sync_client=True) as prefect:
        (artifact,) = (a for a in prefect.read_artifacts() if a.key == "batch")
        limits = {limit.name.split("-")[0]: limit.limit for limit in prefect.read_global_concurrency_limits()}
    assert {row["list"] for row in json.loads(artifact.data)} == {"taxis", "again", "wild"}
    assert limits == {"training": 2, "generation": 1}

    (tmp_path / "lists" / "wild.yaml").unlink()
    (tmp_path / "out" / "again" / "images.parquet").write_bytes(b"not the images")
    ran = erase(*arguments)
    assert ran.returncode == 0, ran.stderr
    table = pd.read_parquet(tmp_path / "out" / "batch.parquet").set_index("list")
    assert table["status"].to_dict() == {"again": "done", "taxis": "cached", "wild": "done"}
    again = json.loads((tmp_path / "out" / "again" / "summary.json").read_text())
    assert set(again["cached"]) == set(again["keys"])


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_thirty_lists_killed_twice(tmp_path: Path) -> None:
    """All thirty are done, none twice, and the two training slots idle for less than a tenth of the time."""
    home, out = tmp_path / "home", tmp_path / "out"
    chosen = [word for word in words() if word not in ("bus", "apple")][:30]
    lists = {f"{i:02d}-{word.replace(' ', '-')}.txt": f"{word}\n" for i, word in enumerate(chosen)}
    arguments = (*prepared(tmp_path, "thirty", lists), "--training-slots", "2")

    def finished() -> int:
        return len(list(out.glob("*/summary.json")))

    for count in (4, 8):
        kill_when(start_erase(*arguments, home=home), lambda count=count: finished() >= count)
        assert all_ended(home)
    process = start_erase(*arguments, home=home)
    assert process.wait() == 0, home.with_suffix(".log").read_text()

    table = pd.read_parquet(out / "batch.parquet")
    assert len(table) == 30 and set(table["status"]) <= {"done", "cached"} and (table["status"] == "cached").sum() >= 7
    trained = list((home / "cache" / "training").glob("*/artifact.json"))
    assert len(trained) == 30
    client = mlflow.MlflowClient(f"sqlite:///{home / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("erase").experiment_id
    (parent,) = client.search_runs([experiment], "tags.batch != ''")
    children = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent.info.run_id}'", max_results=1000)
    whole = [run.info.run_name for run in children if run.info.status == "FINISHED"]
    assert len(whole) == len(set(whole)) == 30 and {run.info.status for run in children} == {"FINISHED", "KILLED"}
    print(parent.data.tags["mlflow.note.content"], parent.data.metrics)
    assert parent.data.metrics["slots_busy/training"] > 0.9
