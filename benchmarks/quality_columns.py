"""The benchmark's quality columns with the default's latents, and with what these replaced."""

from __future__ import annotations

import pandas as pd

from erase_core import benchmark
from erase_core.spec_yaml import load_spec

from .benchmark_page import BASE, ROOT, RUNS

REPLACED = ROOT / "docs" / "latents_runs.parquet"
"""The runs with other latents than the benchmark's."""
SPECS = {
    "latents sampled anew from θ'": (ROOT / "benchmarks" / "specs" / "fresh_latents.yaml", REPLACED),
    "timesteps drawn evenly, 200 steps": (ROOT / "benchmarks" / "specs" / "even_timesteps.yaml", REPLACED),
    "the defaults": (BASE, RUNS),
}
COLUMNS = {
    "esr_1": "ESR-1", "esr_5": "ESR-5", "psr_1": "PSR-1", "psr_5": "PSR-5", "clip_score_erased": "CLIP, erased",
    "clip_score_preserved": "CLIP, others", "clip_distance_erased": "distance, erased",
    "clip_distance_preserved": "distance, others", "kid_preserved": "KID",
}  # fmt: skip


def measure() -> list[dict]:
    """Rows (latents, runs, COLUMNS): means over the held-out splits for each spec, seed 0, from the tables of runs.

    Raises LookupError where the table lacks a run.
    """
    cells = benchmark.cells(["adversarial"], [benchmark.HELD_OUT], [0])
    rows = []
    for told, (path, runs) in SPECS.items():
        base = load_spec(path)
        known = benchmark.known_rows(runs, base)
        found = [known[key] for key in (benchmark.key_of(cell, base) for cell in cells) if key in known]
        if len(found) < len(cells):
            raise LookupError(
                f"{runs} lacks runs of {path}; make them: erase benchmark --spec {path} --runs {runs} "
                f"--tasks {benchmark.HELD_OUT} --methods adversarial --seeds 0"
            )
        means = pd.DataFrame(found)[list(COLUMNS)].mean()
        rows.append({"latents": told, "runs": len(found), **{name: means[key] for key, name in COLUMNS.items()}})
    return rows
