"""Fine-tuning on images of near concepts, without the concept; see `fine_tuning`."""

from __future__ import annotations

from collections.abc import Iterator

from .fine_tuning import tune
from .settings import FineTuningRelated
from .target import Attempt, Target

UNIT = "steps"


def run(target: Target, settings: FineTuningRelated) -> Iterator[Attempt]:
    yield from tune(target, settings, target.related, "fine-tuning-related")
