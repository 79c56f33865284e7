"""Slots: how many trainings, and how much other work on a model, this machine does at once. They are Prefect's limits.

A task asks for a slot only in a batch or in what `erase serve` runs, and only when its result is not there.
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

from erase_core.files import alone, home

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
def open_slots(training: int | None, generation: int | None, trainings: int = 1) -> Iterator[dict[str, int]]:
    """Set this machine's limits, and yield how many slots of each kind there are.

    All that open slots on one machine share them. The first makes the limits anew, for one that was killed cannot have given its
    slots back; what is None is then 1, or `trainings`. Any other changes those alone that are given, and says so.
    """
    path, given = home() / "slots.lock", {"training": training, "generation": generation}
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        # Whoever else comes waits until the limits are there.
        with alone(path):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                first = True
            except BlockingIOError:
                first = False
            limits = set_limits(given, {"training": trainings, "generation": 1}, anew=first)
            fcntl.flock(lock, fcntl.LOCK_SH)
        if not first:
            told = (f"{count} for {kind}{', changed' if given[kind] else ''}" for kind, count in limits.items())
            print(f"This machine's slots are open already, and shared: {', '.join(told)}.")
        yield limits


def set_limits(given: dict[str, int | None], otherwise: dict[str, int], anew: bool) -> dict[str, int]:
    """Set what is given, keep or make what is not, and return what there is now, by kind."""
    found = {}
    with get_client(sync_client=True) as client:
        for kind, limit in given.items():
            name = limit_name(kind)
            try:
                if anew:
                    client.delete_global_concurrency_limit_by_name(name)
                elif limit is None:
                    found[kind] = client.read_global_concurrency_limit_by_name(name).limit
                else:
                    client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(limit=limit))
                    found[kind] = limit
            except ObjectNotFound:
                pass
            if kind not in found:
                found[kind] = limit or otherwise[kind]
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=found[kind]))
    return found


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
