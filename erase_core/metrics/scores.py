"""Score a run: the original's and the erased model's images side by side, per image, per concept, and in all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import new_file
from ..generation.images import read_images
from .clip_features import ClipFeatures, clip_distance, clip_score
from .erasure import sees
from .intervals import mean_interval
from .kernel_distance import kernel_distance
from .scorers import Scorers

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


def judge_images(
    original: Path,
    erased: Path,
    roles: dict[str, str],
    scorers: Scorers,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """One row an image: what was wanted, its role, and every metric's value under both models.

    roles gives each concept's role, erased or preserved. Raises ValueError when the two files do not hold the same images
    in the same order.
    """
    total, done, frames = pq.ParquetFile(original).metadata.num_rows, 0, []
    for (wanted, before), (also_wanted, after) in zip(read_images(original), read_images(erased), strict=True):
        if wanted != also_wanted:
            raise ValueError(f"{original} and {erased} do not hold images of the same prompts and seeds")
        frame = pd.DataFrame([{**vars(w), "role": roles[w.concept]} for w in wanted])
        if scorers.judge_of is not None:
            for judge in dict.fromkeys(scorers.judge_of(w.concept) for w in wanted):
                rows = [i for i, w in enumerate(wanted) if scorers.judge_of(w.concept) is judge]
                names = [scorers.labels_of(wanted[i].concept) for i in rows]
                for model, images in (("original", before), ("erased", after)):
                    top, _ = judge.classify(images[rows])
                    frame.loc[rows, f"label_{model}"] = [labels[0] for labels in top]
                    for k in (1, 5):
                        # Five guesses among five classes or fewer are always right and say nothing.
                        seen = sees(top, names, k).astype(float) if k < len(judge.labels) else np.nan
                        frame.loc[rows, f"sees_{k}_{model}"] = seen
        if scorers.clip is not None:
            texts = scorers.clip.texts([w.prompt for w in wanted])
            features = {"original": scorers.clip.images(before), "erased": scorers.clip.images(after)}
            for model, values in features.items():
                frame[f"clip_score_{model}"] = clip_score(values, texts)
            frame["clip_distance"] = clip_distance(features["original"], features["erased"])
        frame["pixel_distance"] = np.abs(before.astype(np.float32) - after).mean((1, 2, 3)) / 255
        frames.append(frame)
        done += len(wanted)
        progress(done, total)
    return pd.concat(frames, ignore_index=True)


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
            known = part[part[column].notna()]
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


def general_quality(original: Path, erased: Path, roles: dict[str, str], clip: ClipFeatures, seed: int) -> pd.DataFrame:
    """The row of scores for the kernel distance between both models' images of the preserved concepts."""
    features: list[list[np.ndarray]] = [[], []]
    for (wanted, before), (_, after) in zip(read_images(original), read_images(erased), strict=True):
        rows = [i for i, w in enumerate(wanted) if roles[w.concept] == "preserved"]
        if rows:
            for part, images in zip(features, (before, after)):
                part.append(clip.images(images[rows]))
    first, second = (np.concatenate(part) for part in features)
    row = ("kid", ALL, "preserved", *kernel_distance(first, second, seed=seed), len(first))
    return pd.DataFrame([row], columns=SCHEMA.names)


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
