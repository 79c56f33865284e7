"""What a CPU draws with is what the network's own layers compute, but for rounding."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention import FeedForward
from torch import nn
from torch.nn.functional import conv2d

from erase_core.generation import sampler
from erase_core.generation.cpu_kernels import HIDDEN, WIDEST, Winograd, cpu_forwards, tiles, using
from erase_core.spec import Generation


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("height, width", [(4, 4), (8, 8), (4, 16), (12, 8), (16, 16)])
@torch.inference_mode()
def test_a_convolution_is_the_one_in_double_precision(height: int, width: int, bias: bool) -> None:
    drawn = torch.Generator().manual_seed(height + width)
    x, weight = torch.randn(3, 24, height, width, generator=drawn), torch.randn(40, 24, 3, 3, generator=drawn)
    added = torch.randn(40, generator=drawn) if bias else None
    exact = conv2d(x.double(), weight.double(), None if added is None else added.double(), padding=1)
    found = Winograd(pytest.fail, weight, added)(x)
    assert (found - exact).abs().max() < 1e-4 * exact.abs().max()


def test_each_transform_of_a_map_counts_its_pixels_once() -> None:
    """A kernel of one in the middle gives the map back, whatever the number of its tiles."""
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[..., 1, 1] = 1
    x = torch.arange(8.0 * 12).reshape(1, 1, 8, 12)
    with torch.inference_mode():
        torch.testing.assert_close(Winograd(pytest.fail, kernel, None)(x), x, rtol=1e-5, atol=1e-4)
    lines, rows, pixels = tiles(8, 12)
    assert lines.shape == (18, 12) and len(rows) == 2 and pixels.shape == (108, 48)


@pytest.mark.parametrize("height, width", [(6, 8), (8, 6), (8, WIDEST + 4)])
@torch.inference_mode()
def test_maps_that_do_not_fit_take_the_layers_own_way(height: int, width: int) -> None:
    layer = nn.Conv2d(8, 8, 3, padding=1)
    x = torch.randn(2, 8, height, width)
    fast = Winograd(layer.forward, layer.weight, layer.bias)
    assert torch.equal(fast(x), layer(x)) and "kernels" not in vars(fast)


def test_gradients_take_the_layers_own_way() -> None:
    layer = nn.Conv2d(8, 8, 3, padding=1)
    Winograd(layer.forward, layer.weight, layer.bias)(torch.randn(2, 8, 8, 8)).sum().backward()
    assert layer.weight.grad is not None


class Layers(nn.Module):
    """Some layers, of which the first and the last have a faster way."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(8, 8, 3, padding=1)
        self.others = nn.ModuleList(
            [
                nn.Conv2d(8, 8, 3, padding=1, stride=2),
                nn.Conv2d(8, 8, 1),
                nn.Conv2d(8, 8, 3),
                nn.Conv2d(8, 8, 3, padding=1, groups=2),
                nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"),
                nn.Conv2d(8, 520, 3, padding=1),
            ]
        )
        self.tokens = FeedForward(8)


def test_only_layers_that_suit_are_replaced_and_for_as_long_as_asked() -> None:
    layers = Layers()
    forwards = cpu_forwards(layers)
    assert set(forwards) == {layers.plain, layers.tokens}
    x = torch.randn(2, 8, 8, 8)
    with torch.inference_mode():
        own = layers.plain(x)
        with pytest.raises(ZeroDivisionError), using(forwards):
            layers.plain(x)
            layers.plain.weight.data.zero_()
            torch.testing.assert_close(layers.plain(x), own, rtol=1e-4, atol=1e-5)
            raise ZeroDivisionError
    assert not any("forward" in vars(layer) for layer in layers.modules())
    layers.plain.forward = layers.plain.forward  # As hooks do.
    assert set(cpu_forwards(layers)) == {layers.tokens}
    layers.dtype = torch.bfloat16
    assert cpu_forwards(layers) == {}


@torch.inference_mode()
def test_feed_forward_layers_in_parts_are_the_whole() -> None:
    layers = Layers()
    seen: list[int] = []
    layers.tokens.register_forward_hook(lambda *_: seen.append(1))
    layers.tokens.net[0].register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    x = torch.randn(5, HIDDEN // 64 // 2, 8)  # 64 numbers of each token: two rows at once.
    own = layers.tokens(x)
    seen.clear()
    with using(cpu_forwards(layers)):
        torch.testing.assert_close(layers.tokens(x), own)
    assert [count for count in seen if count != 1] == [2, 2] and len(seen) == 4


def test_images_are_drawn_with_them(world, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 3×3 convolution of the embedded model that keeps the map's size, and the images of its own layers."""
    settings = Generation(steps=4)
    given = (world, ["a taxi", "a bus"] * 4, list(range(8)), settings)
    calls: list[int] = []
    drawn = Winograd.__call__
    monkeypatch.setattr(Winograd, "__call__", lambda *args: calls.append(1) or drawn(*args))
    fast = next(iter(sampler.sample(*given)))
    plain = [
        layer
        for layer in world.unet.modules()
        if isinstance(layer, nn.Conv2d) and (layer.kernel_size, layer.stride) == ((3, 3), (1, 1))
    ]
    parts = min(torch.get_num_threads(), 4)  # Parts have four rows at least, and the guidance has two for each image.
    assert len(calls) == settings.steps * parts * len(plain)
    monkeypatch.setattr(sampler, "cpu_forwards", lambda unet: {})
    own = next(iter(sampler.sample(*given)))
    assert abs(fast.astype(int) - own).mean() < 0.01
