"""The Parquet dataset that images are kept in. Needs no torch."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import new_file
from ..pictures import decode_png
from ..spec import Generation
from .plan import Wanted

READ_TOGETHER = 256
"""Images that are decoded, and judged, together."""
SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),
        ("concept", pa.string()),
        ("seed", pa.int64()),
        ("model", pa.string()),
        ("png", pa.binary()),
    ]
)


def batches_of(wanted: list[Wanted], settings: Generation) -> Iterator[tuple[Generation, list[Wanted]]]:
    """The images that are sampled together, in order, with their settings: of one guidance scale, at most batch_size.

    A batch is made in one piece whichever rank makes it, so that the number of ranks changes no bit of an image.
    """
    for own, part in itertools.groupby(wanted, key=lambda w: w.guidance_scale):
        of = settings if own is None else settings.model_copy(update={"guidance_scale": own})
        rows = list(part)
        for start in range(0, len(rows), settings.batch_size):
            yield of, rows[start : start + settings.batch_size]


def join_datasets(pieces: list[Path], path: Path) -> None:
    """Write the images of several datasets as one, in order, with the pieces' row groups."""
    with new_file(path) as partial, pq.ParquetWriter(partial, SCHEMA) as writer:
        for piece in pieces:
            file = pq.ParquetFile(piece)
            for group in range(file.num_row_groups):
                writer.write_table(file.read_row_group(group))


def images_at(path: Path, rows: Container[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the images of some rows of a file, with their rows, in the file's order; no others are decoded."""
    pngs = (png for batch in pq.ParquetFile(path).iter_batches(READ_TOGETHER, columns=["png"]) for png in batch["png"])
    for row, png in enumerate(pngs):
        if row in rows:
            yield row, decode_png(png.as_py())


def read_images(
    path: Path, batch_size: int = READ_TOGETHER, chosen: Container[int] | None = None
) -> Iterator[tuple[list[Wanted], np.ndarray]]:
    """Yield batches of (what was wanted, images uint8 [B, H, W, 3]): all, or those whose numbers are chosen."""
    for number, batch in enumerate(pq.ParquetFile(path).iter_batches(batch_size)):
        if chosen is not None and number not in chosen:
            continue
        rows = batch.to_pylist()
        yield (
            [Wanted(row["prompt"], row["concept"], row["seed"]) for row in rows],
            np.stack([decode_png(row["png"]) for row in rows]),
        )
