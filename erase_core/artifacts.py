"""Results of stages, kept by the hash of everything they depend on: whole, verified, and made once."""

from __future__ import annotations

import contextlib
import contextvars
import os
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from .files import file_digest, home, lock, new_folder, read_json, remove_partials, write_json
from .versions import versions

RECORD = "artifact.json"
meanwhile: contextvars.ContextVar[Callable[[], None]] = contextvars.ContextVar("meanwhile", default=lambda: None)
"""Called again and again by what waits for another process's artifact; what it raises ends the wait."""


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

    @property
    def record(self) -> dict:
        """What was written down when it was made: files (hashes by name), inputs, and versions of packages."""
        return read_json(self.file(RECORD))

    def content_of(self, name: str) -> dict[str, str]:
        """The hash of one of its files by the file's place in the cache, as an input of another stage."""
        return {f"{self.stage}/{self.key}/{name}": self.record["files"][name]}


def folder_of(stage: str, key: str) -> Path:
    return home() / "cache" / stage / key


def find(stage: str, key: str) -> Artifact | None:
    """The artifact of a key, or None when it is absent, any of its files is missing or altered, or an input has other contents now.

    The folder's own time says when it was used last; see `cleaning.py`.
    """
    folder = folder_of(stage, key)
    try:
        record = read_json(folder / RECORD)
        if any(file_digest(folder / name) != digest for name, digest in record["files"].items()):
            return None
        # A training that is made again under its key has a little other weights on another machine.
        if any(content_now(place) not in (None, content) for place, content in record.get("inputs", {}).items()):
            return None
    except (OSError, ValueError, KeyError):
        return None
    # A home that others own may be read only.
    with contextlib.suppress(OSError):
        os.utime(folder)
    return Artifact(stage=stage, key=key, folder=folder, seconds=record["seconds"], cached=True)


def content_now(place: str) -> str | None:
    """The hash of a file that the cache has under this place, as `Artifact.content_of` gives it; None when it is not there."""
    stage, key, name = place.split("/", 2)
    with contextlib.suppress(OSError, ValueError, KeyError):
        return read_json(folder_of(stage, key) / RECORD)["files"][name]
    return None


def produce(
    stage: str,
    key: str,
    build: Callable[[Path], None],
    slot: contextlib.AbstractContextManager | None = None,
    inputs: dict[str, str] | None = None,
) -> Artifact:
    """Return the artifact of a key, calling build(folder) to make its files when they are not there.

    Two processes that want the same artifact make it once: the second waits for the first. slot is held while the files are
    made, and not while another makes them. inputs: the contents that build reads, as `Artifact.content_of` gives them, where the
    key does not tell them apart; with others there it is made anew.
    """
    folder = folder_of(stage, key)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f".{key}.lock", "w") as file:
        lock(file, meanwhile.get())
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
            record = {"stage": stage, "key": key, "seconds": time.perf_counter() - began, "files": files}
            write_json(partial / RECORD, record | {"inputs": inputs or {}, "versions": versions()})
    made = find(stage, key)
    if made is None:
        raise RuntimeError(f"{stage}: {folder} was changed while it was written")
    return made.model_copy(update={"cached": False})
