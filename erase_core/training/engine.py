"""DeepSpeed around the edited UNet: one process without a launcher, or as many as a launcher started."""

from __future__ import annotations

import logging
import os

import torch
from torch import nn

from ..spec import Training


def join_process_group() -> None:
    """Join the process group described by the launcher's environment, or start one of a single process."""
    import deepspeed

    if torch.distributed.is_initialized():
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if "RANK" not in os.environ:
        # A store of its own: no port, and no address in the environment that a child process would take for its own group.
        os.environ["LOCAL_RANK"] = "0"
        torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)
    deepspeed.init_distributed(dist_backend=backend, verbose=False)


def config(training: Training) -> dict:
    """The DeepSpeed configuration of a spec's training part."""
    # The memory-efficient linear layer would replace torch's own in the whole process.
    zero: dict = {"stage": training.zero_stage, "memory_efficient_linear": False}
    if training.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if training.offload == "parameters":
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": training.batch_size,
        "gradient_accumulation_steps": 1,
        "zero_optimization": zero,
        # Adam is torch's on either side: DeepSpeed's own would be compiled at the first use.
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }


def start_engine(unet: nn.Module, trained: list[str], training: Training):
    """Give the UNet's trained parameters to Adam under DeepSpeed and return the engine; all others are frozen."""
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    join_process_group()
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


def average(tensor: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all ranks."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.all_reduce(tensor)
        tensor /= torch.distributed.get_world_size()
    return tensor


def export(engine, trained: list[str]) -> dict[str, torch.Tensor]:
    """The trained weights, whole and in float32, on every rank and for every ZeRO stage."""
    import deepspeed

    parameters = dict(engine.module.named_parameters())
    with deepspeed.zero.GatheredParameters(
        [parameters[name] for name in trained], enabled=engine.zero_optimization_stage() == 3
    ):
        return {name: parameters[name].detach().float().cpu().clone() for name in trained}
