"""Write docs/benchmark.md from the table of runs beside it.

python -m benchmarks.benchmark_page
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from erase_core import benchmark
from erase_core import methods as known
from erase_core.files import new_file
from erase_core.metrics.intervals import share_interval
from erase_core.spec_yaml import load_spec

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "docs" / "benchmark_runs.parquet"
TRACKED = ROOT / "docs" / "benchmark_mlflow.parquet"
BASE = ROOT / "erase_core" / "studies" / "base.yaml"
PAGE = ROOT / "docs" / "benchmark.md"
HEAD = Path(__file__).parent / "benchmark_head.md"
ORDER = ("adversarial", "nearest", "fixed", "neutral", "naive")
"""The published order in PSR, best first."""
RESAMPLES, SEED = 2000, 0
IMAGES = 10
"""Images of erased concepts in a run on a split: two of each of five."""
ENOUGH = 0.9
"""The ESR-1 that a method is expected to reach with its own defaults."""


def held_out(runs: pd.DataFrame) -> Iterator[str]:
    """The held-out splits: each method's ESR-1, what PSR-1 lost, and how it stands to the default on the same splits and seeds."""
    own = runs[runs["task"] == benchmark.HELD_OUT].assign(lost=lambda r: 100 * (r["psr_1_original"] - r["psr_1"]))
    if own.empty:
        return
    yield "## The held-out splits, beside the default"
    yield (
        "Points of PSR-1 lost against the original, and how many more the method loses than `adversarial` does on the same splits "
        "and seeds; 95 % bootstrap intervals, in which the splits are drawn anew and then the runs of each, since those are alike. "
        "Of two splits little can be said of others."
    )
    default = own[own["method"] == "adversarial"].set_index(["case", "seed"])["lost"]
    lines = ["| method | runs | ESR-1 | PSR-1 lost | more than `adversarial` |", "|---|---|---|---|---|"]
    for method, part in own.groupby("method", sort=False):
        lost = part.set_index(["case", "seed"])["lost"]
        apart = (lost - default).dropna()
        lines.append(
            f"| {method} | {len(part)} | {100 * part['esr_1'].mean():.1f} % | {interval(lost)} | "
            + (interval(apart) if method != "adversarial" and len(apart) else "–")
            + " |"
        )
    yield "\n".join(lines)
    pairs = [(a, b) for a, b in zip(ORDER, ORDER[1:]) if {a, b} <= set(own["method"])]
    if pairs:
        yield "## The published order"
        yield (
            f"Published, best PSR first: {', '.join(ORDER)}. Points of PSR-1 by which each is over the next here, on the same "
            "splits and seeds, with the 95 % interval: confirmed where all of it is above 0, refuted where all is below. Two "
            f"splits are few for an interval in which they are drawn. ESR-1 is of {IMAGES} erased images a run, with Wilson's "
            "interval; where the two differ, so does what was erased."
        )
        lines = ["| | points of PSR-1 | ESR-1 of the two | |", "|---|---|---|---|"]
        by_run = own.set_index(["case", "seed"])
        for a, b in pairs:
            first, second = (by_run[by_run["method"] == name] for name in (a, b))
            apart = (second["lost"] - first["lost"]).dropna()
            erased = " and ".join(rate(part["esr_1"]) for part in (first, second))
            lines.append(f"| {a} over {b} | {interval(apart)} | {erased} | {verdict(apart)} |")
        yield "\n".join(lines)


def weak_and_better(runs: pd.DataFrame) -> Iterator[str]:
    """For each task the methods that leave more than a tenth of what is erased, and those over the default in both rates."""
    yield "## Task by task"
    yield (
        "Over the default: with an ESR-1 and a PSR-1 that are no less than those of `adversarial` on the same cases and seeds, "
        "and one of them more, by means alone; of few runs that says little. In brackets both of the method, and both of "
        "`adversarial`."
    )
    lines = ["| task | ESR-1 below 90 % | over the default in both |", "|---|---|---|"]
    for task, part in runs.groupby("task", sort=False):
        means = part.groupby("method", sort=False)["esr_1"].mean()
        weak = ", ".join(f"{name} {100 * esr:.1f} %" for name, esr in means.items() if esr < ENOUGH)
        rates = part.set_index(["case", "seed"])[["method", "esr_1", "psr_1"]]
        default = rates[rates["method"] == "adversarial"]
        over = []
        for name, own in rates.groupby("method", sort=False):
            shared = own.index.intersection(default.index)
            mine, its = (each.loc[shared, ["esr_1", "psr_1"]].mean().round(6) for each in (own, default))
            if len(shared) and (mine >= its).all() and (mine > its).any():
                told = ", ".join(f"{100 * rate:.1f} %" for rate in (*mine, *its))
                over.append(f"{name} ({len(shared)} runs: {told})")
        lines.append(f"| {task} | {weak or '–'} | {'; '.join(over) or '–'} |")
    yield "\n".join(lines)


def rate(esr: pd.Series) -> str:
    """The mean ESR-1 of some runs, with Wilson's 95 % interval over all of their images."""
    _, low, high = share_interval(round(float(esr.sum()) * IMAGES), len(esr) * IMAGES)
    return f"{100 * esr.mean():.1f} % ({100 * low:.1f} – {100 * high:.1f})"


def verdict(apart: pd.Series) -> str:
    """What an interval says of an order that should be above 0."""
    _, low, high = two_levels(apart)
    if len(apart) < 2:
        return "one run"
    return "confirmed" if low > 0 else "refuted" if high < 0 else "open"


def two_levels(values: pd.Series) -> tuple[float, float, float]:
    """The mean of values by (case, seed) and its 95 % bootstrap interval: cases are drawn, and then runs of each."""
    rng = np.random.default_rng(SEED)
    of = [part.to_numpy(float) for _, part in values.groupby(level="case")]
    means = [
        np.mean(np.concatenate([rng.choice(of[case], len(of[case])) for case in rng.integers(len(of), size=len(of))]))
        for _ in range(RESAMPLES)
    ]
    return float(values.mean()), *np.quantile(means, [0.025, 0.975]).tolist()


def interval(values: pd.Series) -> str:
    """A mean with its interval; alone where there is one value."""
    mean, low, high = two_levels(values)
    return f"{mean:.1f}" if len(values) < 2 else f"{mean:.1f} ({low:.1f} – {high:.1f})"


def page() -> str:
    """The page as the tables of runs have it."""
    runs = pd.DataFrame(benchmark.known_rows(RUNS, load_spec(BASE)).values())
    whole = len(benchmark.cells(known.names(), list(benchmark.TASKS), list(benchmark.SEEDS)))
    known_to_mlflow = runs["mlflow_run"].isin(pd.read_parquet(TRACKED, columns=["mlflow_run"])["mlflow_run"]).sum()
    parts = [
        HEAD.read_text(encoding="utf-8").strip(),
        f"Runs so far: {len(runs)} of {whole}; what MLflow knows of a run is kept of {known_to_mlflow}.",
    ]
    parts += [*held_out(runs), *weak_and_better(runs), benchmark.markdown(benchmark.table(runs)).strip()]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    argparse.ArgumentParser(description="Write docs/benchmark.md from the table of runs beside it.").parse_args()
    with new_file(PAGE) as partial:
        partial.write_text(page(), encoding="utf-8")
    print(f"Where to look: {PAGE}")


if __name__ == "__main__":
    main()
