"""What a home keeps so that it need not be made twice, and what of it has not been used for long."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .files import home
from .results import taken

DAY = 24 * 3600


@dataclass(frozen=True)
class Kept:
    """A file or folder that is made again when it is asked for: its size in bytes, and when it was last used."""

    kind: str
    path: Path
    size: int
    used: float


def kept() -> Iterator[Kept]:
    """Stages' results, converted checkpoints, trajectories, what killed processes left of these, and what stages that were broken
    off would go on from.
    """
    for folder in home().glob("cache/*/[!.]*"):
        # What a stage made keeps its files' times; the folder's is when it was last asked for.
        yield from measured(f"cache/{folder.parent.name}", folder, [folder])
    for file in home().glob("trajectories/*/[!.]*"):
        yield from measured("trajectories", file, [file])
    for partial in [*home().glob("cache/*/.*.partial"), *home().glob("trajectories/*/.*.partial")]:
        if not being_made(partial):
            yield from measured("left by killed runs", partial, [partial, *partial.rglob("*")])
    for kind in ("training", "shards", "pretraining"):
        for folder in home().glob(f"{kind}/*"):
            yield from measured(kind, folder, [folder, *folder.rglob("*")])


def being_made(partial: Path) -> bool:
    """Whether a process makes the artifact that a temporary folder is for: a training of days writes there at its end alone."""
    key = partial.name.rsplit(".", 2)[0]
    try:
        with open(partial.parent / f"{key}.lock", "r+") as lock:
            return not taken(lock, fcntl.LOCK_EX)
    except FileNotFoundError:
        return False


def measured(kind: str, place: Path, used: list[Path]) -> Iterator[Kept]:
    """One that is there still: others may remove it meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        files = [place, *place.rglob("*")]
        size = sum(file.stat().st_size for file in files if file.is_file())
        yield Kept(kind, place, size, max(each.stat().st_mtime for each in used))


def unused(days: float) -> list[Kept]:
    """What no run has made or used for so many days, longest unused first."""
    before = time.time() - days * DAY
    return sorted((each for each in kept() if each.used < before), key=lambda each: each.used)


def remove(each: Kept) -> None:
    """Remove it. Should a run that is under way have found it just now, that stage fails, and makes it anew when tried again."""
    if each.path.is_dir():
        shutil.rmtree(each.path)
    else:
        each.path.unlink(missing_ok=True)
