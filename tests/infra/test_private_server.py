"""A command's own Prefect server imports while the command does, and serves nobody who does not ask."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

WARMED = """
import os, sys, time
from infra.environment import prepare
from infra.private_server import start, waiting, warm
warm()
[server] = waiting
warm()
assert waiting == [server]
print(server.pid, flush=True)
time.sleep(1)
"""
STARTED = """
os.environ["ERASE_HOME"] += "-told"
prepare()
ready = start()
assert not waiting
ready()
assert server.poll() is None
"""


def run(code: str, home: Path, **more: str) -> int:
    """Run the code in a process of its own and return the number of the server's process."""
    ours = ("PREFECT_", "MLFLOW_", "ERASE_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    given = {**environment, "ERASE_HOME": str(home), **more}
    ran = subprocess.run([sys.executable, "-c", code], env=given, stdout=subprocess.PIPE, text=True, check=True)
    return int(ran.stdout)


def assert_ends(process: int) -> None:
    for _ in range(200):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the server is still there")


def test_a_server_that_is_told_nothing_writes_nothing_and_ends(tmp_path: Path) -> None:
    assert_ends(run(WARMED, tmp_path / "home"))
    assert not list(tmp_path.iterdir())


def test_it_serves_what_it_is_told_in_the_environment_of_then(tmp_path: Path) -> None:
    assert_ends(run(WARMED + STARTED, tmp_path / "home"))
    assert [place.name for place in tmp_path.iterdir()] == ["home-told"]
    assert (tmp_path / "home-told" / "prefect" / "prefect.db").is_file()


def test_none_is_started_beside_one_that_is_configured(tmp_path: Path) -> None:
    code = "from infra.private_server import start, waiting, warm; warm(); start()(); print(len(waiting))"
    assert run(code, tmp_path / "home", PREFECT_API_URL="http://127.0.0.1:1/api") == 0
