"""Losses of trainings that go on side by side, and what a run that is repeated logs again."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from erase_core.artifacts import Artifact, produce
from tasks import tracking
from tests.tiny import grey_images

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


@pytest.mark.parametrize("own", [None, ZeroDivisionError, KeyboardInterrupt])
def test_losses_that_cannot_be_sent_are_given_up_at_the_first(own: type[BaseException] | None, monkeypatch) -> None:
    """The error of the training itself is told, where there is one."""
    monkeypatch.setattr(tracking, "SECONDS_BETWEEN_CALLS", 0.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(own or mlflow.MlflowException), tracking.StepMetrics("any") as metrics:
            for step in range(60):
                metrics.add({**RECORD, "step": step, "erasing_loss": 0.0})
            if own is not None:
                raise own
    assert time.monotonic() - began < 20


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


def test_runs_of_another_home_are_not_ended(tmp_path: Path, monkeypatch) -> None:
    """Hosts that share an MLflow server may have results at the same path; a home that is moved or shared is the same one."""
    client, out = tracking.client(), str(tmp_path / "out")
    monkeypatch.setattr(tracking, "EXPERIMENT", "of hosts")
    client.create_experiment("of hosts", artifact_location="s3://reached-by-all")
    monkeypatch.setenv("ERASE_HOME", str(tmp_path / "first"))
    with tracking.run("night", tags={"batch": "b"}, output=out, same="batch") as first:
        monkeypatch.setenv("ERASE_HOME", str(tmp_path / "second"))
        with tracking.run("night", tags={"batch": "b"}, output=out, same="batch") as second:
            assert second != first and client.get_run(first).info.status == "RUNNING"
    client.update_run(first, status="RUNNING")
    (tmp_path / "first").rename(tmp_path / "moved")
    monkeypatch.setenv("ERASE_HOME", str(tmp_path / "moved"))
    with tracking.run("night", output=out):
        assert client.get_run(first).info.status == "KILLED"
    with tracking.run("night", tags={"batch": "b"}, output=out, same="batch") as again:
        assert again == first


def test_files_of_runs_are_written_where_the_store_has_them_or_not_at_all(tmp_path: Path, monkeypatch) -> None:
    client = tracking.client()
    monkeypatch.setattr(tracking, "EXPERIMENT", "of a home")
    own = tracking.experiment_id()
    with pytest.raises(tracking.StoreError, match="^--for-others: .* begin in another home"):
        tracking.make_experiment(for_others=True)
    tracking.make_experiment()
    monkeypatch.setenv("ERASE_HOME", str(tmp_path / "other"))
    for use in (tracking.experiment_id, lambda: tracking.run("night").__enter__()):
        with pytest.raises(
            tracking.StoreError, match=f"^MLFLOW_TRACKING_URI: .*{client.get_experiment(own).artifact_location}"
        ):
            use()
    monkeypatch.setattr(tracking, "EXPERIMENT", "behind a server")
    tracking.make_experiment(for_others=True)
    tracking.make_experiment()
    with pytest.raises(tracking.StoreError, match="^MLFLOW_TRACKING_URI: .* set it to that server's address"):
        tracking.experiment_id()


@pytest.mark.parametrize("away", ["set_tag", "set_terminated"])
def test_an_error_that_mlflow_cannot_be_told_of_is_raised_itself(away: str, monkeypatch, capsys) -> None:
    def fail(*arguments: object) -> None:
        raise ConnectionError("MLflow is away\nfor long")

    with pytest.raises(RuntimeError, match="the disk is full"), tracking.run("night"):
        monkeypatch.setattr(tracking.client(), away, fail)
        raise RuntimeError("the disk is full")
    assert capsys.readouterr().out == "MLflow could not be told that night failed: ConnectionError: MLflow is away\n"


@pytest.fixture
def drawn(tmp_path: Path) -> Callable[[], Artifact]:
    """A stage that draws one image: made by the first call, from the cache after that."""

    def build(folder: Path) -> None:
        grey_images(folder / "images.parquet", [("a bus", "bus", 0)], (99,))
        pd.DataFrame({"word": ["bus"]}).to_parquet(folder / "words.parquet")

    return lambda: produce("drawing", tmp_path.name, build)


def logged(artifact: Artifact, hidden: bool = False) -> str:
    """The id of a stage's run."""
    with tracking.run("drawing") as run_id:
        tracking.log_stage(run_id, artifact, hidden)
    return run_id


def tables(run_id: str) -> set[str]:
    return {each.path for each in tracking.client().list_artifacts(run_id)}


def images_in(run_id: str) -> str | None:
    return tracking.client().get_run(run_id).data.tags.get("images_in")


def test_images_are_stored_once_and_other_tables_every_time(drawn) -> None:
    first, second, third = (logged(drawn()) for _ in range(3))
    assert tables(first) == {"images.parquet", "words.parquet"} and images_in(first) is None
    for later in (second, third):
        assert tables(later) == {"words.parquet"} and images_in(later) == first


def test_images_that_are_made_anew_are_stored_anew(drawn) -> None:
    logged(drawn())
    shutil.rmtree(drawn().folder)
    again = logged(drawn())
    assert "images.parquet" in tables(again) and images_in(again) is None
    assert images_in(logged(drawn())) == again


@pytest.mark.parametrize("end", ["killed", "failed"])
def test_what_was_broken_off_counts_for_nothing(drawn, end: str, monkeypatch) -> None:
    def away(*arguments: object) -> None:
        raise ConnectionError("MLflow is away")

    if end == "killed":
        tracking.client().set_terminated(logged(drawn()), "KILLED")
    else:
        with monkeypatch.context() as patch, pytest.raises(ConnectionError):
            patch.setattr(tracking.client(), "log_artifact", away)
            logged(drawn())
    again = logged(drawn())
    assert tables(again) == {"images.parquet", "words.parquet"} and images_in(again) is None
    assert images_in(logged(drawn())) == again


@pytest.mark.parametrize("lost", ["run", "files"])
def test_images_that_are_there_no_more_are_stored_again(drawn, lost: str) -> None:
    first = logged(drawn())
    if lost == "run":
        tracking.client().delete_run(first)
    else:
        shutil.rmtree(tracking.client().get_run(first).info.artifact_uri.removeprefix("file://"))
    again = logged(drawn())
    assert "images.parquet" in tables(again) and images_in(again) is None


def test_blurred_images_are_not_taken_for_shown_ones(drawn) -> None:
    shown, hidden = logged(drawn()), logged(drawn(), hidden=True)
    assert "images.parquet" in tables(hidden) and images_in(hidden) is None
    assert images_in(logged(drawn())) == shown and images_in(logged(drawn(), hidden=True)) == hidden


def test_images_of_one_key_that_differ_are_not_taken_for_each_other(drawn) -> None:
    """Two machines may draw a little differently."""
    own = drawn()
    logged(own)
    shutil.rmtree(own.folder)
    other = produce(
        "drawing", own.key, lambda folder: grey_images(folder / "images.parquet", [("a bus", "bus", 0)], (98,))
    )
    theirs = logged(other)
    assert images_in(logged(other.model_copy(update={"cached": True}))) == theirs
    shutil.rmtree(own.folder)
    assert images_in(logged(drawn().model_copy(update={"cached": True}))) not in (None, theirs)
