"""The folder of a run's results: who writes to it, and whether it is whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .files import digest, file_digest, home, remove_partials

UNFINISHED = ".unfinished"
"""A file that is in a folder of results while they are written."""


class InUse(RuntimeError):
    """Another run writes to the same folder."""


def digests(output: Path) -> dict[str, str]:
    """Hash of every file of a run's results, by its path in the folder; all but summary.json, which holds them."""
    files = (p for p in sorted(output.rglob("*")) if p.is_file() and p.name not in ("summary.json", UNFINISHED))
    return {p.relative_to(output).as_posix(): file_digest(p) for p in files}


@contextlib.contextmanager
def held(output: Path, shared: bool = False) -> Iterator[bool]:
    """Keep a folder of results for this run alone, or for those alone that share it. Yields whether no other has it by then.

    Raises InUse while another run holds it; a dead one holds nothing.
    """
    locks = home() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with open(locks / digest(str(output.resolve())), "a+", encoding="utf-8") as lock:
        if alone := taken(lock, fcntl.LOCK_EX):
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            remove_partials(output)
        if not (taken(lock, fcntl.LOCK_SH) if shared else alone):
            lock.seek(0)
            raise InUse(
                f"output: process {lock.read() or 'unknown'} is writing to {str(output)!r}; wait for it, or choose another folder"
            )
        yield alone


def taken(lock: IO, kind: int) -> bool:
    """Whether a lock of this kind could be taken at once."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
        return True
    return False
