"""Measure every claim of speed and write docs/performance.md.

    python -m benchmarks.performance [--rounds 5] [--only step,words,…]

Both sides of a ratio are timed in turn in one run. Parts that are left out keep what an earlier run wrote (benchmarks/results/).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from erase_core.api import load
from erase_core.files import new_file, write_json
from infra.environment import prepare

from . import generation_speed, pairs, profile_step, step_speed, time_to_quality, vocabulary_speed

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "performance.md"
WORDS, CONCEPTS = [100, 1000, 10_000, 45_000], [1, 5, 20, 50]


def ratios(found: list[pairs.Ratio]) -> str:
    return "\n".join([pairs.HEADER, *(ratio.row for ratio in found)])


def table(rows: list[dict], formats: dict[str, str]) -> str:
    lines = ["| " + " | ".join(formats) + " |", "|" + "---|" * len(formats)]
    for row in rows:
        lines.append("| " + " | ".join(format(row[key], form) for key, form in formats.items()) + " |")
    return "\n".join(lines)


def exponent(rows: list[dict], x: str, y: str) -> float:
    """b of y = a x^b, fitted to the logarithms."""
    return float(np.polyfit(np.log([row[x] for row in rows]), np.log([row[y] for row in rows]), 1)[0])


def step(pipeline, rounds: int) -> str:
    """## A training step against the published loop"""
    return ratios(step_speed.against_published(pipeline, rounds))


def profile(pipeline, rounds: int) -> str:
    """## Where a step's time goes"""
    return table(profile_step.measure(pipeline, rounds), {"part": "", "share": ".1%", "milliseconds": ".1f"})


def words(pipeline, rounds: int) -> str:
    """## The size of the vocabulary"""
    rows = list(step_speed.growth_with_words(pipeline, WORDS, rounds))
    first = rows[0]
    for row in rows:
        row["ratio"] = float(np.median([a / b for a, b in zip(row["rounds"], first["rounds"])]))
    shown = table(rows, {"words": "d", "seconds": ".3f", "ratio": ".2f", "peak_gib": ".2f"})
    return shown + f"\n\nFitted exponent of a step's seconds: {exponent(rows, 'words', 'seconds'):.3f}."


def concepts(pipeline, rounds: int) -> str:
    """## The number of concepts erased at once"""
    rows = list(step_speed.growth_with_concepts(pipeline, CONCEPTS))
    shown = table(rows, {"concepts": "d", "seconds": ".3f", "sampling": ".1f"})
    return shown + f"\n\nFitted exponent of a step's seconds: {exponent(rows, 'concepts', 'seconds'):.3f}."


def generation(pipeline, rounds: int) -> str:
    """## Images against a loop of stock pipeline calls"""
    found, apart = generation_speed.measure(pipeline, rounds)
    told = ", ".join(f"{name} {value:.4f}" for name, value in apart.items())
    return ratios(found) + f"\n\nMean difference of the images, in levels of 255: {told}."


def samplers(pipeline, rounds: int) -> str:
    """## How few steps are enough"""
    rows = generation_speed.judged(pipeline).to_dict("records")
    return table(rows, {"sampler": "", "steps": "d", "right": ".1%"})


def vocabulary(pipeline, rounds: int) -> str:
    """## Encoding and top-K"""
    return ratios(vocabulary_speed.measure(pipeline, rounds))


def startup(pipeline, rounds: int) -> str:
    """## Start-up"""

    def command(*arguments: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, *arguments], capture_output=True, check=True, cwd=ROOT)

    found = [
        pairs.compared(
            "erase --help / an empty Python", command("-m", "flows.command", "--help"), command("-c", ""), rounds
        )
    ]
    return ratios(found)


def quality(pipeline, rounds: int) -> str:
    """## Time to a model of the same quality"""
    rows = time_to_quality.measure(pipeline)
    forms = {"loop": "", "steps": "d", "seconds": ".0f", "esr_1": ".1%", "psr_1": ".1%", "psr_1_original": ".1%"}
    return table(rows, {**forms, "reached": ""})


PARTS = (step, profile, words, concepts, generation, samplers, vocabulary, startup, quality)


def machine() -> str:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "diffusers", "deepspeed"))
    return f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, no accelerator; {versions}, fp32."


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure every claim of speed and write docs/performance.md.")
    parser.add_argument("--rounds", type=int, default=5, help="how many times both sides are timed")
    parser.add_argument(
        "--only", default="", help="parts, with commas between: " + ", ".join(p.__name__ for p in PARTS)
    )
    given = parser.parse_args()
    wanted = [name for name in given.only.split(",") if name] or [part.__name__ for part in PARTS]
    prepare()
    torch.set_num_threads(os.cpu_count() or 1)
    pipeline = load()
    RESULTS.mkdir(exist_ok=True)
    for part in PARTS:
        if part.__name__ in wanted:
            print(part.__doc__, flush=True)
            write_json(RESULTS / f"{part.__name__}.json", {"text": part(pipeline, given.rounds), "machine": machine()})
            write_page()
    print(f"\nWhere to look: {PAGE}")


def write_page() -> None:
    lines = [(ROOT / "benchmarks" / "performance_head.md").read_text(encoding="utf-8").strip()]
    for part in PARTS:
        kept = RESULTS / f"{part.__name__}.json"
        if kept.exists():
            found = json.loads(kept.read_text(encoding="utf-8"))
            lines += ["", part.__doc__, "", found["text"], "", f"Measured on: {found['machine']}"]
    with new_file(PAGE) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
