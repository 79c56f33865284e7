"""Scores with intervals, per concept and in all, from one row of verdicts an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import new_file
from .intervals import mean_interval

SCHEMA = pa.schema(
    [
        ("metric", pa.string()),
        ("concept", pa.string()),
        ("role", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
    ]
)
ALL = "all"
"""The `concept` of rows that summarise every concept of a role."""


def metric_columns(metrics: list[str], role: str) -> dict[str, tuple[str, bool]]:
    """Metric name → (column of the per-image table, whether a success is its negation), for one role."""
    found: dict[str, tuple[str, bool]] = {}
    if "erasure" in metrics:
        name, negate = ("esr", True) if role == "erased" else ("psr", False)
        for k in (1, 5):
            found[f"{name}_{k}"] = (f"sees_{k}_erased", negate)
            found[f"{name}_{k}_original"] = (f"sees_{k}_original", negate)
    if "clip_score" in metrics:
        found |= {"clip_score": ("clip_score_erased", False), "clip_score_original": ("clip_score_original", False)}
    if "image_distance" in metrics:
        found |= {"clip_distance": ("clip_distance", False), "pixel_distance": ("pixel_distance", False)}
    return found


def score(frame: pd.DataFrame, metrics: list[str], resamples: int, seed: int) -> pd.DataFrame:
    """The scores (metric, concept, role, value, low, high, n): for each concept, and for all concepts of a role.

    Intervals are 95 % bootstrap intervals, by concept for all concepts together and by image for one.
    """
    rows = []
    for role, part in frame.groupby("role", sort=False):
        for metric, (column, negate) in metric_columns(metrics, role).items():
            known = part[part[column].notna()] if column in part else part[:0]
            if known.empty:
                continue
            values = known[column].to_numpy(dtype=np.float64)
            values = 1 - values if negate else values
            clusters = known["concept"].to_numpy()
            rows.append(
                (metric, ALL, role, *mean_interval(values, clusters, resamples=resamples, seed=seed), len(values))
            )
            for concept in dict.fromkeys(clusters):
                own = values[clusters == concept]
                rows.append((metric, concept, role, *mean_interval(own, resamples=resamples, seed=seed), len(own)))
    return pd.DataFrame(rows, columns=SCHEMA.names)


def write_scores(path: Path, scores: pd.DataFrame) -> None:
    with new_file(path) as partial:
        pq.write_table(pa.Table.from_pandas(scores, SCHEMA, preserve_index=False), partial)


def headline(scores: pd.DataFrame) -> dict[str, float]:
    """The figures of a run by name: ESR and PSR, and every other metric with its role."""
    figures = {}
    for row in scores[scores["concept"] == ALL].itertuples():
        name = row.metric if row.metric.startswith(("esr", "psr")) else f"{row.metric}_{row.role}"
        figures[name] = row.value
        figures[f"{name}_low"], figures[f"{name}_high"] = row.low, row.high
    return figures
