"""Batches for real: one list that fails among others, run again, and thirty lists that are killed twice on the way."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from prefect.client.orchestration import get_client

from erase_core.distributed.ranks import RanksFailed
from erase_core.emoji_world.catalogue import words
from erase_core.results import held
from erase_core.spec_errors import SpecError
from tests.command import erase, erase_here
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


def free_words() -> list[str]:
    """The world's words that the spec does not preserve."""
    return [word for word in words() if word not in ("bus", "apple")]


def test_a_batch_tells_of_failures_and_of_the_gate(server, tmp_path: Path) -> None:
    """A list that cannot work now fails the batch in its exit code, Prefect and MLflow; the next night goes on in the same run."""
    strict = {"strict.txt": "taxi # yellow\n", "strict.yaml": "gate: {max_clip_distance_preserved: 0.0}\n"}
    arguments = prepared(tmp_path, "nightly", {**strict, "busy.txt": "cat\n"})
    (tmp_path / "spec.yaml").write_text("method: uce\n" + (tmp_path / "spec.yaml").read_text())
    with held(tmp_path / "out" / "busy"):
        ran = erase_here(*arguments)
    assert ran.returncode == 1 and "2 lists: 1 done, 0 cached, 1 failed; the gate rejected 1." in ran.stdout
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])

    def parent():
        experiment = client.get_experiment_by_name("erase").experiment_id
        (found,) = client.search_runs([experiment], "tags.batch != '' and run_name = 'nightly'")
        return found

    assert parent().info.status == "FAILED" and parent().data.metrics["lists/rejected"] == 1
    assert "1 of 2 lists failed: busy" in parent().data.tags["error"]
    with get_client(sync_client=True) as prefect:
        assert [run.state_name for run in prefect.read_flow_runs() if run.name == "nightly"] == ["Failed"]

    ran = erase_here(*arguments)
    assert ran.returncode == 3 and "2 lists: 1 done, 1 cached, 0 failed; the gate rejected 1." in ran.stdout
    assert parent().info.status == "FINISHED"
    rows = json.loads(Path(client.download_artifacts(parent().info.run_id, "batch.json", str(tmp_path))).read_text())
    assert len(rows["data"]) == 2
    table = pd.read_parquet(tmp_path / "out" / "batch.parquet").set_index("list")
    assert table["gate"].fillna("").to_dict() == {"busy": "", "strict": "rejected"}


@pytest.fixture
def ends(monkeypatch) -> tuple[dict[str, list], list[str]]:
    """List → how each run of it ends, an error or else an ESR-1, the last for all that follow; and the lists that were run."""
    from flows import batch

    ends, ran = {}, []

    def erase(spec, parent: str, slots: bool) -> dict:
        name = spec.name.rpartition(" - ")[2]
        end = ends[name][min(ran.count(name), len(ends[name]) - 1)]
        ran.append(name)
        time.sleep(0.2)
        if isinstance(end, Exception):
            raise end
        return {"seconds": {}, "cached": [], "began": {}, "gate": None, "esr_1": end, "psr_1": 1.0}

    monkeypatch.setattr(batch, "erase", erase)
    return ends, ran


def table_of(folder: Path) -> dict[str, dict]:
    return pd.read_parquet(folder / "out" / "batch.parquet").set_index("list").to_dict("index")


def batch_run(name: str):
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    (found,) = client.search_runs(
        [client.get_experiment_by_name("erase").experiment_id], f"tags.batch != '' and run_name = '{name}'"
    )
    return client, found


def test_lists_that_may_end_otherwise_are_tried_once_more(server, ends, tmp_path: Path) -> None:
    how, ran = ends
    how |= {
        "passes": [ConnectionError("away"), 1.0],
        "broken": [ConnectionError("away")],
        "diverged": [RanksFailed("a loss is not a number", expected=True)],
        "wrong": [SpecError("concepts: no")],
        "fine": [1.0],
    }
    arguments = prepared(tmp_path, "again", {f"{name}.txt": f"{word}\n" for name, word in zip(how, free_words())})
    assert erase_here(*arguments).returncode == 1
    assert Counter(ran) == {"passes": 2, "broken": 2, "diverged": 1, "wrong": 1, "fine": 1}
    assert {ran[-1], ran[-2]} == {"passes", "broken"}, "when all others have ended"
    assert {
        name: row["status"] for name, row in table_of(tmp_path).items() if row["status"] != "done"
    } == dict.fromkeys(("broken", "diverged", "wrong"), "failed")


