"""How well two ranks with a core each use them: weak scaling of training steps on the embedded model.

    python -m benchmarks.rank_scaling [--steps 40] [--repeats 3] [--per-rank 4] [--out FILE.json]

One rank on one core trains with PER-RANK samples a step; two ranks, a core each, with PER-RANK samples each. The efficiency is
the first's time of a step over the second's. Every rank is bound to a core. Runs of both kinds take turns, and the
quickest median of each counts, so that other work on the machine disturbs both alike. Trajectories are sampled
before, as they are in a training once its words have been visited; the first steps are left out.
The communication share is the part of a step that rank 0 spends in collective calls, waits for the other rank included.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WARM_UP = 5


def measure(path: Path) -> None:
    """One rank of one measurement; rank 0 leaves the median step's seconds and communication share."""
    from erase_core.distributed.environment import place
    from erase_core.files import read_json, write_json

    mine = place(os.environ)
    number = mine.rank if mine else 0
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[number]})

    import torch

    from erase_core.concepts.vocabulary import candidates, curate
    from erase_core.distributed.group import join
    from erase_core.models.pipeline import load_pipeline
    from erase_core.models.prompts import encode
    from erase_core.models.source import find_model
    from erase_core.spec import Method, Training
    from erase_core.training.loop import train
    from erase_core.training.step import Conditions, ErasedConcept

    job = read_json(path)
    join()
    torch.set_num_threads(1)
    pipeline = load_pipeline(find_model("emoji-world"))
    words = [row.word for row in curate(candidates("emoji-world"), ["taxi"], []) if row.kept][:20]
    prompts = ["taxi", "a taxi"]
    concept = ErasedConcept("taxi", prompts, encode(pipeline, prompts), words, encode(pipeline, words), [[1], [2]])
    empty = encode(pipeline, [""])[0]

    spent = 0.0

    def timed(collective):
        def call(*arguments, **options):
            nonlocal spent
            began = time.perf_counter()
            result = collective(*arguments, **options)
            spent += time.perf_counter() - began
            return result

        return call

    for name in ("all_reduce", "all_gather", "all_gather_object", "broadcast", "reduce", "barrier"):
        setattr(torch.distributed, name, timed(getattr(torch.distributed, name)))
    ends: list[tuple[float, float, float]] = []

    def on_record(record: dict) -> None:
        if record["phase"] == "update":
            ends.append((time.perf_counter(), spent, record["latent_seconds"]))

    train(
        pipeline.unet,
        pipeline.scheduler,
        [concept],
        Conditions(empty, empty),
        Method(),
        Training(steps=job["steps"] + WARM_UP, **job["training"]),
        seed=0,
        on_record=on_record,
        trajectories=Path(job["trajectories"]),
    )
    steps = [(after[0] - before[0], after[1] - before[1]) for before, after in zip(ends[WARM_UP - 1 :], ends[WARM_UP:])]
    if number == 0:
        seconds, shares = zip(*((took, communicating / took) for took, communicating in steps))
        write_json(
            path.parent / "measured.json", {"step": statistics.median(seconds), "share": statistics.median(shares)}
        )


def launch(folder: Path, ranks: int, options: argparse.Namespace) -> dict:
    from erase_core.files import read_json, write_json

    training = {"batch_size": options.per_rank * ranks, "processes": ranks, "zero_stage": options.zero_stage}
    trajectories = folder / "trajectories"
    write_json(folder / "job.json", {"steps": options.steps, "training": training, "trajectories": str(trajectories)})
    rank = [os.path.abspath(__file__), "--rank", str(folder / "job.json")]
    agent = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *agent, *rank], env=environment, check=True, stdout=subprocess.DEVNULL)
    return read_json(folder / "measured.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--per-rank", type=int, default=4)
    parser.add_argument("--zero-stage", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.rank:
        measure(options.rank)
        return
    from erase_core.files import write_json

    found: dict[int, list[dict]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as name:
        for _ in range(options.repeats):
            for ranks, runs in found.items():
                runs.append(launch(Path(name), ranks, options))
                print(
                    f"{ranks} rank(s): {1000 * runs[-1]['step']:.0f} ms a step, {runs[-1]['share']:.1%} communicating"
                )
    one, two = (min(runs, key=lambda run: run["step"]) for runs in found.values())
    result = {
        "milliseconds_one_rank": 1000 * one["step"],
        "milliseconds_two_ranks": 1000 * two["step"],
        "efficiency": one["step"] / two["step"],
        "communication_share": two["share"],
        "load": os.getloadavg()[0],
        "per_rank": options.per_rank,
        "zero_stage": options.zero_stage,
    }
    print(f"efficiency {result['efficiency']:.1%}, communication {result['communication_share']:.1%} of a step")
    if options.out:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
