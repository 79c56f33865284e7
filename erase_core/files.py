"""Files that are either whole or absent, and the content hashes that name them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
SECONDS_BETWEEN_LOOKS = 0.1
"""How soon a lock that another had is taken."""
WEIGHTS = (".safetensors", ".pth", ".pt")


class PlaceError(ValueError):
    """A place that cannot be written to, or must not be; the message names the field and the fix."""


def home() -> Path:
    """Where caches, the MLflow store and Prefect's database live: $ERASE_HOME, else ~/.erase."""
    return Path(os.environ.get("ERASE_HOME", "~/.erase")).expanduser().resolve()


def digest(*parts: Any) -> str:
    """A 16-digit hexadecimal hash of JSON-able parts; key order does not matter."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """A 16-digit hexadecimal hash of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def disk_full(error: object) -> bool:
    """Whether an error says that there is no room left to write."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def system_errors() -> Iterator[None]:
    """Raise an OSError where a library written in Rust, as safetensors is, tells one in words: "… (os error 28)"."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


@contextlib.contextmanager
def writing(field: str, place: Path) -> Iterator[None]:
    """Raise PlaceError for an OSError of the block, which writes to a place that the user named, or looks at it."""
    try:
        yield
    except OSError as error:
        raise PlaceError(f"{field}: cannot write {place}: {error.strerror or error}; name another place") from None


def check_file(field: str, place: Path, ending: str) -> None:
    """Raise PlaceError when no file can be written at `place`. Nothing is made."""
    with writing(field, place):
        if place.is_dir():
            raise PlaceError(f"{field}: {place} is a folder; give a file name that ends in {ending}")
        check_parent(field, place)


def check_folder(field: str, place: Path, ours: Callable[[Path], bool]) -> None:
    """Raise PlaceError when no folder can be written at `place`, or one would be replaced that is not `ours`. Nothing is made."""
    with writing(field, place):
        if os.path.lexists(place) and not place.is_dir():
            raise PlaceError(f"{field}: {place} is a file; name a new folder")
        if place.is_dir() and any(place.iterdir()) and not ours(place):
            raise PlaceError(f"{field}: {place} holds other files; name a new or an empty folder")
        check_parent(field, place)


def check_parent(field: str, place: Path) -> None:
    """Raise PlaceError when nothing can be made below the nearest folder of `place` that is there."""
    parent = next((p for p in place.absolute().parents if p.exists()), Path("/"))
    if not parent.is_dir():
        raise PlaceError(f"{field}: {str(parent)!r} is a file; name a folder that can be made")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PlaceError(f"{field}: cannot write to {parent}; choose another folder")


def lock(file: IO, meanwhile: Callable[[], None]) -> None:
    """Wait until no other has a file locked, and lock it. meanwhile: called again and again; what it raises ends the wait."""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            meanwhile()
            time.sleep(SECONDS_BETWEEN_LOOKS)


@contextlib.contextmanager
def alone(path: Path, meanwhile: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Keep other processes of this home that want the same path waiting until the block ends. meanwhile: as in `lock`."""
    locks = home() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with open(locks / digest("alone", str(path.resolve())), "w", encoding="utf-8") as file:
        lock(file, meanwhile)
        yield


def on_disk(file: Path) -> None:
    """Wait until a file's contents are on the disk: after a power cut, one that was renamed sooner may be empty. Raises OSError."""
    with open(file, "rb") as written:
        os.fsync(written.fileno())


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` that becomes `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    os.close(handle)
    partial = Path(name)
    try:
        with system_errors():
            yield partial
        os.chmod(partial, 0o644)
        on_disk(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that takes its place when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"))
    try:
        with system_errors():
            yield partial
        os.chmod(partial, 0o755)
        for file in partial.rglob("*"):
            if file.is_file() and not file.is_symlink():
                on_disk(file)
        # Aside first: a kill while a folder is deleted would leave half of it under its final name.
        aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"))
        if os.path.lexists(path):
            os.replace(path, aside / path.name)
        try:
            os.replace(partial, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.replace(aside / path.name, path)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_partials(folder: Path, name: str = "", idle: float = 0.0) -> None:
    """Remove what killed processes left beside `folder/name`, or in all of a folder. Only for who alone writes there, or for what
    nobody has written to for `idle` seconds.
    """
    for partial in folder.glob(f".{name}*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if idle and partial.stat().st_mtime > time.time() - idle:
                continue
        if partial.is_dir() and not partial.is_symlink():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def pictures_in(folder: str | Path) -> list[Path]:
    """The pictures of a folder, in the order of their names."""
    return sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in PICTURES)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    with new_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
