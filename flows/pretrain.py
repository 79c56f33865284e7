"""The flow that trains the embedded model again, from the emoji packages."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from prefect import flow

from erase_core.files import home
from erase_core.models.places import check_world_place
from erase_core.results import held
from tasks import tracking
from tasks.pretraining import PARTS, assemble_world, render_emoji, train_part

from .missed import catch_up_once


@flow(name="pretrain", flow_run_name="emoji world, seed {seed}", log_prints=True, on_running=[catch_up_once])
def pretrain(output: str = "results/emoji-world", scale: float = 1.0, seed: int = 0) -> dict[str, float]:
    """Train the emoji world: render → autoencoder, CLIP, judges → UNet, decoder → assemble and measure.

    Work in progress is kept below the project's home by scale and seed, and an interrupted run goes on there. Returns the
    measured figures. Raises PlaceError when the output holds anything but a world, and InUse while another process has that or the
    work.

    Args:
        output: Folder of the finished world.
        scale: Share of the full training steps, more than 0 and at most 1.
        seed: Every random choice comes from it.
    """
    check_world_place(Path(output))
    torch.set_num_threads(os.cpu_count() or 1)
    work = str(home() / "pretraining" / f"seed-{seed}-scale-{scale:g}")
    tags = {"kind": "pretraining", "seed": str(seed), "scale": f"{scale:g}"}
    with held(Path(output)), held(Path(work)), tracking.run("emoji world", tags=tags, output=output) as parent:
        render_emoji(work)
        for part in PARTS:
            with tracking.run(part, parent) as run_id:
                train_part(part, work, scale, seed, run_id)
        return assemble_world(work, output, max(1, round(1 / scale)) if scale < 1 else 1, parent)
