"""The one optimisation loop behind every part of the emoji world: AdamW, cosine decay, resumable to the bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..files import new_file

Report = Callable[[str, int, int, dict[str, float]], None]
"""Called as report(stage, step, steps, values) about every hundred steps."""


def silent(stage: str, step: int, steps: int, values: dict[str, float]) -> None:
    """A report that goes nowhere."""


def fit(
    stage: str,
    model: nn.Module,
    loss_of: Callable[[np.random.Generator], torch.Tensor],
    *,
    steps: int,
    learning_rate: float,
    checkpoint: Path,
    seed: int,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.01,
    warmup: int = 50,
    average: nn.Module | None = None,
    average_decay: float = 0.999,
    report: Report = silent,
) -> None:
    """Minimise loss_of(rng) over `model`, going on from `checkpoint` when it is there.

    The generator handed to loss_of is seeded by (seed, step), so an interrupted run ends with the same weights as an
    undisturbed one. `average`, when given, is kept as the exponential moving average of the weights.
    """
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1 and p.shape[0] < 10_000]
    plain = [p for p in model.parameters() if p.requires_grad and not (p.ndim > 1 and p.shape[0] < 10_000)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=learning_rate,
        betas=betas,
        fused=True,
    )
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
        start = state["step"]

    def save(step: int) -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        if average is not None:
            state["average"] = average.state_dict()
        with new_file(checkpoint) as partial:
            torch.save(state, partial)

    model.train()
    began, losses = time.perf_counter(), []
    for step in range(start, steps):
        torch.manual_seed(seed * 1_000_003 + step)
        factor = min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * factor
        loss = loss_of(np.random.default_rng([seed, step]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if average is not None:
            decay = min(average_decay, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        losses.append(loss.detach())
        if (step + 1) % 100 == 0 or step + 1 == steps:
            mean = float(torch.stack(losses).mean())
            if not math.isfinite(mean):
                raise RuntimeError(f"{stage}: the loss is {mean} at step {step + 1}; lower the learning rate")
            report(
                stage, step + 1, steps, {"loss": mean, "seconds_per_step": (time.perf_counter() - began) / len(losses)}
            )
            began, losses = time.perf_counter(), []
        if (step + 1) % 500 == 0 or step + 1 == steps:
            save(step + 1)
    model.eval()
