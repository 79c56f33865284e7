"""Results of stages, kept by the hash of everything they depend on: whole, verified, and made once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from .files import file_digest, home, new_folder, read_json, remove_partials, write_json

RECORD = "artifact.json"


class Artifact(BaseModel):
    """A stage's result: the folder of its files, how long they took to make, and whether they were there already.

    seconds: without any waiting for a slot.
    """

    stage: str
    key: str
    folder: Path
    seconds: float
    cached: bool = False

    def file(self, name: str) -> Path:
        return self.folder / name

    @property
    def began(self) -> float:
        """When its making began, in seconds since 1970."""
        return self.file(RECORD).stat().st_mtime - self.seconds


def folder_of(stage: str, key: str) -> Path:
    return home() / "cache" / stage / key


def find(stage: str, key: str) -> Artifact | None:
    """The artifact of a key, or None when it is absent or any of its files is missing or altered.

    The folder's own time says when it was used last; see `cleaning.py`.
    """
    folder = folder_of(stage, key)
    try:
        record = read_json(folder / RECORD)
        if any(file_digest(folder / name) != digest for name, digest in record["files"].items()):
            return None
    except (OSError, ValueError, KeyError):
        return None
    # A home that others own may be read only.
    with contextlib.suppress(OSError):
        os.utime(folder)
    return Artifact(stage=stage, key=key, folder=folder, seconds=record["seconds"], cached=True)


def produce(
    stage: str, key: str, build: Callable[[Path], None], slot: contextlib.AbstractContextManager | None = None
) -> Artifact:
    """Return the artifact of a key, calling build(folder) to make its files when they are not there.

    Two processes that want the same artifact make it once: the second waits for the first. slot is held while the files are
    made, and not while another makes them.
    """
    folder = folder_of(stage, key)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f".{key}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = find(stage, key)
        if known is not None:
            return known
        remove_partials(folder.parent, f"{key}.")
        with slot or contextlib.nullcontext(), new_folder(folder) as partial:
            began = time.perf_counter()
            build(partial)
            files = {
                p.relative_to(partial).as_posix(): file_digest(p) for p in sorted(partial.rglob("*")) if p.is_file()
            }
            write_json(
                partial / RECORD, {"stage": stage, "key": key, "seconds": time.perf_counter() - began, "files": files}
            )
    made = find(stage, key)
    if made is None:
        raise RuntimeError(f"{stage}: {folder} was changed while it was written")
    return made.model_copy(update={"cached": False})
