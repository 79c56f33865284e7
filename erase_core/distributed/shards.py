"""Work in numbered pieces, shared over ranks by accelerate; each piece is a file that is whole or absent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from ..files import write_json
from .messages import at_work, heard
from .rank import FAILURES
from .ranks import run_ranks

JOB = "job.json"


def run_shards(
    module: str, job: dict, pieces: int, processes: int, folder: Path, progress: Callable[[int, int], None], total: int
) -> list[Path]:
    """Make all pieces in `processes` ranks of `module` and return their files, in order.

    folder: belongs to this work alone; the pieces that an earlier try finished are kept. total: how many items the pieces
    hold, for progress(done, total). Raises RanksFailed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / JOB, job)
    done = 0

    def on_line(line: str) -> None:
        nonlocal done
        if (piece := heard(line, "items")) is not None:
            done += piece["items"]
            progress(done, total)

    run_ranks(module, folder / JOB, processes, on_line)
    return [piece_file(folder, number) for number in range(pieces)]


def piece_file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.parquet"


def own_pieces(pieces: Iterable[int]) -> list[int]:
    """This rank's share of the pieces, next to each other; the process group is joined already."""
    import torch
    from accelerate import PartialState

    if FAILURES in os.environ:
        # A piece can take hours on a CPU, and is told of at its end alone.
        torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: at_work())
    state = PartialState(cpu=not torch.cuda.is_available())
    with state.split_between_processes(list(pieces)) as mine:
        return list(mine)
