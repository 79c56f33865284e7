"""What a CPU draws with is what the network's own layers compute, but for rounding."""

from __future__ import annotations

import os

import pytest
import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.nn.functional import conv2d

from erase_core import cpu_kernels
from erase_core.cpu_kernels import (
    FEWEST_CHANNELS,
    HIDDEN,
    KEPT,
    TEXT,
    WIDEST,
    Attend,
    Winograd,
    cpu_forwards,
    multiply,
    tiles,
    using,
)
from erase_core.generation import sampler
from erase_core.models.conditions import latent_shape
from erase_core.spec import Generation


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("height, width", [(4, 4), (8, 8), (4, 16), (12, 8), (16, 16)])
@torch.inference_mode()
def test_a_convolution_is_the_one_in_double_precision(height: int, width: int, bias: bool) -> None:
    """However the map lies in memory; and a row is the same to the bit with other rows beside it, or by itself."""
    drawn = torch.Generator().manual_seed(height + width)
    x, weight = torch.randn(35, 24, height, width, generator=drawn), torch.randn(40, 24, 3, 3, generator=drawn)
    added = torch.randn(40, generator=drawn) if bias else None
    exact = conv2d(x.double(), weight.double(), None if added is None else added.double(), padding=1)
    fast = Winograd(pytest.fail, weight, added)
    whole = fast(x)
    assert (whole - exact).abs().max() < 1e-4 * exact.abs().max()
    assert whole.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(fast(x.to(memory_format=torch.channels_last)), whole)
    for start, count in ((0, 1), (3, 2), (5, 7), (12, 16)):
        rows = slice(start, start + count)
        assert torch.equal(fast(x[rows]), whole[rows])
    assert 1 < len(fast.kernels) <= KEPT


def test_each_transform_of_a_map_counts_its_pixels_once(monkeypatch) -> None:
    """A kernel of one in the middle gives the map back, whatever the number of its tiles."""
    monkeypatch.setattr(cpu_kernels, "FEWEST_CHANNELS", 1)
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[..., 1, 1] = 1
    x = torch.arange(8.0 * 12).reshape(1, 1, 8, 12)
    with torch.inference_mode():
        torch.testing.assert_close(Winograd(pytest.fail, kernel, None)(x), x, rtol=1e-5, atol=1e-4)
    rows = tiles(8, 12)
    assert [(seen, into.shape, back.shape) for seen, into, back in rows] == [
        (slice(0, 60), (108, 60), (48, 108)),
        (slice(36, 96), (108, 60), (48, 108)),
    ]


@pytest.mark.parametrize(
    "channels, height, width", [(24, 6, 8), (24, 8, 6), (24, 2, 2), (24, 8, WIDEST + 4), (FEWEST_CHANNELS - 1, 8, 8)]
)
@torch.inference_mode()
def test_maps_that_do_not_fit_take_the_layers_own_way(channels: int, height: int, width: int) -> None:
    layer = nn.Conv2d(channels, 8, 3, padding=1)
    x = torch.randn(3, channels, height, width)
    fast = Winograd(layer.forward, layer.weight, layer.bias)
    torch.testing.assert_close(fast(x), layer(x))
    assert not fast.kernels


def test_gradients_take_the_layers_own_way() -> None:
    layer = nn.Conv2d(8, 8, 3, padding=1)
    Winograd(layer.forward, layer.weight, layer.bias)(torch.randn(2, 8, 8, 8)).sum().backward()
    assert layer.weight.grad is not None


