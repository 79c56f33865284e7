"""Start-up of the command, and what drawing the original's images beside the training saves."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from erase_core.files import read_json, write_json

from .list_growth import own_home

ROOT = Path(__file__).parent.parent
SPEC = {
    "name": "start",
    "concepts": ["taxi"],
    "vocabulary": {"top_k": 4},
    "training": {"steps": 40, "trajectories": 1},
    "generation": {"seeds": [0, 1, 2, 3], "sampler": "dpm-solver++", "steps": 15},
    "scoring": {"preserved": ["bus", "police car", "car", "rose", "apple", "cat", "church"], "resamples": 100},
}


def ran(*arguments: str, **environment: str) -> float:
    """Seconds of the command."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "flows.command", *arguments]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=environment or None)
    return time.perf_counter() - began


def first_run(threads: int) -> tuple[float, float, float]:
    """Seconds to the first stage, and of the whole run, in a home where nothing is there yet; and of the same run once more."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = {**own_home(folder), "OMP_NUM_THREADS": str(threads)}
        subprocess.run([sys.executable, "-m", "infra.databases"], check=True, capture_output=True, cwd=ROOT, env=own)
        write_json(folder / "spec.yaml", {**SPEC, "output": str(folder / "out")})
        began = time.time()
        whole = ran("run", str(folder / "spec.yaml"), **own)
        to_first = min(read_json(folder / "out" / "summary.json")["began"].values()) - began
        return to_first, whole, ran("run", str(folder / "spec.yaml"), **own)


def measure(rounds: int) -> list[dict]:
    """Rows (what, seconds, low, high): medians over the rounds, and the range."""
    found = {
        "`erase --help`": [],
        "`erase run`, to its first stage": [],
        "a run with two threads, one stage at a time": [],
        "a run with a thread for each of two stages": [],
        "the same run again, all of it from the cache": [],
    }
    help_, *both, beside, again = found.values()
    for _ in range(rounds):
        help_.append(ran("--help"))
        for seen, seconds in zip((*both, again), first_run(2)):
            seen.append(seconds)
        beside.append(first_run(1)[1])
    return [
        {"what": what, "seconds": median(seen), "low": min(seen), "high": max(seen)} for what, seen in found.items()
    ]
