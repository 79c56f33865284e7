"""What studies share: specs made from a base spec, and what a study hands back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ..files import read_json
from ..metrics.scores import ALL
from ..report.charts import Chart
from ..spec import Spec, make_spec


@dataclass(frozen=True)
class Findings:
    """A study's table, its chart, its figures by name, and one sentence that says what came out."""

    table: pd.DataFrame
    chart: Chart
    figures: dict[str, float] = field(default_factory=dict)
    said: str = ""


def merged(base: dict, changes: dict) -> dict:
    """`base` with `changes` put over it, part by part."""
    return base | {
        key: merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in changes.items()
    }


def variant(base: Spec, label: str, **changes: object) -> Spec:
    """A run of a study: the base spec with `changes`, and an output folder below the base's.

    A change of `method` replaces the method with all its parameters, and its own training defaults apply.
    """
    given = base.model_dump(mode="json", exclude_unset=True)
    if "method" in changes:
        given.pop("method", None)
    named = {
        "name": f"{base.name} - {label}"[:100],
        "output": str(Path(base.output) / "runs" / label.replace(" ", "-")),
    }
    return make_spec(merged(given, {**changes, **named}))


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


def summary(output: Path) -> dict:
    """A run's figures, and seconds by stage."""
    return read_json(output / "summary.json")
