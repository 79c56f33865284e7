"""A stage of a flow, tracked: its task, its run in MLflow below the flow's, and whether its result was there already."""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from prefect import Task

from erase_core.artifacts import Artifact, find
from erase_core.spec import Spec
from erase_core.unsafe import hides
from tasks import progress, tracking
from tasks.caching import call
from tasks.gpus import room_beside

Stage = Callable[..., Artifact]
"""stage(name, task, key, *inputs): run one stage and track it."""


def stages_of(spec: Spec, main: str, **untold: object) -> Stage:
    """The stages of the flow whose MLflow run is `main`. untold: parameters of every task that are not in its key."""
    hidden = hides(spec)

    def stage(name: str, task, key: str, *inputs: object) -> Artifact:
        with tracking.run(name, main, {"kind": "stage"}) as run_id:
            artifact = call(task, key, *inputs, run_id=run_id, **untold)
            tracking.log_stage(run_id, artifact, hidden)
            if name == "training" and artifact.cached:
                tracking.log_trace(run_id, artifact.file("trace.parquet"))
            return artifact

    return stage


@contextlib.contextmanager
def beside(
    training: Spec, stage: Stage, name: str, task: Task, key: str, *inputs: object
) -> Iterator[Callable[[], Artifact]]:
    """Run a stage in a thread beside what the block does, which is `training`; yields what waits for its result.

    Where the training leaves no room, or the result is there already, the stage begins when its result is asked for. A block
    that fails stops it, and so does what stops the block.
    """
    arguments = (name, task, key, *inputs)
    device = None
    # Asking takes seconds of importing, and only work needs it.
    if find(task.name, key) is None:
        device = room_beside(training.training.processes, training.generation.processes)
    if device is None:
        yield lambda: stage(*arguments)
        return
    stopping = threading.Event()

    def work() -> Artifact:
        progress.stopping.set((*progress.stopping.get(), stopping))
        with device:
            return stage(*arguments)

    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(contextvars.copy_context().run, work)
        try:
            yield found.result
        except BaseException:
            stopping.set()
            raise
