"""What every rank does beside its work: end with its launcher, and leave its error where the launcher finds it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

from ..files import disk_full, read_json, write_json
from .environment import place

WATCHED = "ERASE_WATCH_STDIN"
"""Set where a rank's standard input is a pipe from its launcher, which ends when the launcher does, however it died."""

FAILURES = "ERASE_FAILURES"
"""Names the folder in which a launch's ranks leave their failures."""


def run_rank(work: Callable[[], None], expected: tuple[type[Exception], ...] = ()) -> NoReturn:
    """Do a rank's work and end the process. A failure is told where the launcher looks for it; its message alone where that says
    all: of an expected one, of input that is wrong (ValueError), of a full disk.
    """
    if os.environ.get(WATCHED):
        threading.Thread(target=end_with_launcher, daemon=True).start()
    try:
        work()
    except BaseException as error:
        lasting = isinstance(error, (*expected, ValueError)) or disk_full(error)
        traced = traceback.format_exc()
        print(traced, flush=True)
        told = str(error) if lasting else traced
        mine = place(os.environ)
        if FAILURES in os.environ:
            number, ranks = (mine.rank, mine.world_size) if mine else (0, 1)
            write_failure(Path(os.environ[FAILURES]), number, ranks, told, expected=lasting)
        end(1)
    end(0)


def end(status: int) -> NoReturn:
    """End the process at once: a group can hang, or abort, while it is taken down after others have left it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def end_with_launcher() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


class Failure(NamedTuple):
    """What a rank told of its end, and whether it is an error that was expected to happen, and will at every try."""

    told: str
    expected: bool


def write_failure(
    failures: Path, rank: int, world_size: int, told: str, killed: bool = False, expected: bool = False
) -> None:
    """Leave a rank's failure, unless it has left one itself."""
    path = failures / f"{rank}.json"
    if not path.exists():
        value = {"rank": rank, "ranks": world_size, "host": socket.gethostname(), "time": time.time()}
        write_json(path, value | {"killed": killed, "expected": expected, "told": told.strip()})


def write_death(failures: Path, rank: int, world_size: int, number: int) -> None:
    """Leave that a rank was killed by a signal."""
    name = signal.Signals(number).name
    hint = ", as the kernel does when memory runs out" if name == "SIGKILL" else ""
    write_failure(failures, rank, world_size, f"was killed by {name}{hint}", killed=True)


def read_failures(failures: Path) -> list[Failure]:
    """The ranks' failures, the cause first: a rank that was killed, then by time.

    The others fail because they lost it, and often find out before anyone sees that it was killed.
    """
    found = [read_json(path) for path in failures.glob("*.json")]
    found.sort(key=lambda failure: (not failure["killed"], failure["time"]))
    return [Failure(whose(failure) + failure["told"], failure["expected"]) for failure in found]


def whose(failure: dict) -> str:
    """Which rank it was that failed, where there is more to say than that it did."""
    if failure["ranks"] == 1 and not failure["killed"]:
        return ""
    at = f"rank {failure['rank']} of {failure['ranks']} on {failure['host']} "
    return at if failure["killed"] else f"{at}failed: "
