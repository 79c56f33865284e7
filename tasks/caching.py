"""Prefect's task caching, keyed by the stages' own keys."""

from __future__ import annotations

from collections.abc import Callable

from prefect import Task
from prefect.context import TaskRunContext

from erase_core.accelerators import give_back_memory
from erase_core.artifacts import Artifact, find, folder_of, meanwhile

from .progress import go_on

NOT_IN_KEY = {"run_id", "slots"}
"""Parameters that say where a task is tracked and when it may work, not what it makes."""


def keyed(stage: str, key_of: Callable[..., str]) -> Callable[[TaskRunContext, dict], str]:
    """A cache_key_fn over the parameters that the stage's key depends on."""

    def cache_key(context: TaskRunContext, parameters: dict) -> str:
        return f"{stage}-{key_of(**{name: value for name, value in parameters.items() if name not in NOT_IN_KEY})}"

    return cache_key


def call(task: Task, key: str, *arguments: object, **untold: object) -> Artifact:
    """Run a stage's task and say whether its result was there already.

    untold: the parameters that are not in the key. Prefect's cached result is used only while the files it points to are whole:
    a deleted or altered file makes them anew. Raises what the task raises, and Stopped when what it is for has failed.
    """
    go_on()
    meanwhile.set(go_on)
    whole = find(task.name, key) is not None
    state = task.with_options(refresh_cache=not whole)(*arguments, **untold, return_state=True)
    artifact = state.result()
    # A result that Prefect kept names the folder it was made in, and homes are moved.
    own = {"folder": folder_of(artifact.stage, key), "cached": artifact.cached or state.name == "Cached"}
    if not own["cached"]:
        give_back_memory()
    return artifact.model_copy(update=own)
