"""A rank for test_ranks.py: joins its group, adds its number to the others', and fails or dies when it is told to."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch

from erase_core.distributed import messages
from erase_core.distributed.group import join, rank, world_size
from erase_core.distributed.rank import run_rank
from erase_core.distributed.shards import own_pieces
from erase_core.files import read_json, write_json


def main(path: Path) -> None:
    work = read_json(path)["work"]
    join()
    last = rank() == world_size() - 1
    print("joined", flush=True)
    if work == "fail" and last:
        raise ZeroDivisionError
    if work == "wrong" and last:
        raise ValueError("training.method: is wrong")
    if work == "full" and last:
        Path("/dev/full").write_text("a")
    if work == "die" and last:
        os.kill(os.getpid(), signal.SIGKILL)
    if work == "sleep":
        time.sleep(120)
    if work == "piece":
        messages.SECONDS_BETWEEN_SIGNS = 0.2
        own_pieces([0])
        layer = torch.nn.Linear(1, 1)
        for _ in range(10):
            layer(torch.zeros(1, 1))
            time.sleep(0.1)
    total = torch.tensor([rank() + 1.0])
    torch.distributed.all_reduce(total)
    write_json(path.parent / f"result-{rank()}.json", float(total))


if __name__ == "__main__":
    job_file = Path(sys.argv[1])
    run_rank(lambda: main(job_file))
