"""The task that draws images, of the original or of the erased model."""

from __future__ import annotations

from prefect import task

from erase_core import stages
from erase_core.artifacts import Artifact
from erase_core.spec import Spec

from .caching import keyed
from .progress import reporting, worth_retrying
from .slots import slot


@task(
    name="images",
    cache_key_fn=keyed("images", stages.images_key),
    persist_result=True,
    retries=1,
    retry_delay_seconds=5,
    retry_condition_fn=worth_retrying,
)
def draw_images(
    spec: Spec, nearest: Artifact, training: Artifact | None = None, run_id: str | None = None, slots: bool = False
) -> Artifact:
    """Draw one image for every concept, prompt and seed; without a training, from the original model."""
    which = "erased" if training is not None else "original"
    with reporting(f"images, {which}", f"images-{which}") as report:
        return stages.images(spec, nearest, training, report, slot("generation", slots, spec.generation.processes))
