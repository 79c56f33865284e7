"""Which errors are faults of what is around a run, and which another try may mend."""

from __future__ import annotations

import errno
import os

import httpx
import mlflow
import pytest

from erase_core.distributed.ranks import RanksFailed
from erase_core.hub import HubAway
from erase_core.results import InUse
from erase_core.spec_errors import SpecError
from tasks.faults import may_pass, surroundings
from tasks.progress import Stopped
from tests.servers import free_port


def answered(status: int) -> httpx.HTTPStatusError:
    response = httpx.Response(status, request=httpx.Request("GET", "http://prefect/api"))
    return httpx.HTTPStatusError("", request=response.request, response=response)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


FULL = OSError(errno.ENOSPC, "No space left on device")
ERRORS = {
    "a full disk": (FULL, "a full disk", True),
    "a full disk of a rank": (RanksFailed(str(FULL), expected=True), "a full disk", True),
    "a rank's quota": (RanksFailed(os.strerror(errno.EDQUOT), expected=True), "a full disk", True),
    "a full disk below MLflow": (caused(mlflow.MlflowException("cannot copy"), FULL), "a full disk", True),
    "a full database": (mlflow.MlflowException("(sqlite3) database or disk is full"), "a full disk", True),
    "Prefect away": (httpx.ConnectError("refused"), "Prefect away", True),
    "Prefect broken": (answered(503), "Prefect away", True),
    "Prefect refusing": (answered(409), None, True),
    "the hub away": (HubAway("model: no network"), "the model hub away", True),
    "another run there": (InUse("output"), None, True),
    "a rank that was killed": (RanksFailed("was killed by SIGKILL"), None, True),
    "diverged": (RanksFailed("a loss is not a number", expected=True), None, False),
    "wrong": (SpecError("concepts: no"), None, False),
    "stopped": (Stopped(), None, False),
}


@pytest.mark.parametrize(("error", "around", "again"), ERRORS.values(), ids=ERRORS)
def test_what_an_error_is_of(error: Exception, around: str | None, again: bool) -> None:
    assert surroundings(error) == around and may_pass(error) is again


def test_a_tracking_server_that_is_away_is_told_from_one_that_refuses(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(mlflow.MlflowException) as away:
        mlflow.MlflowClient(f"http://127.0.0.1:{free_port()}").get_run("a" * 32)
    assert surroundings(away.value) == "MLflow away" and may_pass(away.value)
    with pytest.raises(mlflow.MlflowException) as refused:
        mlflow.MlflowClient().get_run("a" * 32)
    assert surroundings(refused.value) is None
