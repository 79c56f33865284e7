"""FID, KID and CMMD on numbers whose right answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torchmetrics.image.fid import _compute_fid

from erase_core.metrics.cmmd import cmmd
from erase_core.metrics.frechet_distance import frechet_distance
from erase_core.metrics.general_quality import general_quality, read_pictures
from erase_core.metrics.kernel_distance import kernel_distance

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.normal(size=(60, 8)), RNG.normal(0.3, 1.5, size=(50, 8))


def test_frechet_distance_in_one_dimension() -> None:
    """Of normal distributions on a line: (μ₁ − μ₂)² + (σ₁ − σ₂)²."""
    first, second = np.array([[1.0], [3.0]]), np.array([[4.0], [4.0], [10.0]])
    expected = (2 - 6) ** 2 + (np.sqrt(2) - np.sqrt(12)) ** 2
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_against_torchmetrics() -> None:
    moments = [
        torch.from_numpy(value) for part in (FIRST, SECOND) for value in (part.mean(0), np.cov(part, rowvar=False))
    ]
    assert frechet_distance(FIRST, SECOND) == pytest.approx(float(_compute_fid(*moments)), rel=1e-9)
    assert frechet_distance(FIRST, FIRST) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_of_fewer_images_than_features() -> None:
    few = RNG.normal(size=(5, 32))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-4)
    assert frechet_distance(few, few + 1) == pytest.approx(32, rel=1e-4)


def test_cmmd_by_hand() -> None:
    """Unit vectors along x and along y lie √2 apart: k = exp(−2 / 200); the scale undoes their lengths."""
    x, y = np.array([[2.0, 0.0]]), np.array([[0.0, 5.0]])
    assert cmmd(x, y) == pytest.approx(1000 * (2 - 2 * np.exp(-0.01)), rel=1e-12)
    assert cmmd(FIRST, FIRST) == pytest.approx(0, abs=1e-9)
    a, b = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (FIRST, SECOND))

    def mean(p: np.ndarray, q: np.ndarray) -> float:
        return float(np.mean([[np.exp(-((u - v) ** 2).sum() / 200) for v in q] for u in p]))

    assert cmmd(FIRST, SECOND) == pytest.approx(1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b)), rel=1e-6)


def test_kernel_distance_by_hand() -> None:
    """One subset holds all images: the unbiased estimate over distinct pairs."""
    k = lambda p, q: (p @ q / 8 + 1) ** 3  # noqa: E731 - the kernel, as it is written
    n, m = 12, 12
    first, second = FIRST[:n], SECOND[:m]
    within = [
        sum(k(p, q) for i, p in enumerate(s) for j, q in enumerate(s) if i != j) / (n * (n - 1))
        for s in (first, second)
    ]
    across = sum(k(p, q) for p in first for q in second) / (n * m)
    assert kernel_distance(first, second) == pytest.approx(sum(within) - 2 * across, rel=1e-6)


@pytest.mark.parametrize("n", [8, 50])
def test_kernel_distance_of_equal_sets_is_below_zero(n: int) -> None:
    """By the images that meet their own counterparts."""
    kernel = (FIRST[:n] @ FIRST[:n].T / 8 + 1) ** 3
    own, others = np.trace(kernel) / n, (kernel.sum() - np.trace(kernel)) / (n * (n - 1))
    assert kernel_distance(FIRST[:n], FIRST[:n]) == pytest.approx(-2 / n * (own - others), rel=1e-6) and own > others


class Means:
    """Features that can be worked out by eye: an image's mean colour."""

    def images(self, images: np.ndarray) -> np.ndarray:
        return images.astype(np.float64).mean((1, 2))


class Halves(Means):
    """Other features than the other metrics', as CMMD's are where these are Inception's."""

    def images(self, images: np.ndarray) -> np.ndarray:
        return super().images(images) / 510


VALUES = ((10, 20, 30), (15, 25, 35))


def test_quality_of_general_prompts_and_against_real_images(tmp_path: Path, images_file) -> None:
    wanted = [("x", "taxi", 0), ("p", "coco", 0), ("q", "coco", 1), ("r", "coco", 2)]
    files = [images_file(name, wanted, values) for name, values in (("a", (0, 10, 20, 30)), ("b", (255, 15, 25, 35)))]
    roles = {"taxi": "erased", "coco": "general"}
    rows = general_quality(*files, roles, {"fid": Means(), "cmmd": Halves()}, 0)
    assert rows["value"][1] == pytest.approx(cmmd(*(np.array([values] * 3).T / 510 for values in VALUES)), rel=1e-6)
    assert list(rows["metric"]) == ["fid", "cmmd"] and set(rows["role"]) == {"general"} and set(rows["n"]) == {3}
    assert rows["value"][0] == pytest.approx(3 * 5**2, abs=1e-4) and np.isnan(rows["low"][0])
    (tmp_path / "real").mkdir()
    for i, value in enumerate((10, 20, 30)):
        Image.new("RGB", (20 + 7 * i, 30), (value,) * 3).save(tmp_path / "real" / f"{i}.png")
    against = general_quality(*files, roles, {"fid": Means()}, 0, str(tmp_path / "real")).set_index("metric")["value"]
    assert against["fid"] == pytest.approx(75, abs=1e-4) and against["fid_original"] == pytest.approx(0, abs=1e-4)


def test_pictures_are_cut_to_their_middle(tmp_path: Path) -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    (batch,) = read_pictures(tmp_path, 10)
    assert batch.shape == (1, 10, 10, 3) and (batch == 200).all()


def test_pictures_stand_upright_and_on_white(tmp_path: Path) -> None:
    """As a camera says that it was turned; one whose words are unreadable is taken as it lies. Transparent parts are white."""
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, 10:] = 200
    turned, broken = Image.Exif(), b"Exif\0\0no more"
    turned[ExifTags.Base.Orientation] = 6
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "a.png", exif=turned)
    Image.fromarray(pixels).save(tmp_path / "b.png", exif=broken)
    clear = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
    clear.paste((90, 90, 90, 255), (0, 0, 10, 5))
    clear.save(tmp_path / "c.png")
    clear.convert("LA").save(tmp_path / "d.png")
    clear.quantize().save(tmp_path / "e.png")
    ((*sides, rgba, grey, palette),) = read_pictures(tmp_path, 10)
    for side in sides:
        assert (side[:, :5] == 0).all() and (side[:, 5:] == 200).all()
    for picture in (rgba, grey, palette):
        assert (picture[:5] == 90).all() and (picture[5:] == 255).all()
