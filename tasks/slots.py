"""Slots: how many trainings, and how much other work on a model, this machine does at once. They are Prefect's limits.

A task asks for a slot only in a batch, and only when its result is not there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from erase_core.files import home

from .gpus import own_gpus
from .progress import go_on


def limit_name(kind: str) -> str:
    """The name of this machine's limit on a kind of work, training or generation, in Prefect."""
    return f"{kind}-on-{socket.gethostname()}"


def slot(kind: str, wanted: bool, ranks: int = 1) -> contextlib.AbstractContextManager:
    """A slot of a kind, waited for when it is entered, and a GPU for each rank of its work; nothing when it is not wanted.

    A server that is away does not end the work: the slot's lease is kept on its disk.
    """
    return held_slot(kind, ranks) if wanted else contextlib.nullcontext()


@contextlib.contextmanager
def held_slot(kind: str, ranks: int) -> Iterator[None]:
    with concurrency(limit_name(kind), strict=True, raise_on_lease_renewal_failure=False):
        # It may have been waited for in vain.
        go_on()
        with own_gpus(ranks):
            yield


@contextlib.contextmanager
def open_slots(training: int, generation: int) -> Iterator[None]:
    """Set this machine's limits, and share the cores out among its slots.

    Batches on one machine share the limits. The first of them makes these anew, for a batch that was killed cannot have given
    its slots back.
    """
    path = home() / "slots.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock, shared_cores(training + generation):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            alone = False
        set_limits({"training": training, "generation": generation}, anew=alone)
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def set_limits(limits: dict[str, int], anew: bool) -> None:
    with get_client(sync_client=True) as client:
        for kind, limit in limits.items():
            name = limit_name(kind)
            try:
                if not anew:
                    client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(limit=limit))
                    continue
                client.delete_global_concurrency_limit_by_name(name)
            except ObjectNotFound:
                pass
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=limit))


@contextlib.contextmanager
def shared_cores(slots: int) -> Iterator[None]:
    """Give each slot its share of the cores, unless OMP_NUM_THREADS says how many threads a process may have."""
    import torch

    before = torch.get_num_threads()
    share = str(max(1, (os.cpu_count() or 1) // slots))
    chosen = os.environ.setdefault("OMP_NUM_THREADS", share)
    torch.set_num_threads(int(chosen))
    try:
        yield
    finally:
        torch.set_num_threads(before)
