"""Two sides of a claim, timed in turn in one process, so that a busy machine slows both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Ratio:
    """How many times longer the other side took than ours: the median and the range over the rounds; seconds are medians."""

    claim: str
    ours: float
    theirs: float
    value: float
    low: float
    high: float

    @property
    def row(self) -> str:
        return f"| {self.claim} | {self.ours:.4g} | {self.theirs:.4g} | {self.value:.2f} | {self.low:.2f} – {self.high:.2f} |"


HEADER = "| what | ours, s | the other, s | ratio | range |\n|---|---|---|---|---|"


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compared(claim: str, ours: Callable[[], object], theirs: Callable[[], object], rounds: int = 5) -> Ratio:
    """Time both sides `rounds` times in turn, after one run of each that is not counted."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    ratios = [b / a for a, b in pairs]
    first, second = (median(side) for side in zip(*pairs))
    return Ratio(claim, first, second, median(ratios), min(ratios), max(ratios))
