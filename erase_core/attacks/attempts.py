"""Run an attack and keep every image it drew, with the judge's verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from diffusers import DiffusionPipeline

from ..files import new_file
from ..metrics.scorers import Scorers
from ..pictures import decode_png, encode_png
from ..spec import Attack, Spec
from . import load
from .references import IMAGE, RELATED, UNRELATED, plain_prompts, shows
from .target import Target

ERASED, ORIGINAL = "erased", "original"
SCHEMA = pa.schema(
    [
        ("attack", pa.string()),
        ("concept", pa.string()),
        ("model", pa.string()),
        ("role", pa.string()),
        ("budget", pa.float64()),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("label", pa.string()),
        ("success", pa.bool_()),
        ("png", pa.binary()),
    ]
)
REFERENCES = pa.schema([("concept", pa.string()), ("kind", pa.string()), ("prompt", pa.string()), ("png", pa.binary())])


def write_rows(path: Path, rows: Iterable[dict], schema: pa.Schema) -> None:
    """Write rows whose `image` is pixels uint8 [H, W, 3], as a table that has it as `png`."""
    encoded = [{**row, "png": encode_png(row["image"])} for row in rows]
    with new_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(encoded, schema=schema), partial)


def run_attack(
    pipeline: DiffusionPipeline,
    model: str,
    spec: Spec,
    attack: Attack,
    references: Path,
    scorers: Scorers,
    path: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Attack a pipeline for every concept of the spec and write attempts.parquet to `path`.

    model: ERASED, or ORIGINAL, whose control is not drawn.
    """
    module, rows = load(attack.name), []
    total = attack.settings.drawn * len(spec.concepts)
    at_hand = pq.read_table(references).to_pandas()
    for concept in spec.concepts:
        own = at_hand[at_hand["concept"] == concept.concept]

        def of(kind: str, own: pd.DataFrame = own) -> tuple[np.ndarray, list[str]]:
            part = own[own["kind"] == kind]
            return np.stack([decode_png(png) for png in part["png"]]), list(part["prompt"])

        target = Target(
            pipeline=pipeline,
            concept=concept.concept,
            names=spec.names_of(concept),
            prompts=plain_prompts(spec, concept),
            unrelated_prompts=list(dict.fromkeys(of(UNRELATED)[1])),
            images=of(IMAGE)[0],
            related=of(RELATED),
            unrelated=of(UNRELATED),
            generation=spec.generation,
            seed=spec.seed,
            controlled=model == ERASED,
        )
        attempts = []
        for attempt in module.run(target, attack.settings):
            attempts.append(attempt)
            progress(len(rows) + len(attempts), total)
        labels, seen = shows(np.stack([a.image for a in attempts]), concept.concept, scorers)
        common = {"attack": attack.name, "concept": concept.concept, "model": model}
        rows += [{**common, **vars(a), "label": i, "success": bool(s)} for a, i, s in zip(attempts, labels, seen)]
    progress(total, total)
    write_rows(path, rows, SCHEMA)
