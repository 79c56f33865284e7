"""The images to make for a spec, and the Parquet dataset they are kept in."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
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
    batches = itertools.chain.from_iterable(
        sample(pipeline, [w.prompt for w in part], [w.seed for w in part], of)
        for of, part in by_guidance(wanted, settings)
    )
    done = 0
    with new_file(path) as partial, pq.ParquetWriter(partial, SCHEMA) as writer:
        for images in batches:
            rows = wanted[done : done + len(images)]
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


def by_guidance(wanted: list[Wanted], settings: Generation) -> Iterator[tuple[Generation, list[Wanted]]]:
    """Runs of images of one guidance scale, in order, each with its settings."""
    for own, part in itertools.groupby(wanted, key=lambda w: w.guidance_scale):
        yield settings if own is None else settings.model_copy(update={"guidance_scale": own}), list(part)


def read_images(path: Path, batch_size: int = 256) -> Iterator[tuple[list[Wanted], np.ndarray]]:
    """Yield batches of (what was wanted, images uint8 [B, H, W, 3])."""
    for batch in pq.ParquetFile(path).iter_batches(batch_size):
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
