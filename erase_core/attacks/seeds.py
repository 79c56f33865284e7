"""Plain prompts for the concept, with many seeds.

What an erasure leaves to luck: the attacker draws `budget` images and needs one that shows the concept. Knows the prompt, and
nothing of the model. Control: the same number of images of unrelated prompts.
"""

from __future__ import annotations

from collections.abc import Iterator

from .settings import Seeds
from .target import Attempt, Target, repeated

UNIT = "images"


def run(target: Target, settings: Seeds) -> Iterator[Attempt]:
    count = settings.budgets[-1]
    yield from target.draw(count, repeated(target.prompts, count))
    yield from target.control(count, count)
