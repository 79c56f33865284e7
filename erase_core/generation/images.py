"""The images that a spec asks for, made and kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from diffusers import DiffusionPipeline

from ..files import new_file
from ..pictures import encode_png
from ..spec import Generation
from .dataset import SCHEMA, batches_of
from .plan import Wanted
from .sampler import Ready, sample


def generate(
    pipeline: DiffusionPipeline,
    wanted: list[Wanted],
    settings: Generation,
    model_hash: str,
    path: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    ready: Ready | None = None,
) -> None:
    """Make all wanted images and write them to `path`, in order, a row group a batch.

    ready: of this pipeline, when more is drawn by it than this.
    """
    done, ready = 0, ready or Ready(pipeline)
    with new_file(path) as partial, pq.ParquetWriter(partial, SCHEMA) as writer:
        for of, rows in batches_of(wanted, settings):
            (images,) = sample(pipeline, [w.prompt for w in rows], [w.seed for w in rows], of, ready=ready)
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
