"""Slots: how many trainings, and how much other work on a model, this machine does at once. They are Prefect's limits.

A task asks for a slot only in a batch or in what `erase serve` runs, and only when its result is not there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from erase_core.files import alone, home

from .gpus import own_gpus
from .progress import go_on
from .tracking import home_id

SECONDS_BETWEEN_LOOKS = 0.5
turns: dict[str, threading.Lock] = {"training": threading.Lock(), "generation": threading.Lock()}


def limit_name(kind: str) -> str:
    """The name of this machine's limit on a kind of work, training or generation, in Prefect.

    It is the home's own too, as is the lock that tells who comes first.
    """
    return f"{kind}-on-{socket.gethostname()}-{home_id()[:8]}"


def slot(kind: str, wanted: bool, ranks: int = 1) -> contextlib.AbstractContextManager:
    """A slot of a kind, waited for when it is entered, and a GPU for each rank of its work; nothing when it is not wanted.

    Entering raises Stopped when what it is for fails or is interrupted meanwhile. A server that is away does not end the work: the
    slot's lease is kept on its disk.
    """
    return held_slot(kind, ranks) if wanted else contextlib.nullcontext()


@contextlib.contextmanager
def held_slot(kind: str, ranks: int) -> Iterator[None]:
    with contextlib.ExitStack() as slots:
        # Who opened them may be killed, and the next shall not take them for free while this works.
        fcntl.flock(slots.enter_context(lock_file()), fcntl.LOCK_SH)
        # One of this process's waiting threads asks the server for all.
        while not turns[kind].acquire(timeout=SECONDS_BETWEEN_LOOKS):
            go_on()
        try:
            take(limit_name(kind), slots)
        finally:
            turns[kind].release()
        with own_gpus(ranks):
            yield


def take(limit: str, slots: contextlib.ExitStack) -> None:
    """Take a slot of a limit, once one is free, until `slots` ends. Raises Stopped when what it is for has failed meanwhile."""
    go_on()
    with get_client(sync_client=True) as client:
        while True:
            # Prefect's own waiting cannot be ended, and what it is refused it logs as an error: it is asked when one is free.
            found = client.read_global_concurrency_limit_by_name(limit)
            if found.active_slots < found.limit:
                try:
                    slot = concurrency(limit, strict=True, max_retries=0, raise_on_lease_renewal_failure=False)
                    slots.enter_context(slot)
                    return
                except Exception as error:
                    if not all_taken(error):
                        raise
            time.sleep(SECONDS_BETWEEN_LOOKS)
            go_on()


def all_taken(error: Exception) -> bool:
    """Whether an error of Prefect's says that another process was given the slot that was free."""
    cause = error.__cause__
    return isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code == httpx.codes.LOCKED


def lock_file() -> IO:
    """The file, to be closed, that is locked by all who have this machine's slots open, or hold one."""
    # The limits are a host's own, and hosts may share a home.
    path = home() / f"slots-on-{socket.gethostname()}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    # NFS shares a lock only on a file that is open for reading.
    return open(path, "a+")


@contextlib.contextmanager
def open_slots(training: int | None, generation: int | None, trainings: int = 1) -> Iterator[dict[str, int]]:
    """Set this machine's limits, and yield how many slots of each kind there are.

    All that open slots on one machine, for one home, share them. The first, when nobody holds one either, makes the limits anew,
    for one that was killed cannot have given its slots back; what is None is then 1, or `trainings`. Any other changes those alone
    that are given, and says so.
    """
    given = {"training": training, "generation": generation}
    with lock_file() as lock:
        # Whoever else comes waits until the limits are there.
        with alone(Path(lock.name)):
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
