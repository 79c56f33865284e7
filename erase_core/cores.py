"""A batch's rows shared among a CPU's cores: each thread takes its part through the whole network.

Threads that share every single operation wait for each other after each; on small networks that costs more than a quarter.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

FEWEST_ROWS = 4
"""Parts of fewer rows are not worth a thread of their own."""


def share_rows(work: Callable, *rows: Sequence, fewest: int = FEWEST_ROWS) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """work(*rows), for inference: as it is on an accelerator, else a part of the rows (tensors or lists) on each core.

    work returns one tensor or several, their rows in the order of what it was given. fewest: rows of a part, at least.
    """
    count = min(torch.get_num_threads(), len(rows[0]) // fewest)
    if count < 2 or any(isinstance(part, torch.Tensor) and part.device.type != "cpu" for part in rows):
        return work(*rows)
    ends = [len(rows[0]) * i // count for i in range(count + 1)]

    @torch.inference_mode()
    def one(part: slice):
        return work(*(row[part] for row in rows))

    found = list(threads(torch.get_num_threads()).map(one, map(slice, ends, ends[1:])))
    return torch.cat(found) if isinstance(found[0], torch.Tensor) else tuple(map(torch.cat, zip(*found)))


@functools.cache
def threads(count: int) -> ThreadPoolExecutor:
    """So many threads, in each of which operations are done by it alone."""
    together = threading.Barrier(count)

    def start() -> None:
        torch.set_num_threads(1)
        # Asked for once, it is this thread's own number from now on; else the first operation would take the process's.
        torch.get_num_threads()
        together.wait()

    pool = ThreadPoolExecutor(count, thread_name_prefix="rows", initializer=start)
    for _ in pool.map(lambda _: None, range(count)):
        pass
    # What a thread sets for itself is also what threads of later have, so it is set back.
    torch.set_num_threads(count)
    return pool
