"""The task that erases."""

from __future__ import annotations

import math

from prefect import task

from erase_core import stages
from erase_core.artifacts import Artifact
from erase_core.spec import Spec

from .caching import keyed
from .progress import reporting, worth_retrying
from .slots import slot
from .tracking import StepMetrics


@task(
    name="training",
    cache_key_fn=keyed("training", stages.training_key),
    persist_result=True,
    retries=1,
    retry_delay_seconds=5,
    retry_condition_fn=worth_retrying,
)
def erase_concepts(
    spec: Spec, nearest: Artifact, embeddings: Artifact, run_id: str | None = None, slots: bool = False
) -> Artifact:
    """Search for the concept that the erasure hurts most and preserve it, step by step, while the concepts are erased.

    A retry goes on from the last checkpoint; one that diverged, which it would again, is not retried.
    """
    with reporting("erasing", "erasing") as report, StepMetrics(run_id) as metrics:

        def on_record(record: dict) -> None:
            metrics.add(record)
            if record["phase"] == "update":
                losses = [record["erasing_loss"], record["preservation_loss"]]
                shown = "  ".join(
                    f"L{i} {x:.4f}" for i, x in enumerate(losses, 1) if x is not None and not math.isnan(x)
                )
                report(record["step"] + 1, record["steps"], f"{shown}  {record['word'] or ''}")

        return stages.training(spec, nearest, embeddings, on_record, slot("training", slots, spec.training.processes))
