"""Which faults lie around a run and not in it, and which another try may mend."""

from __future__ import annotations

import errno
import os

import httpx

from erase_core.distributed.ranks import RanksFailed
from erase_core.files import disk_full
from erase_core.hub import HubAway

from .progress import Stopped
from .tracking import away

NO_ROOM = os.strerror(errno.ENOSPC)


def surroundings(error: object) -> str | None:
    """What around a run made it fail, as "a full disk", which would fail others too; None when it was the run itself."""
    # A rank's error comes as its words.
    if disk_full(error) or (isinstance(error, RanksFailed) and NO_ROOM in str(error)):
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
