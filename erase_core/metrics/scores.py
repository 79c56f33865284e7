"""Scores with intervals, per concept and in all, from one row of verdicts an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import new_file
from ..generation.plan import ERASED, GENERAL
from ..spec_texts import ALL
from .erasure import TOP
from .intervals import clustered_share, mean_interval, share_interval
from .nudity import THRESHOLDS

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


@dataclass(frozen=True)
class Measure:
    """A metric's value in each image, from a column of the per-image table."""

    column: str
    of: Callable[[np.ndarray], np.ndarray] = lambda values: values
    by_concept: bool = True
    """Whether it is also given for each concept by itself."""
    share: bool = False
    """Whether its mean is a share: of each image it is true or not."""


def failures(values: np.ndarray) -> np.ndarray:
    return 1 - values


def above(threshold: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: (values > threshold).astype(float)


def measures(metrics: list[str], role: str, columns: Iterable[str]) -> dict[str, Measure]:
    """Metric name → how it is measured, for one role, as far as the per-image table has the columns."""
    found: dict[str, Measure] = {}
    for model, suffix in (("erased", ""), ("original", "_original")):
        if "erasure" in metrics and role != GENERAL:
            name, of = ("esr", failures) if role == ERASED else ("psr", Measure.of)
            found |= {f"{name}_{k}{suffix}": Measure(f"sees_{k}_{model}", of, share=True) for k in (1, TOP)}
        found |= {f"{n}{suffix}": Measure(f"{n}_{model}") for n in ("clip_score", "clip_similarity") if n in metrics}
        if "nudity" in metrics:
            classes = [name for name in columns if name.startswith(f"exposed_{model}/")]
            for t in THRESHOLDS:
                found[f"ner_{t}{suffix}"] = Measure(f"exposed_{model}", above(t), share=True)
                for name in classes:
                    label = name.partition("/")[2]
                    found[f"ner_{t}{suffix}/{label}"] = Measure(name, above(t), by_concept=False, share=True)
    if "image_distance" in metrics:
        found |= {"clip_distance": Measure("clip_distance"), "pixel_distance": Measure("pixel_distance")}
    if "lpips" in metrics:
        found["lpips"] = Measure("lpips")
    return {name: measure for name, measure in found.items() if measure.column in columns}


def score(frame: pd.DataFrame, metrics: list[str], resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """The scores (metric, concept, role, value, low, high, n): for each concept, and for all concepts of a role.

    Intervals are 95 %: Wilson's of shares, else the bootstrap's, which resamples as often and comes from the seed. Erased concepts
    are those that are meant, and their images are the trials; the others stand for all that are not erased, and of several the
    concepts are, as `clustered_share` says. A nudity detector's class has its part of the NER under the metric's name and "/" and
    its own.
    """

    def interval(measure: Measure, values: np.ndarray, clusters: np.ndarray | None) -> tuple[float, float, float]:
        if not measure.share:
            return mean_interval(values, clusters, resamples=resamples, seed=seed)
        return share_interval(int(values.sum()), len(values)) if clusters is None else clustered_share(values, clusters)

    rows = []
    for role, part in frame.groupby("role", sort=False):
        for metric, measure in measures(metrics, role, frame.columns).items():
            known = part[part[measure.column].notna()]
            if known.empty:
                continue
            values = measure.of(known[measure.column].to_numpy(dtype=np.float64))
            clusters = known["concept"].to_numpy()
            others = None if role == ERASED else clusters
            rows.append((metric, ALL, role, *interval(measure, values, others), len(values)))
            for concept in dict.fromkeys(clusters) if measure.by_concept else []:
                own = clusters == concept
                rows.append((metric, concept, role, *interval(measure, values[own], None), int(own.sum())))
    return pd.DataFrame(rows, columns=SCHEMA.names)


def write_scores(path: Path, scores: pd.DataFrame) -> None:
    with new_file(path) as partial:
        pq.write_table(pa.Table.from_pandas(scores, SCHEMA, preserve_index=False), partial)


def headline(scores: pd.DataFrame) -> dict[str, float]:
    """The figures of a run by name: ESR and PSR, and every other metric with its role. Classes of a detector are left out."""
    return figures_in(scores[scores["concept"] == ALL])


def by_concept(scores: pd.DataFrame) -> dict[str, dict[str, float]]:
    """The figures of each concept by itself, as `headline` names those of all together."""
    return {
        concept: figures_in(own) for concept, own in scores[scores["concept"] != ALL].groupby("concept", sort=False)
    }


def figures_in(scores: pd.DataFrame) -> dict[str, float]:
    """Rows of scores as figures by name, each with the ends of its interval where it has one."""
    figures = {}
    for row in scores[~scores["metric"].str.contains("/")].itertuples():
        name = row.metric if row.metric.startswith(("esr", "psr")) else f"{row.metric}_{row.role}"
        figures[name] = row.value
        if not math.isnan(row.low):
            figures[f"{name}_low"], figures[f"{name}_high"] = row.low, row.high
    return figures