class Layers(nn.Module):
    """Some layers, of which all but the others have a faster way."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(24, 8, 3, padding=1)
        self.pixels = nn.Conv2d(24, 8, 1)
        self.others = nn.ModuleList(
            [
                nn.Conv2d(8, 8, 3, padding=1, stride=2),
                nn.Conv2d(8, 8, 1, stride=2),
                nn.Conv2d(8, 8, 3),
                nn.Conv2d(8, 8, 3, padding=1, groups=2),
                nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"),
                nn.Conv2d(8, 520, 3, padding=1),
            ]
        )
        self.tokens = FeedForward(8)

    def faster(self) -> set[nn.Module]:
        return {self.plain, self.pixels, self.tokens, self.tokens.net[0].proj, self.tokens.net[2]}


def test_only_layers_that_suit_are_replaced_and_for_as_long_as_asked() -> None:
    layers = Layers()
    forwards = cpu_forwards(layers)
    assert set(forwards) == layers.faster()
    x = torch.randn(2, 24, 8, 8)
    with torch.inference_mode():
        own = layers.plain(x)
        with pytest.raises(ZeroDivisionError), using(forwards):
            layers.plain(x)
            layers.plain.weight.data.zero_()
            torch.testing.assert_close(layers.plain(x), own, rtol=1e-4, atol=1e-5)
            raise ZeroDivisionError
    assert not any("forward" in vars(layer) for layer in layers.modules())
    layers.plain.forward = layers.plain.forward  # As hooks do.
    assert set(cpu_forwards(layers)) == layers.faster() - {layers.plain}
    layers.tokens.net[2].forward = layers.tokens.net[2].forward
    assert set(cpu_forwards(layers)) == {layers.pixels, layers.tokens.net[0].proj}
    layers.dtype = torch.bfloat16
    assert cpu_forwards(layers) == {}


@pytest.mark.parametrize("name, shape", [("pixels", (3, 24, 5, 7)), ("tokens", (3, 5, 8))])
def test_a_product_with_weights_is_the_layer_s_own(name: str, shape: tuple[int, ...], monkeypatch) -> None:
    layers = Layers()
    layer, x = getattr(layers, name), torch.randn(shape)
    made: list[int] = []
    monkeypatch.setattr(cpu_kernels, "multiply", lambda *given: made.append(1) or torch.nn.functional.linear(*given))
    with torch.no_grad():
        own = layer(x)
    with using(cpu_forwards(layers)):
        for _ in range(2):
            with torch.inference_mode():
                torch.testing.assert_close(layer(x), own)
            assert made
            monkeypatch.undo()
        layer(x).sum().backward()
    assert all(part.grad is not None for part in layer.parameters())


def test_without_onednn_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert cpu_forwards(Layers()) == {}
    monkeypatch.undo()
    with torch.backends.mkldnn.flags(enabled=False):
        assert cpu_forwards(Layers()) == {}


@torch.inference_mode()
def test_products_of_tokens_that_do_not_lie_together() -> None:
    """As those of a text behind its pooled embedding."""
    x, weight, bias = torch.randn(3, 9, 16), torch.randn(24, 16), torch.randn(24)
    for part in (x[:, 2:], x[::2], x[..., :8], x.transpose(0, 1)):
        own = torch.nn.functional.linear(part, weight[:, : part.shape[-1]], bias)
        torch.testing.assert_close(multiply(part, weight[:, : part.shape[-1]], bias), own)


@torch.inference_mode()
def test_an_autocast_is_the_layers_own_affair(world) -> None:
    z, t, text = torch.randn(2, *latent_shape(world.unet)), torch.tensor(500), torch.randn(2, 32, 128)
    with torch.autocast("cpu", torch.bfloat16):
        own = world.unet(z, t, text).sample
        with using(cpu_forwards(world.unet)):
            assert (world.unet(z, t, text).sample - own).abs().max() < 0.1 * own.abs().max()


@torch.inference_mode()
def test_feed_forward_layers_in_parts_are_the_whole() -> None:
    layers = Layers()
    seen: list[int] = []
    layers.tokens.register_forward_hook(lambda *_: seen.append(1))
    layers.tokens.net[0].proj.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    x = torch.randn(5, HIDDEN // 64 // 2, 8)  # 64 numbers of each token: two rows at once.
    own = layers.tokens(x)
    seen.clear()
    with using(cpu_forwards(layers)):
        torch.testing.assert_close(layers.tokens(x), own)
    assert [count for count in seen if count != 1] == [2, 2] and len(seen) == 4


def test_only_gated_feed_forward_layers_are_replaced() -> None:
    layers = Layers()
    layers.tokens = FeedForward(8, activation_fn="geglu-approximate")
    layers.attends = nn.ModuleList(
        [
            Attention(8, heads=2, dim_head=4, bias=True),
            Attention(8, heads=2, dim_head=4, qk_norm="layer_norm"),
            Attention(8, heads=2, kv_heads=1, dim_head=4),
        ]
    )
    linear = {layer for layer in layers.modules() if type(layer) is nn.Linear}
    assert set(cpu_forwards(layers)) == {layers.plain, layers.pixels} | linear


@pytest.mark.parametrize("width", [None, 6])
@torch.inference_mode()
def test_attention_is_the_layer_s_own(width: int | None, monkeypatch) -> None:
    """To the tokens themselves, and to a text, whose keys and values are made once for as long as it is the same."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    layer = Attention(8, cross_attention_dim=width, heads=2, dim_head=4)
    made: list[int] = []
    layer.to_k.register_forward_hook(lambda *_: made.append(1))
    text, other = (None, None) if width is None else torch.randn(2, 3, 5, 6)
    fast = Attend(layer.forward, layer)
    for given, new in ((text, True), (text, False), (other, True), (text, False)):
        x = torch.randn(3, 7, 8)
        own = layer(x, given)
        made.clear()
        torch.testing.assert_close(fast(x, given), own)
        assert len(made) == (new and given is not None)


