"""Trajectories on disk: a memory-mapped Arrow file for each word, in a folder of bounded size."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from ..distributed.messages import at_work
from ..files import alone, digest, home, new_file, remove_partials
from ..spec import Training

ENDING = ".arrow"
VERSION = 2
"""Raise it when the same word, model and settings give other trajectories, or other files."""
Parts = dict[str, np.ndarray]
"""Arrays [N, …] by name, a trajectory a row."""
ABANDONED = 3600.0
"""Seconds after which a file that is still being written is a killed process's."""


def folder_for(training: Training, model: str) -> Path:
    """Where runs on one model (its hash) and machine share trajectories, which may be deleted at any time."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    made_by = digest(VERSION, model, training.precision, training.frozen_precision, torch.__version__, device)
    return home() / "trajectories" / made_by


def checksum(parts: Parts) -> bytes:
    found = hashlib.sha256()
    for part in parts.values():
        found.update(part)
    return found.hexdigest().encode()


def write(path: Path, parts: Parts) -> None:
    """Write each array as a column of fixed-shape tensors; the file is whole or absent."""
    columns = [pa.FixedShapeTensorArray.from_numpy_ndarray(part) for part in parts.values()]
    batch = pa.record_batch(columns, names=list(parts)).replace_schema_metadata({"sha256": checksum(parts)})
    with new_file(path) as partial, pa.ipc.new_file(partial, batch.schema) as writer:
        writer.write_batch(batch)


def read(path: Path) -> Parts | None:
    """The arrays of a file, which stay on disk until they are used; None where there is no file or it is damaged."""
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except (OSError, pa.ArrowInvalid):
        return None
    mark_used(path)
    parts = {name: batch.column(name).to_numpy_ndarray() for name in batch.schema.names}
    return parts if batch.schema.metadata[b"sha256"] == checksum(parts) else None


def mark_used(path: Path) -> None:
    """The files used last are the last to go when the folder is full."""
    # It may be gone, or another user's. The time that the system would set is the same for some milliseconds.
    with contextlib.suppress(OSError):
        os.utime(path, ns=(time.time_ns(), time.time_ns()))


def shared(path: Path, make: Callable[[], Parts]) -> Parts:
    """The arrays of a file, made where there is none or it is damaged. Of processes that want the same at once one makes it."""
    if (found := read(path)) is not None:
        return found
    # Not a lock each: its file stays, and there are as many as words.
    with alone(path.parent / path.name[:2], at_work):
        if (found := read(path)) is not None:
            return found
        made = make()
        write(path, made)
        # Mapped, so that many words take no memory of their own.
        return read(path) or made


def trim(folder: Path, most: float, used: Iterable[Path] = ()) -> None:
    """Remove the files that were not used for longest until all take no more than `most` bytes; open ones stay readable.

    used: those that this process uses, the one used last at the end. What killed processes left goes after an hour.
    """
    for path in used:
        mark_used(path)
    remove_partials(folder, idle=ABANDONED)
    found = []
    for path in folder.glob(f"*{ENDING}"):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            found.append((status.st_mtime_ns, status.st_size, path))
    size = sum(each for _, each, _ in found)
    for _, each, path in sorted(found):
        if size <= most:
            return
        path.unlink(missing_ok=True)
        size -= each
