"""The process group: joining it, and what its ranks say to each other. A process that is alone is a group of one."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path

import torch

from ..files import read_json
from ..spec import Spec
from .environment import patience, place


def join() -> None:
    """Join the process group that the environment describes, or start one of a single process."""
    if torch.distributed.is_initialized():
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    mine = place(os.environ)
    if mine is None:
        # A store of its own: no port, and no address in the environment that a child process would take for its own group.
        # DeepSpeed makes this number the process's own device.
        os.environ["LOCAL_RANK"] = str(torch.cuda.current_device() if torch.cuda.is_available() else 0)
        torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)
    else:
        os.environ.update(mine.variables())
        if torch.cuda.is_available():
            # A scheduler may show each rank its own GPU alone, and DeepSpeed reads the number from here.
            os.environ["LOCAL_RANK"] = str(mine.local_rank % torch.cuda.device_count())
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # Ranks wait for each other while one of them works, which can take hours on a CPU.
        torch.distributed.init_process_group(backend, timeout=timedelta(seconds=patience(os.environ)))


def begin(job: Path) -> tuple[dict, Spec]:
    """A rank's beginning: its job and the spec in it, the process group, and its share of the cores."""
    found = read_json(job)
    join()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    return found, Spec.model_validate_json(json.dumps(found["spec"]))


def rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def world_size() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def barrier() -> None:
    if world_size() > 1:
        torch.distributed.barrier()


def of_first(value: object) -> object:
    """What rank 0 gives, on every rank."""
    given = [value]
    if world_size() > 1:
        torch.distributed.broadcast_object_list(given, src=0)
    return given[0]


def average(tensor: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all ranks, on every rank."""
    if world_size() == 1:
        return tensor
    summed = tensor.to("cuda") if torch.cuda.is_available() else tensor
    torch.distributed.all_reduce(summed)
    return (summed / world_size()).to(tensor.device)


def gather(items: list) -> list:
    """The lists of all ranks as one, in the ranks' order, on every rank."""
    if world_size() == 1:
        return items
    parts: list[list] = [[] for _ in range(world_size())]
    torch.distributed.all_gather_object(parts, items)
    return [item for part in parts for item in part]
