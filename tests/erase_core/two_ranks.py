"""What two ranks do in test_distribution.py: share images and verdicts, train with every ZeRO stage, and keep checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from erase_core.distributed.group import gather, join, rank
from erase_core.distributed.rank import run_rank
from erase_core.files import read_json, write_json
from erase_core.generation import worker as drawing
from erase_core.metrics import worker as judging
from erase_core.spec import Method, Training
from erase_core.training import loop
from tests.erase_core.tiny_training import inputs
from tests.tiny import tiny_stable_diffusion


def main(job: dict, folder: Path) -> None:
    join()
    torch.set_num_threads(1)
    drawing.main(Path(job["images"]))
    judging.main(Path(job["verdicts"]))
    pipeline = tiny_stable_diffusion()
    searches = []
    make = loop.chooser_of
    loop.chooser_of = lambda *arguments: searches.append(make(*arguments)) or searches[-1]
    for name, (method, training) in job["trainings"].items():
        records, same_pi = [], []

        def on_search(step: int, concept: str, searched: torch.Tensor, same_pi=same_pi) -> None:
            found = gather([next(iter(searches[-1].state_dict().values())).detach().flatten().tolist()])
            same_pi.append(len(found) == 2 and found[0] == found[1] and any(found[0]))

        weights = loop.train(
            *inputs(pipeline),
            Method(**method),
            Training(**training),
            job["seed"],
            Path(job["checkpoints"]) / name,
            records.append,
            on_search,
        )
        if rank() == 0:
            save_file(weights, folder / f"{name}.safetensors")
            write_json(folder / f"{name}.json", {"records": records, "same_pi": same_pi})


if __name__ == "__main__":
    job_file = Path(sys.argv[1])
    run_rank(lambda: main(read_json(job_file), job_file.parent))
