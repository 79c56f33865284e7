"""Every method's losses against an independent float64 computation of their equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from erase_core import methods
from erase_core.training.predictions import Predictions, distance_at

BATCH, SHAPE = 3, (4, 5, 6)
PRESERVING = ["adversarial", "neutral", "fixed", "random", "nearest"]


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    names = ("edited_erased", "edited_preserved", "frozen_erased", "frozen_neutral", "frozen_preserved")
    arrays = {name: rng.standard_normal((BATCH, *SHAPE)) for name in names}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    edited = Predictions(erased=tensors["edited_erased"], preserved=tensors["edited_preserved"])
    frozen = Predictions(
        erased=tensors["frozen_erased"], neutral=tensors["frozen_neutral"], preserved=tensors["frozen_preserved"]
    )
    bars = np.linspace(0.99, 0.01, 10)
    times = {"erased": np.array([0, 4, 9]), "preserved": np.array([3, 3, 7])}
    return arrays, edited, frozen, bars, times


def by_hand(a: np.ndarray, b: np.ndarray, weighting: str, bars: np.ndarray, times: np.ndarray) -> float:
    """The mean squared difference, element by element, of noise predictions or of the clean latents they imply."""
    total = 0.0
    for i, t in enumerate(times):
        z = np.zeros(SHAPE)
        if weighting == "clean":
            clean_a = (z - np.sqrt(1 - bars[t]) * a[i]) / np.sqrt(bars[t])
            clean_b = (z - np.sqrt(1 - bars[t]) * b[i]) / np.sqrt(bars[t])
            total += ((clean_a - clean_b) ** 2).sum()
        else:
            total += ((a[i] - b[i]) ** 2).sum()
    return total / a.size


def settings_of(name: str, **values):
    required = {"words": ["bus"]} if name == "fixed" else {}
    return methods.load(name).Settings(**required, **values)


@pytest.mark.parametrize("weighting", ["epsilon", "clean"])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("name", methods.names())
def test_erasing_loss(name: str, guidance: float, weighting: str, case) -> None:
    arrays, edited, frozen, bars, times = case
    settings = settings_of(name, negative_guidance=guidance, weighting=weighting)
    distance = distance_at(weighting, torch.from_numpy(bars), {k: torch.from_numpy(v) for k, v in times.items()})
    target = arrays["frozen_neutral"] - guidance * (arrays["frozen_erased"] - arrays["frozen_neutral"])
    expected = by_hand(arrays["edited_erased"], target, weighting, bars, times["erased"])
    assert float(methods.load(name).erasing_loss(edited, frozen, settings, distance)) == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize("weighting", ["epsilon", "clean"])
@pytest.mark.parametrize("name", PRESERVING)
def test_preservation_loss(name: str, weighting: str, case) -> None:
    arrays, edited, frozen, bars, times = case
    settings = settings_of(name, weighting=weighting)
    distance = distance_at(weighting, torch.from_numpy(bars), {k: torch.from_numpy(v) for k, v in times.items()})
    expected = by_hand(arrays["edited_preserved"], arrays["frozen_preserved"], weighting, bars, times["preserved"])
    found = methods.load(name).preservation_loss(edited, frozen, settings, distance)
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_naive_preserves_nothing() -> None:
    assert methods.load("naive").PRESERVES is None
    assert not hasattr(methods.load("naive"), "preservation_loss")
