"""What a study hands back, and how it reads the results of its runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ..files import read_json
from ..report.charts import Chart
from ..spec_texts import ALL


@dataclass(frozen=True)
class Findings:
    """A study's table, its chart, its figures by name, and one sentence that says what came out."""

    table: pd.DataFrame
    chart: Chart
    figures: dict[str, float] = field(default_factory=dict)
    said: str = ""


def concept_scores(output: Path) -> pd.DataFrame:
    """One row a concept of a run: concept, role, and every metric with its interval (psr_1, psr_1_low, …)."""
    scores = pd.read_parquet(output / "scores.parquet")
    own = scores[scores["concept"] != ALL]
    wide = own.pivot(index=["concept", "role"], columns="metric", values=["value", "low", "high"])
    wide.columns = [metric if part == "value" else f"{metric}_{part}" for part, metric in wide.columns]
    return wide.reset_index()


def clip_drop(output: Path) -> pd.DataFrame:
    """δ_e(c), the CLIP score of each preserved concept's images before minus after the erasure: concept, drop."""
    frame = concept_scores(output)
    frame = frame[frame["role"] == "preserved"]
    return pd.DataFrame({"concept": frame["concept"], "drop": frame["clip_score_original"] - frame["clip_score"]})


def rates(output: Path, *names: str) -> dict[str, float]:
    """Some of a run's ESR and PSR; not a number where the judge has too few classes for one."""
    found = summary(output)["metrics"]
    return {name: found.get(name, math.nan) for name in names}


def summary(output: Path) -> dict:
    """A run's figures, and seconds by stage."""
    return read_json(output / "summary.json")
