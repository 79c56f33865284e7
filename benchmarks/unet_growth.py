"""How a training step grows with the UNet: the included one, and Stable Diffusion 1.4's at half and at full width."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

SIZES = ("included", "half", "full")


def unet_of(size: str):
    """A UNet with its scheduler and the shape of a condition [L, d]; random weights for all but the included one."""
    import torch
    from diffusers import DDIMScheduler, UNet2DConditionModel

    from erase_core.api import load
    from erase_core.models.published import configs

    if size == "included":
        pipeline = load()
        return pipeline.unet, pipeline.scheduler, (pipeline.tokenizer.model_max_length, 128)
    parts = configs("sd1")
    config = dict(parts["unet"])
    if size == "half":
        config["block_out_channels"] = [width // 2 for width in config["block_out_channels"]]
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(config).requires_grad_(False).eval()
    return unet, DDIMScheduler.from_config(parts["scheduler"]), (77, config["cross_attention_dim"])


def measure(size: str, steps: int) -> dict:
    """One training of adversarial preservation, one sample a step: parameters, seconds of a step, and the process's peak memory."""
    import torch

    from erase_core.spec import Method, Training
    from erase_core.training.loop import train
    from erase_core.training.step import Conditions, ErasedConcept
    from erase_core.training.worker import peak_memory

    unet, scheduler, shape = unet_of(size)
    words = ["a word", "another"]
    drawn = torch.randn(4, *shape)
    concept = ErasedConcept("concept", ["concept"], drawn[:1], words, drawn[1:3], [[1]])
    training = Training(steps=steps, batch_size=1, trajectories=1, latent_steps=2, checkpoint_every=10**6)
    records: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        given = ([concept], Conditions(drawn[3], drawn[3]), Method(), training, 0)
        train(unet, scheduler, *given, on_record=records.append, trajectories=Path(folder))
    # The first step pays for what a training does once.
    spent = sum(record["seconds"] - record["latent_seconds"] for record in records if record["step"])
    parameters = sum(parameter.numel() for parameter in unet.parameters())
    return {
        "unet": size,
        "parameters": parameters,
        "seconds": spent / (steps - 1),
        "peak_gib": peak_memory(),
    }


def growth(steps: int = 3) -> Iterator[dict]:
    """A row for each size, each in a process of its own."""
    for size in SIZES:
        command = [sys.executable, "-m", "benchmarks.unet_growth", size, str(steps)]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        yield json.loads(told.splitlines()[-1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure the training step of one UNet.")
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("steps", type=int)
    given = parser.parse_args()
    print(json.dumps(measure(given.size, given.steps)))
