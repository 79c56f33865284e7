"""The folder of a run's results: who writes to it, and whether it is whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from .files import alone, digest, file_digest, home, remove_partials

UNFINISHED = ".unfinished"
"""A file that is in a folder of results while they are written."""


class InUse(RuntimeError):
    """Another run writes to the same folder."""


def digests(output: Path) -> dict[str, str]:
    """Hash of every file of a run's results, by its path in the folder; all but summary.json, which holds them."""
    files = (p for p in sorted(output.rglob("*")) if p.is_file() and p.name not in ("summary.json", UNFINISHED))
    return {p.relative_to(output).as_posix(): file_digest(p) for p in files}


@contextlib.contextmanager
def held(output: Path, shared: bool = False, begin: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Keep a folder of results for this run alone, or for those alone that share it.

    begin: called where no other has the folder, before any other can have it. Raises InUse while another run holds it; a dead one
    holds nothing.
    """
    with open(lock_of(output), "a+", encoding="utf-8") as lock:
        # Whoever else comes waits meanwhile: a lock that becomes a shared one is free for a moment.
        with alone(output):
            if first := taken(lock, fcntl.LOCK_EX):
                lock.truncate(0)
                remove_partials(output)
                begin()
            if not (taken(lock, fcntl.LOCK_SH) if shared else first):
                raise InUse(
                    f"output: {writers(lock)} writing to {str(output)!r}; wait for it to end, or choose another folder"
                )
            lock.write(f"{os.getpid()}\n")
            lock.flush()
        yield


def free(output: Path) -> bool:
    """Whether no run holds a folder of results now. No run that wants it is refused for this look."""
    with alone(output), open(lock_of(output), "a", encoding="utf-8") as lock:
        return taken(lock, fcntl.LOCK_EX)


def lock_of(output: Path) -> Path:
    """The file that is locked while a folder of results is held; in it are the processes that hold it, one a line."""
    locks = home() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    return locks / digest(str(output.resolve()))


def taken(lock: IO, kind: int) -> bool:
    """Whether a lock of this kind could be taken at once."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
        return True
    return False


def writers(lock: IO) -> str:
    """The processes that a lock's file names and that are alive, with the verb: "processes 12, 34 are"."""
    lock.seek(0)
    living = [number for number in dict.fromkeys(lock.read().split()) if lives(int(number))]
    if not living:
        return "another process is"
    return f"process {living[0]} is" if len(living) == 1 else f"processes {', '.join(living)} are"


def lives(number: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
