"""How large a concept space, and which? K from 20 to everything, over the sources: quality and cost."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..report.charts import scatter
from ..spec import Spec
from .findings import Findings, rates, summary
from .variants import judged, variant, words_of

SIZES = (20, 50, 200, 1000)
SOURCES = ("emoji-world", "english-3000", "clip-tokens")


def runs(base: Spec) -> dict[str, Spec]:
    """One run a source and size; the last size of a source is all its words."""
    found = {}
    for source in SOURCES:
        every = len(words_of(base, source))
        for size in [*(s for s in SIZES if s < every), every]:
            words = {"source": source, "top_k": size}
            found[f"{source} {size}"] = variant(base, f"{source} {size}", vocabulary=words, scoring=judged(base))
    return found


def find(outputs: dict[str, Path]) -> Findings:
    rows = []
    for label, path in outputs.items():
        run = summary(path)
        source, size = label.rsplit(" ", 1)
        cost = sum(run["seconds"][stage] for stage in ("vocabulary", "embeddings", "nearest")) + run["step_seconds"]
        figures = rates(path, "esr_1", "psr_1", "psr_5")
        rows.append({"source": source, "words": int(size), **figures, "seconds": cost})
    table = pd.DataFrame(rows)
    best = table.sort_values("psr_1", ascending=False).iloc[0]
    return Findings(
        table,
        scatter(table, "seconds", "psr_1", "words", group="source", joined=True),
        {f"psr_1/{label}": row["psr_1"] for label, row in zip(outputs, rows)},
        f"Best PSR-1 {best['psr_1']:.3f} with {best['words']} words of {best['source']}.",
    )
