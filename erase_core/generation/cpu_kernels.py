"""How a CPU draws: 3×3 convolutions of small maps by Winograd's F(4×4, 3×3), feed-forward layers in parts that its cache holds,
and attention without what is the same in every step.

A convolution so done has a quarter of the products (Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", 2016,
section 4.1): Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A for each tile d of 6×6 pixels, summed over channels. It is exact but for rounding, some
1e-5 of the largest value in float32.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention

WIDEST = 16
"""Pixels along the longer side of a map; on wider ones the library's own convolution is as fast."""

MOST_CHANNELS = 512
"""What is made of weights takes memory, kernels four times their own, so wide layers, most of a large network, keep theirs."""

HIDDEN = 2**19
"""At most so many numbers of a feed-forward layer's widest map at once, but at least one row."""

TEXT = 2**20
"""At most so many numbers of a layer's keys of texts are kept, for all threads together, and as many of its values."""

B_T = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
).float()
G = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]).double() / 24
A_T = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]).float()
ONE = 1 * 6 + 1
"""The element of a transformed tile whose column of Aᵀ ⊗ Aᵀ is all ones: what is added there is added to every pixel."""


def cpu_forwards(unet: nn.Module) -> dict[nn.Module, Callable]:
    """For each layer of `unet` that has a faster way here, that way; none where it is not in float32 on a CPU.

    They fall back to the layer's own way where a map does not fit or a gradient is asked for, and keep what they make of its
    weights: ask again when those have changed.
    """
    if unet.device.type != "cpu" or unet.dtype != torch.float32:
        return {}
    found: dict[nn.Module, Callable] = {}
    for layer in unet.modules():
        if "forward" in vars(layer):
            continue  # Somebody else's, such as a hook that brings the weights from elsewhere.
        if isinstance(layer, nn.Conv2d) and suits(layer):
            found[layer] = Winograd(layer.forward, layer.weight, layer.bias)
        elif isinstance(layer, FeedForward) and is_gated(layer):
            found[layer] = functools.partial(feed_in_parts, layer.forward, layer)
        elif isinstance(layer, Attention) and is_plain(layer):
            found[layer] = Attend(layer.forward, layer)
    return found


@contextmanager
def using(forwards: dict[nn.Module, Callable]) -> Iterator[None]:
    """Each layer by its function of `forwards`; by its own again afterwards."""
    for layer, forward in forwards.items():
        layer.forward = forward
    try:
        yield
    finally:
        for layer in forwards:
            vars(layer).pop("forward", None)


def suits(layer: nn.Conv2d) -> bool:
    """A plain 3×3 convolution that keeps the map's size and is not too wide."""
    kind = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode)
    plain = ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
    return kind == plain and max(layer.in_channels, layer.out_channels) <= MOST_CHANNELS


@torch.no_grad()
def transform(weight: torch.Tensor) -> torch.Tensor:
    """Kernels g [O, C, 3, 3] → G g Gᵀ [36, C, O]."""
    return torch.einsum("ki,lj,ocij->klco", G, G, weight.double()).flatten(0, 1).to(weight.dtype).contiguous()


@functools.cache
def tiles(height: int, width: int) -> tuple[torch.Tensor, list[tuple[slice, torch.Tensor]], torch.Tensor]:
    """The transforms of a map of such a size.

    Bᵀ along a line, for each of its T tiles [6·T, width]; for each row of tiles, the lines it sees and Bᵀ for those; and
    Aᵀ along both sides for a row of tiles [36·T, 4·width]. What lies outside of the map is zero, so its columns are left out.
    """
    count = width // 4
    lines = torch.zeros(6, count, width + 2)
    pixels = torch.zeros(6, 6, count, 4, count, 4)
    for tile in range(count):
        lines[:, tile, 4 * tile : 4 * tile + 6] = B_T
        pixels[:, :, tile, :, tile] = torch.einsum("ak,bl->klab", A_T, A_T)
    rows = []
    for top in range(-1, height - 1, 4):
        seen = slice(max(0, top), min(height, top + 6))
        rows.append((seen, B_T[:, seen.start - top : seen.stop - top].contiguous()))
    return lines[:, :, 1:-1].reshape(6 * count, width), rows, pixels.reshape(36 * count, 4 * width)


