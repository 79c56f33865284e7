"""Run a command in a process of its own, and kill it when something appears."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SECONDS = 900


def start(command: list[str], log: Path, **environment: str) -> subprocess.Popen:
    """Start a command with its output in `log`."""
    with open(log, "w") as out:
        return subprocess.Popen(command, env={**os.environ, **environment}, stdout=out, stderr=subprocess.STDOUT)


def start_erase(*arguments: str, home: Path, **environment: str) -> subprocess.Popen:
    """Start the `erase` command; its output lies beside the home, in home.log."""
    own = {**places(home), **environment}
    return start([sys.executable, "-m", "flows.command", *arguments], home.with_suffix(".log"), **own)


def places(home: Path) -> dict[str, str]:
    """The environment of a process with a home of its own."""
    return {
        "ERASE_HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_LOCAL_STORAGE_PATH": str(home / "prefect" / "storage"),
        "MPLCONFIGDIR": str(home / "matplotlib"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow' / 'mlflow.db'}",
    }


def wait_for(what: Callable[[], object], process: subprocess.Popen, seconds: float = SECONDS) -> None:
    """Wait until something is true while a process runs. AssertionError when the process ends before; it is left in no case."""
    deadline = time.monotonic() + seconds
    try:
        while not what():
            assert process.poll() is None, f"ended with {process.returncode} before it could be disturbed"
            assert time.monotonic() < deadline, "did not come so far in time"
            time.sleep(0.01)
    except BaseException:
        process.kill()
        raise


def kill_when(process: subprocess.Popen, what: Callable[[], object]) -> None:
    """Kill a process, it alone and without a warning, as soon as something is true."""
    wait_for(what, process)
    process.send_signal(signal.SIGKILL)
    process.wait()


def processes_of(home: Path) -> list[int]:
    """Every process that works in a home."""
    wanted, found = f"ERASE_HOME={home}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def all_ended(home: Path, seconds: float = 60) -> bool:
    """Whether every process of a home ends within a time."""
    deadline = time.monotonic() + seconds
    while processes_of(home):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