def test_a_fault_around_the_lists_ends_the_batch_and_the_next_one_goes_on(server, ends, tmp_path: Path) -> None:
    how, ran = ends
    chosen = [f"l{i:02d}" for i in range(30)]
    how |= {name: [OSError(errno.ENOSPC, "No space left on device"), 1.0] for name in chosen}
    # Not three in a row yet.
    how["l02"] = [ConnectionError("away")]
    arguments = prepared(tmp_path, "full", {f"{name}.txt": f"{word}\n" for name, word in zip(how, free_words())})
    refused = erase_here(*arguments)
    rows = table_of(tmp_path)
    waiting = [name for name in chosen if rows[name]["status"] == "not started"]
    assert refused.returncode == 1 and waiting and set(ran).isdisjoint(waiting) and len(ran) == len(set(ran))
    assert f"0 done, 0 cached, {30 - len(waiting)} failed, {len(waiting)} not started" in refused.stdout
    reason = "3 lists in a row failed with a full disk; run the batch again to go on"
    assert {rows[name]["reason"] for name in waiting} == {reason}
    client, run = batch_run("full")
    assert run.data.tags["error"].endswith(f"; not started: {', '.join(waiting)}")
    assert run.data.metrics["lists/not started"] == len(waiting)
    with get_client(sync_client=True) as prefect:
        states = [each.state_name for each in prefect.read_task_runs() if each.name == waiting[0]]
    assert states == ["Cancelled"]

    how |= dict.fromkeys(waiting, [1.0])
    assert erase_here(*arguments).returncode == 1
    assert {name for name, row in table_of(tmp_path).items() if row["status"] != "done"} == {"l02"}


def test_a_wrong_list_takes_no_other_with_it_and_nights_are_compared(server, ends, tmp_path: Path) -> None:
    how, ran = ends
    how |= {"cars": [1.0, 1.0, 0.5], "pets": [0.75]}
    lists = {"cars.txt": "taxi\n", "pets.txt": "cat\n", "mood.txt": "happiness\n"}
    arguments = prepared(tmp_path, "partly", lists)
    for more in ((), ("--check",), ("--check", "--skip-wrong")):
        refused = erase_here(*arguments, *more)
        assert refused.returncode == 2 and "mood.txt:1: concepts.0.concept: 'happiness'" in refused.stderr
    told = erase_here("nights", arguments[1])
    assert told.returncode == 2 and "MLflow has 0 nights of partly, and this takes 2" in told.stderr
    assert not ran and not (tmp_path / "out").exists()

    for _ in range(2):
        done = erase_here(*arguments, "--skip-wrong")
        assert done.returncode == 1 and "3 lists: 2 done, 0 cached, 1 failed." in done.stdout
        assert "mood.txt:1: concepts.0.concept: 'happiness'" in table_of(tmp_path)["mood"]["reason"]
        time.sleep(1)
    (tmp_path / "lists" / "mood.txt").write_text("rose\n")
    how["mood"] = [1.0]
    checked = erase_here(*arguments, "--check")
    assert checked.returncode == 0 and "3 lists, as they should be" in checked.stdout and len(ran) == 4
    assert erase_here(*arguments).returncode == 0

    client, run = batch_run("partly")
    history = client.get_metric_history(run.info.run_id, "lists/failed")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1), (2, 1), (3, 0)]
    kept = [each.path for each in client.list_artifacts(run.info.run_id, "nights")]
    assert len(kept) == 3 and all(re.fullmatch(r"nights/\d{4}-\d\d-\d\dT\d{6}Z\.parquet", path) for path in kept)
    told = erase_here("nights", arguments[1]).stdout
    assert "| cars | – | 100.0 % → 50.0 % | 100.0 % |" in told and "| mood | – | – → 100.0 % | – → 100.0 % |" in told
    assert "pets" not in told
    assert erase_here("nights", arguments[1], "--back", "2").stdout.splitlines()[1:] == told.splitlines()[1:]
    assert erase_here("nights", arguments[1], "--back", "3").returncode == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_interrupt_ends_a_batch_soon(tmp_path: Path) -> None:
    """The lists under way are stopped; each would have trained for minutes."""
    arguments = prepared(tmp_path, "long", {"a.txt": "taxi\n", "b.txt": "rose\n", "c.txt": "cat\n"})
    text = (tmp_path / "spec.yaml").read_text().replace("steps: 3,", "steps: 5000,")
    (tmp_path / "spec.yaml").write_text(text)
    home = tmp_path / "home"
    process = start_erase(*arguments, "--training-slots", "2", home=home)
    while len(list((home / "training").glob("*/checkpoints/step-*"))) < 2:
        assert process.poll() is None, home.with_suffix(".log").read_text()
        time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    assert process.returncode not in (0, None) and all_ended(home)


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
    assert "| wild | failed | – | rose |" in parent.data.tags["mlflow.note.content"]
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
    lists = {f"{i:02d}-{word.replace(' ', '-')}.txt": f"{word}\n" for i, word in enumerate(free_words()[:30])}
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
