"""What does each method pay for erasing? A sweep of its strength: ESR-1 against PSR-1, with the Pareto front."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from .. import methods
from ..report.charts import scatter
from ..spec import Spec
from .findings import Findings, rates
from .variants import comparable, judged, parameters_of, variant

STRENGTHS = (0.25, 0.5, 1.0, 2.0)
"""Multiples of a method's own learning rate; for a closed form, of the inverse of its regularisation."""


def runs(base: Spec) -> dict[str, Spec]:
    """One run a method and strength."""
    found = {}
    for name in comparable():
        for strength in STRENGTHS:
            method = parameters_of(name, base.erased_names)
            changes = {}
            if methods.solves(methods.load(name)):
                method["regularisation"] = methods.settings_of(name)().regularisation / strength
            else:
                own = variant(base, "own", method=method).training.learning_rate
                changes = {"training": {"learning_rate": own * strength}}
            label = f"{name} {strength:g}"
            found[label] = variant(base, label, method=method, scoring=judged(base), **changes)
    return found


def pareto(frame: pd.DataFrame) -> pd.Series:
    """Which rows no other row beats in both esr_1 and psr_1; bool."""
    beaten = [
        any(
            (frame["esr_1"] >= r.esr_1)
            & (frame["psr_1"] >= r.psr_1)
            & ((frame["esr_1"] > r.esr_1) | (frame["psr_1"] > r.psr_1))
        )
        for r in frame.itertuples()
    ]
    return ~pd.Series(beaten, index=frame.index)


def find(outputs: dict[str, Path]) -> Findings:
    rows = []
    for label, path in outputs.items():
        name, strength = label.rsplit(" ", 1)
        figures = rates(path, "esr_1", "psr_1", "esr_5", "psr_5")
        rows.append({"method": name, "strength": float(strength), **figures})
    table = pd.DataFrame(rows)
    table["front"] = pareto(table)
    front = ", ".join(dict.fromkeys(table[table["front"]]["method"]))
    return Findings(
        table,
        scatter(table, "esr_1", "psr_1", "strength", group="method", joined=True, front=table["front"]),
        {f"{key}/{label}": row[key] for label, row in zip(outputs, rows) for key in ("esr_1", "psr_1")},
        f"On the Pareto front: {front}.",
    )
