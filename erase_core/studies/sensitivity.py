"""Which concepts does an erasure hurt? δ_e(c), the drop of the CLIP score, ranked for two targets side by side.

Nothing is preserved, so that what is hurt shows.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from scipy.stats import spearmanr

from ..report.charts import bars
from ..spec import Spec
from .findings import Findings, clip_drop
from .variants import everyday, require_preserved, variant

SECOND = ("sword", "taxi")


def runs(base: Spec) -> dict[str, Spec]:
    """One run for each of the base's concepts; a base of a single concept is set beside another one."""
    require_preserved(base)
    targets = [concept.model_dump() for concept in base.concepts]
    if len(targets) == 1:
        targets.append({"concept": everyday(base.erased_names, SECOND)})
    drawn = {"metrics": ["clip_score"]}
    return {t["concept"]: variant(base, t["concept"], concepts=[t], method="naive", scoring=drawn) for t in targets}


def find(outputs: dict[str, Path]) -> Findings:
    table = pd.concat([clip_drop(path).assign(target=target) for target, path in outputs.items()])
    table = table.sort_values(["target", "drop"], ascending=[True, False], ignore_index=True)
    table["rank"] = table.groupby("target").cumcount() + 1
    first, second = (table[table["target"] == target].set_index("concept")["drop"] for target in list(outputs)[:2])
    both = pd.concat([first, second], axis=1).dropna()
    agreement = float(spearmanr(both.iloc[:, 0], both.iloc[:, 1]).statistic)
    worst = {t: ", ".join(table[table["target"] == t].head(5)["concept"]) for t in outputs}
    return Findings(
        table[["target", "rank", "concept", "drop"]],
        bars(table, "concept", "drop", "target", "drop of the CLIP score"),
        {"rank_agreement": agreement},
        "; ".join(f"erasing {t} hurts {words} most" for t, words in worst.items())
        + f". The two rankings agree by ρ = {agreement:.2f}.",
    )
