"""One rank of an image drawing. Started by `erase_core.distributed.ranks`, with a job file as its only argument."""

from __future__ import annotations

import sys
from pathlib import Path

from ..distributed.group import barrier, begin
from ..distributed.messages import tell
from ..distributed.rank import run_rank
from ..distributed.shards import own_pieces, piece_file
from ..models.delta import apply_delta
from ..models.pipeline import load_pipeline, prepare_sampling
from ..models.source import source_in
from .dataset import batches_of
from .images import generate
from .plan import Wanted
from .sampler import Ready


def main(path: Path) -> None:
    job, spec = begin(path)
    pipeline = load_pipeline(source_in(spec.model, Path(job["model"])))
    if job["delta"] is not None:
        apply_delta(pipeline.unet, Path(job["delta"]))
    prepare_sampling(pipeline, spec.generation)
    ready = Ready(pipeline)
    batches = list(batches_of([Wanted(**wanted) for wanted in job["wanted"]], spec.generation))
    for number in own_pieces(range(len(batches))):
        settings, wanted = batches[number]
        piece = piece_file(path.parent, number)
        if not piece.exists():
            generate(pipeline, wanted, settings, job["model_hash"], piece, ready=ready)
        tell({"items": len(wanted)})
    # A machine whose ranks have ended would end those of the others.
    barrier()


if __name__ == "__main__":
    job_file = Path(sys.argv[1])
    run_rank(lambda: main(job_file))