@torch.inference_mode()
def test_wide_layers_keep_their_projections(monkeypatch) -> None:
    layer, x = Attention(16, heads=2, dim_head=8), torch.randn(1, 7, 16)
    for most, joined in ((16, True), (15, False)):
        monkeypatch.setattr(cpu_kernels, "MOST_CHANNELS", most)
        fast = Attend(layer.forward, layer)
        torch.testing.assert_close(fast(x), layer(x))
        assert ("together" in vars(fast)) == joined


@torch.inference_mode()
def test_texts_are_kept_as_many_as_there_are_threads_and_no_large_one(monkeypatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    fast = Attend(pytest.fail, Attention(8, cross_attention_dim=6, heads=2, dim_head=4))
    x, texts = torch.randn(1, 7, 8), [torch.randn(1, 5, 6) for _ in range(4)]
    for text in texts:
        fast(x, text)
    assert [kept[0] is text for kept, text in zip(fast.kept.values(), texts[2:], strict=True)] == [True, True]
    fast(x, torch.randn(1, TEXT // 8 // 2 + 1, 6))
    assert len(fast.kept) == 2


def test_attention_with_a_gradient_or_a_mask_takes_the_layer_s_own_way() -> None:
    layer = Attention(8, heads=2, dim_head=4)
    x, mask = torch.randn(1, 7, 8), torch.zeros(1, 7, 7)
    asked: list[tuple] = []
    fast = Attend(lambda *given, **_: asked.append(given) or layer.forward(*given), layer)
    fast(x).sum().backward()
    assert layer.to_q.weight.grad is not None
    with torch.inference_mode():
        fast(x, None, mask)
    assert len(asked) == 2 and asked[1][2] is mask


def test_images_are_drawn_with_them(world, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 3×3 convolution of the embedded model that keeps the map's size, and the images of its own layers."""
    settings = Generation(steps=4)
    given = (world, ["a taxi", "a bus"] * 4, list(range(8)), settings)
    calls: list[int] = []
    drawn = Winograd.__call__
    monkeypatch.setattr(Winograd, "__call__", lambda *args: calls.append(1) or drawn(*args))
    ready = sampler.Ready(world)
    fast = next(iter(sampler.sample(*given, ready=ready)))
    plain = [
        layer
        for layer in world.unet.modules()
        if isinstance(layer, nn.Conv2d) and (layer.kernel_size, layer.stride) == ((3, 3), (1, 1))
    ]
    parts = min(torch.get_num_threads(), 4)  # Parts have four rows at least, two for each image.
    assert len(calls) == settings.steps * parts * len(plain)
    made = {layer for layer, forward in ready.forwards.items() if isinstance(forward, Winograd) and forward.kernels}
    # The first reads the latents' few channels, and the last makes them.
    assert made == set(plain) - {world.unet.conv_in}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert abs(next(iter(sampler.sample(*given))).astype(int) - fast).max() <= 1, "by one thread"
    monkeypatch.setattr(sampler, "cpu_forwards", lambda unet: {})
    own = next(iter(sampler.sample(*given)))
    assert abs(fast.astype(int) - own).mean() < 0.01
