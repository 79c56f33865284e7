"""Which of this machine's GPUs a slot's work has: those with the least other work in slots."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from itertools import count

from erase_core.distributed.environment import gpus
from erase_core.files import home


def visible() -> list[str]:
    """The names of the GPUs that this process can see, as CUDA_VISIBLE_DEVICES has them; empty without any."""
    import torch

    found = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:found] if named else [str(number) for number in range(found)]


@contextlib.contextmanager
def own_gpus(wanted: int) -> Iterator[None]:
    """Let the block's ranks see as many GPUs as wanted and no others, and make the first of these the current one.

    All of them when there are fewer, and nothing on a machine without. A GPU is free again when its holder ends, however that was.
    """
    every = visible()
    if not every:
        yield
        return
    folder = home() / "gpus" / socket.gethostname()
    folder.mkdir(parents=True, exist_ok=True)
    chosen: list[str] = []
    with contextlib.ExitStack() as seats:
        # Every GPU has a first seat, a second one, and so on; a lock on a file is one that is taken.
        for row in count():
            for name in every:
                if len(chosen) < min(wanted, len(every)) and name not in chosen:
                    seat = seats.enter_context(open(folder / f"{name}-{row}", "w"))
                    with contextlib.suppress(BlockingIOError):
                        fcntl.flock(seat, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        chosen.append(name)
            if len(chosen) == min(wanted, len(every)):
                break
        with using(chosen):
            yield


def room_beside(ranks: int, wanted: int) -> contextlib.AbstractContextManager | None:
    """What lets a block's ranks see as many GPUs as wanted, which a training on so many ranks leaves free; None when there are not.

    Without GPUs there is room when each rank, and this process, can have its threads on cores of their own: threads that take
    turns on a core wait for each other most of the time.
    """
    import torch

    if every := visible():
        free = every[ranks : ranks + wanted]
        return using(free) if len(free) == wanted else None
    free = (os.cpu_count() or 1) >= torch.get_num_threads() * (ranks + 1)
    return contextlib.nullcontext() if free else None


@contextlib.contextmanager
def using(chosen: list[str]) -> Iterator[None]:
    """Let the block's ranks see these GPUs and no others, and make the first of them the current one."""
    import torch

    before = gpus.set(",".join(chosen))
    try:
        with torch.cuda.device(visible().index(chosen[0])):
            yield
    finally:
        gpus.reset(before)
