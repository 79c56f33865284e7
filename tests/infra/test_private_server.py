"""A command's own Prefect server imports while the command does, and serves nobody who does not ask."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra import private_server

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


KILLED = """
import signal
os.kill(os.getpid(), signal.SIGKILL)
"""


def run(code: str, home: Path, **more: str) -> int:
    """Run the code in a process of its own, in a folder that has other modules of these names, and return what it prints."""
    ours = ("PREFECT_", "MLFLOW_", "ERASE_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    folder = home.parent / "elsewhere"
    for name in ("infra", "fastapi"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise RuntimeError('another module of this name')")
    given = {**environment, "ERASE_HOME": str(home), **more}
    command = [sys.executable, "-P", "-c", code]
    with open(home.parent / "printed", "w+") as printed:
        # Not a pipe, which the server would hold.
        subprocess.run(command, env=given, stdout=printed, cwd=folder, check=KILLED not in code)
        printed.seek(0)
        return int(printed.read())


def files(folder: Path) -> set[str]:
    return {place.name for place in folder.iterdir()} - {"elsewhere", "printed"}


def assert_ends(process: int) -> None:
    for _ in range(150):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":  # It has ended, and nobody has asked how.
            return
        time.sleep(0.1)
    pytest.fail("the server is still there")


@pytest.mark.parametrize("end", ["", KILLED])
def test_a_server_that_is_told_nothing_writes_nothing_and_ends(tmp_path: Path, end: str) -> None:
    assert_ends(run(WARMED + end, tmp_path / "home"))
    assert not files(tmp_path)


@pytest.mark.parametrize("end", ["", KILLED])
def test_it_serves_what_it_is_told_in_the_environment_of_then(tmp_path: Path, end: str) -> None:
    assert_ends(run(WARMED + STARTED + end, tmp_path / "home"))
    assert files(tmp_path) == {"home-told"}
    assert (tmp_path / "home-told" / "prefect" / "prefect.db").is_file()


def test_none_is_started_beside_one_that_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a server was started"))
    private_server.warm()
    private_server.start()()
