"""The same run by the code as it was before the work on speed, and by the code that is here, in turn."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from erase_core.emoji_world.catalogue import concepts
from erase_core.files import read_json, write_json

from . import pairs
from .list_growth import ROOT, own_home

EARLIER = "384a2414cd38c4216e92133097f7a07a7b299264"
"""The commit before the first of this page's changes, with the same included model and the same packages."""
SPEC = {
    "name": "earlier",
    "concepts": ["taxi"],
    "vocabulary": {"top_k": 50},
    "training": {"steps": 100, "batch_size": 4, "learning_rate": 5e-4},
    "generation": {"prompts": ["a {concept}"], "seeds": [0, 1], "sampler": "dpm-solver++", "steps": 10},
    "scoring": {"preserved": [each.word for each in concepts()[::5] if each.word != "taxi"]},
}
FIRST = {**SPEC, "concepts": ["cat"], "method": "uce", "scoring": {"preserved": ["apple"]}}
"""What every home pays once, its databases and the vocabulary's embeddings, is no run's."""
THEN = {"training": {**SPEC["training"], "timesteps": "even", "schedule": "constant"}}
"""What the earlier code does and has no settings for."""
AS_THEN = {"search": "gradient", "preservation_weight": 1.0, "neutral_share": 0.0, "weighting": "epsilon"}
METHODS = {
    "naive": {"the same work": {**THEN, "method": {"name": "naive", "weighting": "epsilon"}}},
    "adversarial": {
        "the same work": {**THEN, "method": {"name": "adversarial", **AS_THEN}},
        "the defaults of either": {"method": "adversarial"},
    },
}
"""By the method of the earlier run, what is run beside it now."""
TOLD = {
    "the whole command": "whole",
    "its training with its trajectories": "training",
    "the original's images": "original",
    "the erased model's images": "erased",
    "its scores": "scores",
}


def ran(tree: Path, changes: dict) -> dict[str, float]:
    """Seconds of the spec's run by this tree's code, in all and of its stages, in a home that has been used once."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = {**own_home(folder), "PYTHONPATH": str(tree), "OMP_NUM_THREADS": str(os.cpu_count() or 1)}
        command = [sys.executable, "-m", "flows.command", "run", str(folder / "spec.yaml")]
        for spec in (FIRST, {**SPEC, **changes}):
            output = folder / spec["concepts"][0]
            write_json(folder / "spec.yaml", {**spec, "output": str(output)})
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, cwd=tree, env=own)
            whole = time.perf_counter() - began
        summary = read_json(output / "summary.json")
        rates = {rate: summary["metrics"][rate] for rate in ("esr_1", "psr_1")}
        return {"whole": whole, **summary["seconds"], **rates}


@contextmanager
def earlier_tree() -> Iterator[Path]:
    """A folder with the earlier commit's files. Raises RuntimeError where the history does not reach back to it."""
    git = ["git", "-C", str(ROOT)]
    if subprocess.run([*git, "cat-file", "-e", EARLIER], capture_output=True).returncode:
        raise RuntimeError(f"the commit {EARLIER[:7]} is not in this repository; clone it with its whole history")
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name) / "earlier"
        subprocess.run([*git, "worktree", "add", "--quiet", "--detach", str(tree), EARLIER], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(tree)], check=True)


def measure(rounds: int) -> tuple[list[pairs.Ratio], list[dict]]:
    """Ratios for each method and what of its run is told, and what each one's model came to (method, run, rates)."""
    found, rates = [], []
    with earlier_tree() as tree:
        for method, now in METHODS.items():
            runs = {"earlier": (tree, {"method": method}), **{told: (ROOT, changes) for told, changes in now.items()}}
            turns = []
            for number in range(rounds):
                # Each side goes first in turn.
                order = list(runs) if number % 2 else list(reversed(runs))
                turns.append({told: ran(*runs[told]) for told in order})
            for told in now:
                for claim, part in TOLD.items():
                    sides = [(turn[told][part], turn["earlier"][part]) for turn in turns]
                    ratios = [theirs / ours for ours, theirs in sides]
                    middle = (median(side) for side in zip(*sides))
                    claimed = f"{method}, {told}: {claim}"
                    found.append(pairs.Ratio(claimed, *middle, median(ratios), min(ratios), max(ratios)))
            for told, each in turns[-1].items():
                rates.append({"method": method, "run": told, "esr_1": each["esr_1"], "psr_1": each["psr_1"]})
    return found, rates
