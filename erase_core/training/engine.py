"""DeepSpeed around the edited UNet: its configuration, and its weights and Adam's moments whole, whatever the ZeRO stage."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

import torch
from torch import nn

from ..distributed.group import join, rank, world_size
from ..spec import Training

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's running means of the gradient and of its square, by torch's names."""
BUCKET = 50_000_000
"""Gradients that ZeRO reduces together. DeepSpeed's own default would hold 2 GB for it, however few weights are trained."""
REUSED = 10**9
"""ZeRO 3 keeps a gathered weight that is used again before so many others, in numbers."""


def config(training: Training) -> dict:
    """The DeepSpeed configuration of a spec's training part; batch_size is shared by all ranks."""
    # The memory-efficient linear layer would replace torch's own in the whole process.
    zero: dict = {"stage": training.zero_stage, "reduce_bucket_size": BUCKET, "memory_efficient_linear": False}
    if training.zero_stage == 3:
        zero["stage3_max_reuse_distance"] = REUSED
    if training.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if training.offload == "parameters":
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_batch_size": training.batch_size,
        "train_micro_batch_size_per_gpu": training.batch_size // world_size(),
        "gradient_accumulation_steps": 1,
        "zero_optimization": zero,
        # Adam is torch's on either side: DeepSpeed's own would be compiled at the first use.
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }


@contextlib.contextmanager
def no_mlflow() -> Iterator[None]:
    """Hide MLflow from what is imported, unless it is already: DeepSpeed's autotuner, unused here, takes longer to import it than
    all else of DeepSpeed takes.
    """
    hidden = "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None
    try:
        yield
    finally:
        if hidden:
            del sys.modules["mlflow"]


def start_engine(unet: nn.Module, trained: list[str], training: Training):
    """Give the UNet's trained parameters to Adam under DeepSpeed and return the engine; all others are frozen."""
    with no_mlflow():
        import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    join()
    deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), verbose=False)
    chosen = set(trained)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(name in chosen)
    parameters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    engine, *_ = deepspeed.initialize(
        model=unet,
        model_parameters=parameters,
        optimizer=torch.optim.Adam(parameters, lr=training.learning_rate),
        config=config(training),
    )
    return engine


def set_learning_rate(engine, training: Training, done: float) -> None:
    """Adam's learning rate after this share of the steps, in [0, 1)."""
    rate = training.learning_rate * (1 - done if training.schedule == "linear" else 1)
    for group in engine.optimizer.param_groups:
        group["lr"] = rate


def export(engine, trained: list[str], kept: bool = True) -> dict[str, torch.Tensor]:
    """The trained weights, whole and in float32, for every ZeRO stage. Every rank calls this, and has them where they are kept."""
    import deepspeed

    parameters, found = dict(engine.module.named_parameters()), {}
    for name in trained:
        # One at a time: all of them together need not fit beside what a rank has of them.
        with deepspeed.zero.GatheredParameters([parameters[name]], enabled=engine.zero_optimization_stage() == 3):
            if kept:
                found[name] = parameters[name].detach().float().cpu().clone()
    return found


def moments(engine, trained: list[str], kept: bool = True) -> dict[str, dict[str, torch.Tensor]]:
    """Adam's moments of the trained weights, whole and in float32, by moment and name. Called as `export`."""
    from deepspeed.utils import safe_get_full_optimizer_state

    parameters = dict(engine.module.named_parameters())
    found: dict[str, dict[str, torch.Tensor]] = {moment: {} for moment in MOMENTS}
    for moment, of in found.items():
        for name in trained:
            parameter = parameters[name]
            if engine.zero_optimization_stage() == 0:
                state = engine.optimizer.state[parameter].get(moment)
                value = torch.zeros_like(parameter) if state is None else state
            else:
                value = safe_get_full_optimizer_state(parameter, moment)
            if kept:
                of[name] = value.detach().float().cpu().clone()
    return found


def restore_moments(engine, saved: dict[str, dict[str, torch.Tensor]], updates: int) -> None:
    """Give a new engine Adam's moments after so many updates, each rank taking its part of them."""
    from deepspeed.utils import (
        safe_get_local_optimizer_state,
        safe_set_full_optimizer_state,
        safe_set_local_optimizer_state,
    )

    stage = engine.zero_optimization_stage()
    adam = engine.optimizer if stage == 0 else engine.optimizer.optimizer
    # Under ZeRO 3 Adam is handed its parameters anew in every step.
    own = (
        engine.optimizer.fp32_partitioned_groups_flat
        if stage == 3
        else [part for group in adam.param_groups for part in group["params"]]
    )
    for part in own:
        adam.state[part] = {"step": torch.tensor(float(updates)), **{m: torch.zeros_like(part) for m in MOMENTS}}
    if stage in (1, 2):
        # DeepSpeed itself links a parameter to its moments in the first step only.
        engine.optimizer._lazy_init_hp_params_optimizer_state()
    parameters = dict(engine.module.named_parameters())
    for moment, values in saved.items():
        for name, value in values.items():
            parameter, value = parameters[name], value.to(engine.device)
            if stage == 0:
                adam.state[parameter][moment].copy_(value)
            elif stage < 3:
                safe_set_full_optimizer_state(parameter, value, moment)
            else:
                # The last part is padded, which the call for whole values does not allow for.
                size = safe_get_local_optimizer_state(parameter, moment).numel()
                padded = nn.functional.pad(value.flatten(), (0, size * world_size() - value.numel()))
                safe_set_local_optimizer_state(parameter, padded.narrow(0, size * rank(), size), moment)
