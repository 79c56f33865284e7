"""Which faults lie around a run and not in it, and which another try may mend."""

from __future__ import annotations

import errno
import os

import httpx
from mlflow import MlflowException

from erase_core.distributed.ranks import RanksFailed
from erase_core.files import disk_full
from erase_core.hub import HubAway

from .progress import Stopped
from .tracking import away

NO_ROOM = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "database or disk is full")
"""What a full disk is called: by the system, where a quota is used up, and by SQLite."""

IN_A_ROW = 3
"""How many runs may fail one after another with the same fault of what is around them; no more are started then."""


def out_of_room(error: object) -> bool:
    """Whether an error, or what caused it, says that a disk is full."""
    # A rank's error comes as its words, and so do those of MLflow and Prefect.
    worded = isinstance(error, (RanksFailed, MlflowException)) and any(text in str(error) for text in NO_ROOM)
    cause = getattr(error, "__cause__", None) or getattr(error, "__context__", None)
    return disk_full(error) or worded or (cause is not None and out_of_room(cause))


def surroundings(error: object) -> str | None:
    """What around a run made it fail, as "a full disk", which would fail others too; None when it was the run itself."""
    if out_of_room(error):
        return "a full disk"
    if away(error):
        return "MLflow away"
    if isinstance(error, httpx.TransportError):
        return "Prefect away"
    if isinstance(error, httpx.HTTPStatusError) and error.response.is_server_error:
        return "Prefect away"
    return "the model hub away" if isinstance(error, HubAway) else None


def may_pass(error: object) -> bool:
    """Whether another try may end otherwise: not for wrong input, what diverged, or what was stopped."""
    lasting = isinstance(error, (Stopped, ValueError)) or (isinstance(error, RanksFailed) and error.expected)
    return surroundings(error) is not None or not lasting


def same_fault(faults: list[str | None]) -> str | None:
    """The fault around them with which the last runs failed, if they are enough in a row; faults: None for any other end."""
    last = faults[-IN_A_ROW:]
    return last[0] if len(last) == IN_A_ROW and len(set(last)) == 1 else None
