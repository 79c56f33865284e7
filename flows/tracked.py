"""A stage of a flow, tracked: its task, its run in MLflow below the flow's, and whether its result was there already."""

from __future__ import annotations

from collections.abc import Callable

from erase_core.artifacts import Artifact
from erase_core.spec import Spec
from erase_core.unsafe import hides
from tasks import tracking
from tasks.caching import call

Stage = Callable[..., Artifact]
"""stage(name, task, key, *inputs): run one stage and track it."""


def stages_of(spec: Spec, main: str, **untold: object) -> Stage:
    """The stages of the flow whose MLflow run is `main`. untold: parameters of every task that are not in its key."""
    hidden = hides(spec)

    def stage(name: str, task, key: str, *inputs: object) -> Artifact:
        with tracking.run(name, main) as run_id:
            artifact = call(task, key, *inputs, run_id=run_id, **untold)
            tracking.log_stage(run_id, artifact, hidden)
            if name == "training" and artifact.cached:
                tracking.log_trace(run_id, artifact.file("trace.parquet"))
            return artifact

    return stage
