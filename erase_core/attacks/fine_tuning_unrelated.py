"""Fine-tuning on images of far concepts, without the concept; see `fine_tuning`."""

from __future__ import annotations

from collections.abc import Iterator

from .fine_tuning import tune
from .settings import FineTuningUnrelated
from .target import Attempt, Target

UNIT = "steps"


def run(target: Target, settings: FineTuningUnrelated) -> Iterator[Attempt]:
    yield from tune(target, settings, target.unrelated, "fine-tuning-unrelated")
