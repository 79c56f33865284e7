"""One rank of a scoring. Started by `erase_core.distributed.ranks`, with a job file as its only argument."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..distributed.group import barrier, begin
from ..distributed.messages import tell
from ..distributed.rank import run_rank
from ..distributed.shards import own_pieces, piece_file
from ..files import new_file
from ..generation.plan import shown
from .per_image import judge_batches
from .scorers import scorers_of


def main(path: Path) -> None:
    job, spec = begin(path)
    mine = [number for number in own_pieces(range(job["pieces"])) if not piece_file(path.parent, number).exists()]
    files, scorers = (Path(job["original"]), Path(job["erased"])), scorers_of(spec, shown(job["roles"]))
    for number, frame in zip(mine, judge_batches(*files, job["roles"], scorers, mine)):
        with new_file(piece_file(path.parent, number)) as partial:
            pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), partial)
        tell({"items": len(frame)})
    # A machine whose ranks have ended would end those of the others.
    barrier()


if __name__ == "__main__":
    job_file = Path(sys.argv[1])
    run_rank(lambda: main(job_file))
