"""Where the time of a training step goes, and the floor that the UNet's own multiplications set."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from diffusers import StableDiffusionPipeline
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from erase_core.cpu_kernels import multiply
from erase_core.training import loop, predictions
from erase_core.training.loop import train

from .step_speed import FEW, prepared, spec_of


def matrix_throughput(product: Callable, side: int = 1024, rounds: int = 20) -> float:
    """Multiplications and additions a second of square fp32 matrix products, the median over the rounds."""
    a, b = torch.randn(2, side, side)
    seen = []
    for _ in range(rounds):
        began = time.perf_counter()
        product(a, b)
        seen.append(2 * side**3 / (time.perf_counter() - began))
    return median(seen)


def measure(pipeline: StableDiffusionPipeline, rounds: int) -> list[dict]:
    """Rows (part, milliseconds, share of the step) of the mean step: forward, backward, search, optimiser, the rest, the floor.

    What the search does is told apart from the update.
    """
    import deepspeed

    from erase_core.search.gumbel import GumbelSearch

    spent: dict[str, float] = defaultdict(float)
    within: set[str] = set()
    searching: list[bool] = []

    def search(call):
        """Whose calls are told as the search's."""

        def run(*arguments, **named):
            searching.append(True)
            try:
                return call(*arguments, **named)
            finally:
                searching.pop()

        return run

    def timed(name: str, call):
        """Adds up its seconds, but for calls within such a one, and in threads that it shares its rows with."""

        def run(*arguments, **named):
            part = f"search: {name}" if searching else name
            if part in within or threading.current_thread() is not threading.main_thread():
                return call(*arguments, **named)
            within.add(part)
            began = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                spent[part] += time.perf_counter() - began
                within.remove(part)

        return run

    spec = spec_of(["taxi"], "emoji-world", FEW, steps=10 * rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = prepared(pipeline, spec, folder)
        arguments = (pipeline.unet, pipeline.scheduler, *given, spec.method, spec.training, spec.seed)
        train(*arguments, trajectories=folder)
        counter, threads = FlopCounterMode(display=False), torch.get_num_threads()
        # It counts in its own thread alone, and no product within a fused attention.
        torch.set_num_threads(1)
        with counter, sdpa_kernel(SDPBackend.MATH):
            train(*arguments, trajectories=folder)
        torch.set_num_threads(threads)
        patched = (
            (type(pipeline.unet), "forward", "UNet, forward"),
            (predictions, "share_rows", "UNet, forward"),
            (torch.Tensor, "backward", "UNet, backward"),
            (GumbelSearch, "rivals", "draws"),
            (GumbelSearch, "score_gradient", "gradient to π"),
            (GumbelSearch, "ascend", "Adam"),
            (deepspeed.DeepSpeedEngine, "step", "optimiser"),
        )
        kept = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in patched]
        kept.append((loop, "by_measuring", loop.by_measuring))
        records: list[dict] = []
        try:
            for owner, attribute, part in patched:
                setattr(owner, attribute, timed(part, getattr(owner, attribute)))
            loop.by_measuring = search(loop.by_measuring)
            began = time.perf_counter()
            train(*arguments, trajectories=folder, on_record=records.append)
            whole = time.perf_counter() - began
        finally:
            for owner, attribute, original in kept:
                setattr(owner, attribute, original)
    steps = spec.training.steps
    spent["reading latents"] = sum(record["latent_seconds"] for record in records)
    spent["other (start of the engine, checks, records)"] = whole - sum(spent.values())
    rows = [{"part": part, "seconds": seconds} for part, seconds in sorted(spent.items(), key=lambda item: -item[1])]
    rows.append({"part": "the whole step", "seconds": whole})
    for library, product in {"MKL, which multiplies in a training": torch.matmul, "oneDNN": multiply}.items():
        floor = counter.get_total_flops() / matrix_throughput(product)
        rows.append({"part": f"floor: the UNet's products at the throughput of {library}", "seconds": floor})
    return [
        {"part": row["part"], "share": row["seconds"] / whole, "milliseconds": 1000 * row["seconds"] / steps}
        for row in rows
    ]