@dataclass
class Winograd:
    """A layer's convolution, all by products of matrices; `usual` does what this cannot."""

    usual: Callable
    weight: torch.Tensor
    bias: torch.Tensor | None

    @functools.cached_property
    def kernels(self) -> torch.Tensor:
        """Made when the first map fits: in large models none may."""
        return transform(self.weight)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, C, H, W] * g → [B, O, H, W]."""
        batch, channels, height, width = x.shape
        if (
            torch.is_grad_enabled()
            or x.dtype != self.weight.dtype
            or height % 4
            or width % 4
            or max(height, width) > WIDEST
        ):
            return self.usual(x)
        lines, rows, pixels = tiles(height, width)
        out_channels = len(self.weight)
        along = (lines @ x.reshape(batch * channels, height, width).permute(1, 2, 0)).flatten(1)
        found = x.new_empty(batch * out_channels, height * width)
        for above, (seen, down) in enumerate(rows):
            products = torch.bmm((down @ along[seen]).view(36, -1, channels), self.kernels)
            if self.bias is not None:
                products[ONE] += self.bias
            into = found[:, 4 * width * above : 4 * width * (above + 1)]
            torch.mm(products.view(len(pixels), -1).t(), pixels, out=into)
        return found.view(batch, out_channels, height, width)


def is_plain(layer: Attention) -> bool:
    """An attention layer that is its projections and a softmax, and nothing beside."""
    parts = (
        layer.group_norm,
        layer.spatial_norm,
        layer.norm_q,
        layer.norm_k,
        layer.norm_cross,
        layer.added_kv_proj_dim,
    )
    projections = (layer.to_q, layer.to_k, layer.to_v)
    return (
        type(layer.processor) is AttnProcessor2_0
        and not any(parts)
        and not layer.residual_connection
        and layer.rescale_output_factor == 1
        and layer.inner_kv_dim == layer.inner_dim
        and all(type(part) is nn.Linear and part.bias is None for part in projections)
    )


@dataclass
class Attend:
    """An attention layer, its projections of the same tokens as one product; `usual` does what this cannot."""

    usual: Callable
    layer: Attention
    kept: dict[tuple, tuple[torch.Tensor, ...]] = field(default_factory=dict)
    """The texts that were last seen, with their keys and values. While a text is held nothing else can lie where it does."""

    def __call__(
        self, x: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None, attention_mask=None, **rest
    ) -> torch.Tensor:
        """x [B, T, d], and a text [B, R, e] or none → [B, T, d]."""
        text = encoder_hidden_states
        if torch.is_grad_enabled() or attention_mask is not None or rest or x.ndim != 3:
            return self.usual(x, text, attention_mask, **rest)
        layer = self.layer
        if text is not None:
            query, (key, value) = self.heads(layer.to_q(x)), self.of_text(text)
        elif max(layer.to_q.weight.shape) <= MOST_CHANNELS:
            query, key, value = map(self.heads, linear(x, self.together).chunk(3, dim=-1))
        else:
            query, key, value = (self.heads(part(x)) for part in (layer.to_q, layer.to_k, layer.to_v))
        found = scaled_dot_product_attention(query, key, value)
        return layer.to_out[0](found.transpose(1, 2).flatten(2))

    @functools.cached_property
    def together(self) -> torch.Tensor:
        """The weights of all three projections [3 · d, d]."""
        return torch.cat([self.layer.to_q.weight, self.layer.to_k.weight, self.layer.to_v.weight])

    def heads(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, T, h · d] → [B, h, T, d]."""
        return tokens.unflatten(-1, (self.layer.heads, -1)).transpose(1, 2)

    def of_text(self, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys and values of a text, which a sampling gives in every step: one of its parts to each thread."""
        place = (text.data_ptr(), text.shape, text.stride())
        if known := self.kept.get(place):
            return known[1:]
        made = self.heads(self.layer.to_k(text)), self.heads(self.layer.to_v(text))
        if made[0].numel() * (threads := os.cpu_count() or 1) <= TEXT:
            for oldest in list(self.kept)[: max(0, len(self.kept) + 1 - threads)]:
                self.kept.pop(oldest, None)
            self.kept[place] = (text, *made)
        return made


def is_gated(layer: FeedForward) -> bool:
    """A feed-forward layer of a linear layer, its half gated by GELU of the other, and a linear layer with a bias."""
    first, *_, last = layer.net
    projections = (first.proj, last) if type(first) is GEGLU else ()
    return bool(projections) and all(type(part) is nn.Linear and part.bias is not None for part in projections)


def feed_in_parts(usual: Callable, layer: FeedForward, x: torch.Tensor, *rest, **settings) -> torch.Tensor:
    """A gated feed-forward layer on tokens [B, T, d], some rows of the batch at a time."""
    if torch.is_grad_enabled() or rest or settings or x.ndim != 3:
        return usual(x, *rest, **settings)
    first, *_, last = layer.net
    rows = max(1, HIDDEN // (first.proj.out_features * x.shape[1]))
    found = x.new_empty(*x.shape[:2], last.out_features)
    for part, into in zip(x.split(rows), found.split(rows), strict=True):
        value, gate = first.proj(part).chunk(2, dim=-1)
        torch.addmm(last.bias, gelu(gate).mul_(value).flatten(0, 1), last.weight.t(), out=into.flatten(0, 1))
    return found
