"""Does text similarity predict what an erasure hurts? Cosine similarity to the target against the drop of the CLIP score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from ..concepts.nearest import similarities
from ..models.pipeline import load_pipeline
from ..models.prompts import embed
from ..models.source import local_model
from ..report.charts import scatter
from ..spec import Spec, make_spec
from .findings import Findings, clip_drop, summary
from .places import embedding_table
from .variants import variant

RESAMPLES = 2000


def runs(base: Spec) -> dict[str, Spec]:
    """One run, with nothing preserved."""
    return {"naive": variant(base, "naive", method="naive", scoring={"metrics": ["clip_score"]})}


def find(outputs: dict[str, Path]) -> Findings:
    path = outputs["naive"]
    spec = make_spec(summary(path)["spec"])
    table, target = embedding_table(path), spec.concepts[0].concept
    row = {word: i for i, word in enumerate(table.words)}
    embedding, _ = embed(load_pipeline(local_model(spec.model)[0]), [target])
    near = similarities(table, embedding[0], "cosine")
    frame = clip_drop(path)
    frame = frame[frame["concept"].isin(row)].reset_index(drop=True)
    frame["similarity"] = [float(near[row[concept]]) for concept in frame["concept"]]
    value, low, high = rank_correlation(frame["similarity"].to_numpy(), frame["drop"].to_numpy(), spec.seed)
    return Findings(
        frame,
        scatter(frame, "similarity", "drop", "concept"),
        {"rank_correlation": value, "rank_correlation_low": low, "rank_correlation_high": high},
        f"Rank correlation of cosine similarity to {target} and the CLIP drop: {value:.2f} (95 % {low:.2f} to {high:.2f}).",
    )


def rank_correlation(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Spearman's ρ of x and y [N] and its 95 % bootstrap interval over pairs."""
    picks = np.random.default_rng(seed).integers(len(x), size=(RESAMPLES, len(x)))
    drawn = [spearmanr(x[p], y[p]).statistic for p in picks if len(set(y[p])) > 1]
    return (float(spearmanr(x, y).statistic), *map(float, np.quantile(drawn, [0.025, 0.975])))
