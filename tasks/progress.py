"""Progress of long tasks: a bar in a terminal, a progress artifact in Prefect."""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from collections.abc import Callable, Iterator

from prefect import State, Task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import TaskRun
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from erase_core.distributed.ranks import RanksFailed
from erase_core.files import disk_full

console = Console(stderr=True)
SECONDS_BETWEEN_UPDATES = 5.0
stopping: contextvars.ContextVar[tuple[threading.Event, ...]] = contextvars.ContextVar("stopping", default=())
"""Each is set when something that a task works for has failed: the stage beside it, its list, or the batch."""


class Stopped(RuntimeError):
    """A task that was stopped because what it worked for has failed."""


def worth_retrying(task: Task, run: TaskRun, state: State) -> bool:
    """A retry_condition_fn: a task that was stopped is not begun again, nor one whose every try would end the same."""
    error = state.result(raise_on_failure=False)
    in_ranks = isinstance(error, RanksFailed) and error.expected
    return not (isinstance(error, (Stopped, ValueError)) or disk_full(error) or in_ranks)


def go_on() -> None:
    """Raise Stopped when what this thread works for has failed."""
    if any(stop.is_set() for stop in stopping.get()):
        raise Stopped("stopped, since what this was for has failed or was interrupted")


@contextlib.contextmanager
def reporting(label: str, key: str) -> Iterator[Callable[..., None]]:
    """Yield report(done, total, note="") for one long task.

    label: what a person reads. key: the Prefect artifact's key (lower case, digits and dashes).
    """
    artifact = create_progress_artifact(progress=0.0, key=key, description=label)
    columns = (
        TextColumn("[bold]{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    # The lists of a batch run in threads; a terminal has room for the bar of the batch itself.
    aside = threading.current_thread() is not threading.main_thread()
    with Progress(*columns, console=console, transient=False, disable=aside) as bars:
        bar = bars.add_task(label, total=None, note="")
        last = time.monotonic()

        def report(done: int, total: int, note: str = "") -> None:
            nonlocal last
            go_on()
            bars.update(bar, completed=done, total=total, note=note)
            if done == total or time.monotonic() - last > SECONDS_BETWEEN_UPDATES:
                last = time.monotonic()
                update_progress_artifact(artifact_id=artifact, progress=100.0 * done / max(total, 1))

        yield report
