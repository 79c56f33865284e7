"""How a CPU draws: 3×3 convolutions of small maps by Winograd's F(4×4, 3×3), feed-forward layers in parts that its cache holds,
attention without what is the same in every step, and every product with weights by oneDNN.

A convolution so done has a quarter of the products (Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", 2016,
section 4.1): Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A for each tile d of 6×6 pixels, summed over channels. It is exact but for rounding, some
1e-5 of the largest value in float32.

torch multiplies float32 matrices by MKL, which leaves half of the vector width unused on CPUs that are not Intel's; oneDNN, by
which torch convolves, uses all of it on any. Maps have their channels last in memory: what is a map to a convolution is tokens
to a linear layer, with nothing to be moved.
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
from torch.nn.functional import gelu, scaled_dot_product_attention

WIDEST = 16
"""Pixels along the longer side of a map; on wider ones the library's own convolution is as fast."""

MOST_CHANNELS = 512
"""What is made of weights takes memory, kernels four times their own, so wide layers, most of a large network, keep theirs."""

FEWEST_CHANNELS = 16
"""Products of fewer channels are too small to be worth their transforms."""

TILES = 64
"""About so many tiles are multiplied at once: fewer are slower, and more leave the cache."""

FEWEST_TILES = 16
"""Tiles are filled up to a multiple of so many, since each number of them wants the kernels in an order of its own."""

KEPT = 3
"""For so many numbers of tiles a layer's kernels are kept: of a batch's parts, and of what is left over."""

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
PLAIN = ((1, 1), (1, 1), 1, "zeros")
ONE = 1 * 6 + 1
"""The element of a transformed tile whose column of Aᵀ ⊗ Aᵀ is all ones: what is added there is added to every pixel."""


def cpu_forwards(unet: nn.Module) -> dict[nn.Module, Callable]:
    """For each layer of `unet` that has a faster way here, that way; none where it is not in float32 on a CPU with oneDNN.

    They fall back to the layer's own way where a map does not fit or a gradient is asked for, and keep what they make of its
    weights: ask again when those have changed.
    """
    if unet.device.type != "cpu" or unet.dtype != torch.float32 or replaced(unet):
        return {}
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return {}
    found: dict[nn.Module, Callable] = {}
    for layer in unet.modules():
        # What a layer's parts are given is not asked of them one by one.
        if any(map(replaced, layer.modules())):
            continue
        if isinstance(layer, nn.Conv2d) and suits(layer):
            found[layer] = Winograd(layer.forward, layer.weight, layer.bias)
        elif isinstance(layer, nn.Conv2d) and is_pointwise(layer):
            found[layer] = functools.partial(each_pixel, layer.forward, layer)
        elif type(layer) is nn.Linear:
            found[layer] = functools.partial(each_token, layer.forward, layer)
        elif isinstance(layer, FeedForward) and is_gated(layer):
            found[layer] = functools.partial(feed_in_parts, layer.forward, layer)
        elif isinstance(layer, Attention) and is_plain(layer):
            found[layer] = Attend(layer.forward, layer)
    return found


def replaced(layer: nn.Module) -> bool:
    """Whether its forward is somebody else's, such as a hook's that brings the weights from elsewhere, or an autocast's."""
    return "forward" in vars(layer)


@contextmanager
def using(forwards: dict[nn.Module, Callable]) -> Iterator[None]:
    """Each layer by its function of `forwards`; by its own again afterwards. For one thread at a time, and those it waits for."""
    for layer, forward in forwards.items():
        layer.forward = forward
    try:
        yield
    finally:
        for layer in forwards:
            vars(layer).pop("forward", None)


