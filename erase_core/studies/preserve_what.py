"""What should be preserved? One target, and beside it nothing, "", an unrelated word, a related one, a random one, the
nearest, and the one that is hurt most.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..report.charts import bars
from ..spec import Spec
from .findings import Findings, rates
from .variants import everyday, judged, variant

UNRELATED = ("apple", "hammer", "church")
WEIGHT = 1.5
"""λ of every choice, so that they differ in what is preserved alone; and no share of the neutral concept beside it."""


def runs(base: Spec) -> dict[str, Spec]:
    """One run a choice. The related word is the first of the group of the first target that has one in the catalogue."""
    from ..emoji_world.catalogue import concepts

    gone = {name.casefold(): None for name in base.erased_names}
    group_of = {c.word: c.group for c in concepts()}
    groups = list(dict.fromkeys(group_of[name] for name in gone if name in group_of))
    near = [word for group in groups for word, own in group_of.items() if own == group and word not in gone]
    unrelated = everyday([*gone, *near], UNRELATED)
    one = {"preservation_weight": WEIGHT, "neutral_share": 0.0}
    choices = {
        "nothing": "naive",
        "neutral": {"name": "neutral", "preservation_weight": WEIGHT},
        "unrelated word": {"name": "fixed", "words": [unrelated], **one},
        **({"related word": {"name": "fixed", "words": near[:1], **one}} if near else {}),
        "random": {"name": "random", **one},
        "nearest": {"name": "nearest", **one},
        "adversarial": {"name": "adversarial", **one},
    }
    return {label: variant(base, label, method=method, scoring=judged(base)) for label, method in choices.items()}


def find(outputs: dict[str, Path]) -> Findings:
    rows = []
    for label, path in outputs.items():
        names = ("psr_1", "psr_1_low", "psr_1_high", "psr_5", "esr_1", "esr_5", "psr_1_original")
        rows.append({"preserved": label, **rates(path, *names)})
    table = pd.DataFrame(rows).rename(columns={"psr_1_low": "low", "psr_1_high": "high"})
    table = table.assign(panel="PSR-1 over all other concepts")
    best = table.sort_values("psr_1", ascending=False).iloc[0]
    return Findings(
        table.drop(columns="panel"),
        bars(table, "preserved", "psr_1", "panel", "PSR-1"),
        {f"psr_1/{row['preserved']}": row["psr_1"] for row in rows},
        f"Preserving {best['preserved']} keeps most: PSR-1 {best['psr_1']:.3f} (original {best['psr_1_original']:.3f}).",
    )
