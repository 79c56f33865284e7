"""What a UNet computes before it sees a text: the same for both guidance halves, and so done once.

Both halves have the same latents. Up to the first attention to the text the network makes the same of them, unless an embedding
of the text goes with the timestep's, as in Stable Diffusion XL.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from diffusers import Transformer2DModel, UNet2DConditionModel
from diffusers.models.unets.unet_2d_blocks import CrossAttnDownBlock2D
from torch import nn

from ..cpu_kernels import replaced


def before_text(unet: UNet2DConditionModel) -> list[nn.Module]:
    """The layers that run before the first attention to the text: the costly ones, each of which is given the whole batch."""
    if unet.config.addition_embed_type is not None:
        return []
    found: list[nn.Module] = [unet.conv_in]
    for block in unet.down_blocks:
        if not getattr(block, "has_cross_attention", False):
            found += [*block.resnets, *(block.downsamplers or [])]
            continue
        if type(block) is not CrossAttnDownBlock2D or type(block.attentions[0]) is not Transformer2DModel:
            return found
        first = block.attentions[0].transformer_blocks[0]
        return [*found, block.resnets[0], *([] if first.only_cross_attention else [first.attn1])]
    return found


def shared_forwards(unet: UNet2DConditionModel, forwards: dict[nn.Module, Callable]) -> dict[nn.Module, Callable]:
    """`forwards`, and for each layer before the text the same or its own way, for a batch of equal pairs."""
    layers = [layer for layer in before_text(unet) if not replaced(layer)]
    return forwards | {layer: functools.partial(once, forwards.get(layer, layer.forward)) for layer in layers}


def once(forward: Callable, rows: torch.Tensor, *rest, **settings) -> torch.Tensor:
    """What a layer makes of one row of each pair [2 · B, …], for both."""
    own = [part[::2] if isinstance(part, torch.Tensor) else part for part in rest]
    made = forward(rows[::2], *own, **settings)
    # Copied in the order in which they lie, so that maps stay as their layer lays them out.
    order = sorted(range(made.ndim), key=made.stride, reverse=True)
    return made.permute(order).repeat_interleave(2, dim=order.index(0)).permute(*map(order.index, range(made.ndim)))