def multiply(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x [..., d] · weightᵀ [d, e] + bias → [..., e] by oneDNN, without a gradient."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def wants_usual(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether only a layer's own way will do: for a gradient, or under an autocast."""
    return torch.is_grad_enabled() or x.dtype != weight.dtype


def each_token(usual: Callable, layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """A linear layer on tokens [..., d]."""
    if wants_usual(x, layer.weight):
        return usual(x)
    return multiply(x, layer.weight, layer.bias)


def each_pixel(usual: Callable, layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """A 1×1 convolution of x [B, C, H, W]."""
    if wants_usual(x, layer.weight):
        return usual(x)
    return channels_second(multiply(channels_last(x), layer.weight.flatten(1), layer.bias))


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """A map [B, C, H, W] as [B, H, W, C], so laid out in memory."""
    return x.permute(0, 2, 3, 1).contiguous()


def channels_second(x: torch.Tensor) -> torch.Tensor:
    """A map [B, H, W, C] as [B, C, H, W], where it lies."""
    return x.permute(0, 3, 1, 2)


def suits(layer: nn.Conv2d) -> bool:
    """A plain 3×3 convolution that keeps the map's size and is not too wide."""
    return kind(layer) == (*PLAIN, (3, 3), (1, 1)) and max(layer.in_channels, layer.out_channels) <= MOST_CHANNELS


def is_pointwise(layer: nn.Conv2d) -> bool:
    """A convolution of each pixel by itself."""
    return kind(layer) == (*PLAIN, (1, 1), (0, 0))


def kind(layer: nn.Conv2d) -> tuple:
    return (layer.stride, layer.dilation, layer.groups, layer.padding_mode, layer.kernel_size, layer.padding)


@torch.no_grad()
def transform(weight: torch.Tensor) -> torch.Tensor:
    """Kernels g [O, C, 3, 3] → G g Gᵀ [36, O, C]."""
    return torch.einsum("ki,lj,ocij->kloc", G, G, weight.double()).flatten(0, 1).to(weight.dtype).contiguous()


@functools.cache
def tiles(height: int, width: int) -> list[tuple[slice, torch.Tensor, torch.Tensor]]:
    """For each row of tiles of a map of such a size: the pixels [P] that it sees, Bᵀ · B for its T tiles [36·T, P], and Aᵀ · A for
    its pixels [4 · width, 36·T].

    What lies outside of the map is zero, so its columns are left out.
    """
    count = width // 4
    seen = torch.zeros(6, 6, count, 6, width + 2)
    made = torch.zeros(4, count, 4, count, 6, 6)
    for tile in range(count):
        seen[:, :, tile, :, 4 * tile : 4 * tile + 6] = torch.einsum("ka,lb->klab", B_T, B_T)
        made[:, tile, :, tile] = torch.einsum("ak,bl->abkl", A_T, A_T)
    pixels = made.reshape(4 * width, 36 * count)
    rows = []
    for top in range(-1, height - 1, 4):
        first, last = max(0, top), min(height, top + 6)
        into = seen[:, :, :, first - top : last - top, 1:-1].permute(2, 0, 1, 3, 4).reshape(36 * count, -1)
        rows.append((slice(first * width, last * width), into.contiguous(), pixels))
    return rows


@dataclass
class Winograd:
    """A layer's convolution, all by products of matrices; `usual` does what this cannot."""

    usual: Callable
    weight: torch.Tensor
    bias: torch.Tensor | None
    kernels: dict[int, torch.Tensor] = field(default_factory=dict)
    """As oneDNN wants them for so many tiles; made when the first map fits: in large models none may."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, C, H, W] * g → [B, O, H, W]; a row's bits do not depend on the others."""
        if wants_usual(x, self.weight):
            return self.usual(x)
        batch, channels, height, width = x.shape
        x = channels_last(x)
        if height % 4 or width % 4 or max(height, width) > WIDEST or channels < FEWEST_CHANNELS:
            return self.usual(channels_second(x))
        found = x.new_empty(batch, height * width, len(self.weight))
        together = -(-16 * TILES // (height * width))
        for rows, out in zip(x.flatten(1, 2).split(together), found.split(together), strict=True):
            self.convolve(rows, tiles(height, width), out)
        return channels_second(found.unflatten(1, (height, width)))

    def convolve(self, x: torch.Tensor, rows: list, found: torch.Tensor) -> None:
        """Pixels x [B, H · W, C] → found [B, H · W, O], of a map whose rows of tiles are given."""
        channels, of_a_row = x.shape[-1], rows[0][1].shape[0]
        count = len(rows) * len(x) * of_a_row // 36
        seen = x.new_empty(-(-count // FEWEST_TILES) * FEWEST_TILES, 36 * channels)
        seen[count:] = 0
        into_rows = seen[:count].view(len(rows), len(x), of_a_row, channels)
        for (pixels, into, _), row in zip(rows, into_rows):
            torch.bmm(into.expand(len(x), -1, -1), x[:, pixels], out=row)
        made = self.products(seen)[:count].view(len(rows), len(x), of_a_row, -1)
        for (_, _, back), row, out in zip(rows, made, found.chunk(len(rows), dim=1)):
            torch.bmm(back.expand(len(x), -1, -1), row, out=out)

    def products(self, seen: torch.Tensor) -> torch.Tensor:
        """Transformed tiles [N, 36 · C] by the kernels [N, 36 · O]: to oneDNN a convolution of single pixels in 36 groups."""
        count, plain = len(seen), ([0, 0], [1, 1], [1, 1], 36)
        weight = self.kernels.get(count)
        if weight is None:
            for oldest in list(self.kernels)[: 1 - KEPT]:
                self.kernels.pop(oldest, None)
            kernels = transform(self.weight).flatten(0, 1)[:, :, None, None]
            shape = [1, seen.shape[1], count, 1]
            weight = self.kernels[count] = torch.ops.mkldnn._reorder_convolution_weight(kernels, *plain, shape)
        pixels = channels_second(seen[None, :, None])
        made = torch.ops.mkldnn._convolution_pointwise(pixels, weight, self.shift, *plain, "none", [], "")
        return channels_last(made)[0, :, 0]

    @functools.cached_property
    def shift(self) -> torch.Tensor | None:
        """The bias [36 · O] of transformed tiles."""
        if self.bias is None:
            return None
        found = self.bias.new_zeros(36, len(self.bias))
        found[ONE] = self.bias.detach()
        return found.flatten()


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
    """An attention layer, its projections of the same tokens as one product; `usual` does what this cannot.

    A text that it has been given is not to be changed in place.
    """

    usual: Callable
    layer: Attention
    kept: dict[tuple, tuple[torch.Tensor, ...]] = field(default_factory=dict)
    """The texts that were last seen, with their keys and values. While a text is held nothing else can lie where it does."""

    def __call__(
        self, x: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None, attention_mask=None, **rest
    ) -> torch.Tensor:
        """x [B, T, d], and a text [B, R, e] or none → [B, T, d]."""
        text = encoder_hidden_states
        layer = self.layer
        if wants_usual(x, layer.to_q.weight) or attention_mask is not None or rest or x.ndim != 3:
            return self.usual(x, text, attention_mask, **rest)
        if text is not None:
            query, (key, value) = self.heads(layer.to_q(x)), self.of_text(text)
        elif max(layer.to_q.weight.shape) <= MOST_CHANNELS:
            query, key, value = map(self.heads, multiply(x, self.together).chunk(3, dim=-1))
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
    parts = []
    for part in x.split(rows):
        value, gate = first.proj(part).chunk(2, dim=-1)
        parts.append(last(gelu(gate).mul_(value)))
    return torch.cat(parts)
