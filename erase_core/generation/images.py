"""The images to make for a spec, and the Parquet dataset they are kept in."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Container, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from diffusers import DiffusionPipeline
from PIL import Image

from ..files import new_file
from ..spec import Generation
from .plan import Wanted
from .sampler import sample

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


def encode_png(pixels: np.ndarray) -> bytes:
    """Pixels uint8 [H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def decode_png(png: bytes) -> np.ndarray:
    """PNG as pixels uint8 [H, W, 3]."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def generate(
    pipeline: DiffusionPipeline,
    wanted: list[Wanted],
    settings: Generation,
    model_hash: str,
    path: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Make all wanted images and write them to `path`, in order, a row group a batch."""
    done = 0
    with new_file(path) as partial, pq.ParquetWriter(partial, SCHEMA) as writer:
        for of, rows in batches_of(wanted, settings):
            (images,) = sample(pipeline, [w.prompt for w in rows], [w.seed for w in rows], of)
            writer.write_table(
                pa.Table.from_pylist(
                    [
                        {
                            "prompt": w.prompt,
                            "concept": w.concept,
                            "seed": w.seed,
                            "model": model_hash,
                            "png": encode_png(i),
                        }
                        for w, i in zip(rows, images)
                    ],
                    schema=SCHEMA,
                )
            )
            done += len(images)
            progress(done, len(wanted))


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


def grid(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """Lay images uint8 [N, H, W, 3] out in rows of `columns` on white; uint8 [H', W', 3]."""
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, min(columns, count) * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet
