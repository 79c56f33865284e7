"""Tasks that train the embedded model again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prefect import task

from erase_core.emoji_world import pretrain

from . import tracking
from .progress import reporting

PARTS: dict[str, Callable[..., None]] = {
    "autoencoder": pretrain.autoencoder,
    "clip": pretrain.clip,
    "concept-judge": lambda *arguments: pretrain.judge("concept", *arguments),
    "style-judge": lambda *arguments: pretrain.judge("style", *arguments),
    "unet": pretrain.unet,
    "decoder": pretrain.decoder,
}
"""The parts in the order that their inputs allow."""


@task(name="render", retries=2, retry_delay_seconds=10)
def render_emoji(work: str) -> int:
    """Fetch the emoji packages, render every concept in every style, and build the tokenizer; returns the number of images."""
    folder = Path(work)
    folder.mkdir(parents=True, exist_ok=True)
    pretrain.tokenizer(folder)
    return len(pretrain.renders(folder))


@task(name="train-part", task_run_name="train-{part}", retries=1, retry_delay_seconds=10)
def train_part(part: str, work: str, scale: float, seed: int, run_id: str) -> None:
    """Train one part of the world, going on from its last checkpoint."""
    with reporting(part, f"pretraining-{part}") as report:

        def on_report(stage: str, step: int, steps: int, values: dict[str, float]) -> None:
            report(step, steps, f"loss {values['loss']:.4f}")
            tracking.log_metrics(run_id, {f"{stage}/{name}": value for name, value in values.items()}, step)

        PARTS[part](Path(work), pretrain.Plan().scaled(scale), seed, on_report)


@task(name="assemble")
def assemble_world(work: str, output: str, every: int, run_id: str) -> dict[str, float]:
    """Write the finished world with its model card, and measure it."""
    with reporting("measuring", "pretraining-quality") as report:
        figures = pretrain.assemble(Path(work), Path(output), every, report)
    tracking.log_metrics(run_id, figures)
    for name in ("contact-sheet.png", "quality.json", "README.md"):
        tracking.client().log_artifact(run_id, str(Path(output) / name))
    return figures
