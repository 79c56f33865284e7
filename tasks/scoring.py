"""The task that scores the images."""

from __future__ import annotations

from prefect import task

from erase_core import stages
from erase_core.artifacts import Artifact
from erase_core.spec import Spec

from .caching import keyed
from .progress import reporting, worth_retrying
from .slots import slot


@task(
    name="scores",
    cache_key_fn=keyed("scores", stages.scores_key),
    persist_result=True,
    retries=1,
    retry_delay_seconds=2,
    retry_condition_fn=worth_retrying,
)
def score_images(
    spec: Spec,
    nearest: Artifact,
    original: Artifact,
    erased: Artifact,
    run_id: str | None = None,
    slots: bool = False,
) -> Artifact:
    """Judge both models' images: is the concept gone, and is everything else still there?"""
    with reporting("scoring", "scoring") as report:
        return stages.scores(spec, nearest, original, erased, report, slot("generation", slots, spec.scoring.processes))
