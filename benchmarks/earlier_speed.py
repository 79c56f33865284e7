"""The same run by the code as it was before the work on speed, and by the code that is here, in turn."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from erase_core.files import read_json, write_json

from . import pairs
from .list_growth import own_home

ROOT = Path(__file__).parent.parent
EARLIER = "384a2414cd38c4216e92133097f7a07a7b299264"
"""The commit before the first of this page's changes, with the same included model and the same packages."""
SPEC = {
    "name": "earlier",
    "concepts": ["taxi"],
    "method": "naive",
    "vocabulary": {"top_k": 50},
    "training": {"steps": 100, "batch_size": 4, "learning_rate": 5e-4},
    "generation": {"prompts": ["a {concept}"], "seeds": [0, 1], "sampler": "dpm-solver++", "steps": 10},
}
METHODS = ("naive", "adversarial")
TOLD = {
    "{}, the whole command": "whole",
    "{}, its training with its trajectories": "training",
    "{}, the original's images": "original",
    "{}, the erased model's images": "erased",
    "{}, its scores": "scores",
}


def ran(tree: Path, method: str) -> dict[str, float]:
    """Seconds of the spec's run by this tree's code, in all and of its stages, in a home that has its databases and no more."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = {**own_home(folder), "PYTHONPATH": str(tree), "OMP_NUM_THREADS": str(os.cpu_count() or 1)}
        command = [sys.executable, "-m", "flows.command"]
        # What every home pays once is no run's.
        for spec in ({**SPEC, "method": "uce", "concepts": ["cat"]}, {**SPEC, "method": method}):
            output = folder / spec["concepts"][0]
            write_json(folder / "spec.yaml", {**spec, "output": str(output)})
            began = time.perf_counter()
            subprocess.run(
                [*command, "run", str(folder / "spec.yaml")], check=True, capture_output=True, cwd=tree, env=own
            )
            whole = time.perf_counter() - began
        summary = read_json(output / "summary.json")
        return {
            "whole": whole,
            **summary["seconds"],
            "esr_1": summary["metrics"]["esr_1"],
            "psr_1": summary["metrics"]["psr_1"],
        }


def measure(rounds: int) -> tuple[list[pairs.Ratio], list[dict]]:
    """A ratio for each method and what of its run is told, and what either side's models came to (method, code, rates)."""
    found, rates = [], []
    with tempfile.TemporaryDirectory() as name:
        earlier = Path(name) / "earlier"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(earlier), EARLIER], check=True)
        try:
            for method in METHODS:
                turns = [(ran(ROOT, method), ran(earlier, method)) for _ in range(rounds)]
                for claim, part in TOLD.items():
                    ratios = [theirs[part] / ours[part] for ours, theirs in turns]
                    ours, theirs = (median(side[part] for side in sides) for sides in zip(*turns))
                    found.append(
                        pairs.Ratio(claim.format(method), ours, theirs, median(ratios), min(ratios), max(ratios))
                    )
                for code, side in zip(("now", "earlier"), turns[-1]):
                    rates.append({"method": method, "code": code, "esr_1": side["esr_1"], "psr_1": side["psr_1"]})
        finally:
            subprocess.run([*git, "remove", "--force", str(earlier)], check=True)
    return found, rates
