"""Every method's losses against an independent float64 computation of their equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from erase_core import methods
from erase_core.training.predictions import distance_at, loss_weights

BATCH, SHAPE = 3, (4, 5, 6)
BARS = np.linspace(0.99, 0.01, 10)
TIMES = {
    "erased": np.array([0, 4, 9]),
    "preserved": np.array([3, 3, 7]),
    "subject": np.array([1, 5, 8]),
    "noised": np.array([2, 2, 6]),
}
NEGATIVE = ["adversarial", "adversarial-pgd", "naive", "neutral", "fixed", "random", "nearest", "weight-decay"]
PRESERVING = ["adversarial", "adversarial-pgd", "neutral", "fixed", "random", "nearest", "age"]


@pytest.fixture
def predictions() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Random predictions of θ' and of θ under every name that a method may ask for."""
    rng = np.random.default_rng(0)
    names = [
        *("erased", "neutral@erased", "preserved", "preserved@erased", "prompted@erased"),
        *("subject", "erased@subject", "neutral@subject", "erased@preserved"),
    ]
    return tuple({name: rng.standard_normal((BATCH, *SHAPE)) for name in names} for _ in range(2))


def by_hand(a: np.ndarray, b: np.ndarray, weighting: str, latents: str) -> float:
    """The mean squared difference, element by element, of noise predictions or of the clean latents they imply."""
    total = 0.0
    for i, t in enumerate(TIMES[latents]):
        if weighting == "clean":
            clean_a, clean_b = (-np.sqrt(1 - BARS[t]) * value[i] / np.sqrt(BARS[t]) for value in (a, b))
            total += ((clean_a - clean_b) ** 2).sum()
        else:
            total += ((a[i] - b[i]) ** 2).sum()
    return total / a.size


def settings_of(name: str, **values):
    required = {"words": ["bus"]} if name == "fixed" else {}
    return methods.load(name).Settings(**required, **values)


def loss(name: str, which: str, predictions, settings) -> float:
    edited, frozen = ({k: torch.from_numpy(v) for k, v in part.items()} for part in predictions)
    times = {name: torch.from_numpy(t) for name, t in TIMES.items()}
    distance = distance_at(loss_weights(settings.weighting, torch.from_numpy(BARS)), times)
    module = methods.load(name)
    only = lambda part, names: {k: v for k, v in part.items() if k in names}  # noqa: E731
    named = ((*module.EDITED, *getattr(module, "TEACHER", ())), module.FROZEN)
    names = module.SEARCHED if which == "search_loss" else named
    return float(getattr(module, which)(only(edited, names[0]), only(frozen, names[1]), settings, distance))


@pytest.mark.parametrize("weighting", ["epsilon", "clean"])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("name", NEGATIVE)
def test_negative_guidance(name: str, guidance: float, weighting: str, predictions) -> None:
    edited, frozen = predictions
    settings = settings_of(name, negative_guidance=guidance, weighting=weighting)
    target = frozen["neutral@erased"] - guidance * (frozen["erased"] - frozen["neutral@erased"])
    expected = by_hand(edited["erased"], target, weighting, "erased")
    assert loss(name, "erasing_loss", predictions, settings) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weighting", ["epsilon", "clean"])
@pytest.mark.parametrize("name", PRESERVING)
def test_preservation(name: str, weighting: str, predictions) -> None:
    edited, frozen = predictions
    expected = by_hand(edited["preserved"], frozen["preserved"], weighting, "preserved")
    found = loss(name, "preservation_loss", predictions, settings_of(name, weighting=weighting))
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["adversarial", "adversarial-pgd"])
def test_the_search_ascends_the_preservation_loss(name: str, predictions) -> None:
    edited, frozen = predictions
    expected = by_hand(edited["preserved"], frozen["preserved"], "epsilon", "preserved")
    assert loss(name, "search_loss", predictions, settings_of(name, weighting="epsilon")) == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize("weighting", ["epsilon", "clean"])
def test_age(weighting: str, predictions) -> None:
    edited, frozen = predictions
    settings = settings_of("age", weighting=weighting, preservation_weight=0.7)
    erasing = by_hand(edited["erased"], frozen["preserved@erased"], weighting, "erased")
    kept = by_hand(edited["preserved"], frozen["preserved"], weighting, "preserved")
    assert loss("age", "erasing_loss", predictions, settings) == pytest.approx(erasing, rel=1e-12)
    assert loss("age", "search_loss", predictions, settings) == pytest.approx(erasing + 0.7 * kept, rel=1e-12)


@pytest.mark.parametrize("erase_from", [None, "vehicle"])
def test_esd(erase_from: str | None, predictions) -> None:
    edited, frozen = predictions
    settings = settings_of("esd", erase_from=erase_from, weighting="epsilon", negative_guidance=1.5)
    base = frozen["subject"] if erase_from else frozen["neutral@subject"]
    target = base - 1.5 * (frozen["erased@subject"] - frozen["neutral@subject"])
    expected = by_hand(edited["subject"], target, "epsilon", "subject")
    assert loss("esd", "erasing_loss", predictions, settings) == pytest.approx(expected, rel=1e-12)


def test_kpop(predictions) -> None:
    edited, frozen = predictions
    settings = settings_of("kpop", weighting="epsilon", negative_guidance=0.5)
    target = frozen["neutral@erased"] - 0.5 * (frozen["erased"] - frozen["neutral@erased"])
    erasing = sum(by_hand(edited[n], target, "epsilon", "erased") for n in ("erased", "prompted@erased")) / 2
    kept = by_hand(edited["neutral@erased"], frozen["neutral@erased"], "epsilon", "erased")
    recall = by_hand(edited["prompted@erased"], frozen["erased"], "epsilon", "erased")
    assert loss("kpop", "erasing_loss", predictions, settings) == pytest.approx(erasing, rel=1e-12)
    assert loss("kpop", "preservation_loss", predictions, settings) == pytest.approx(kept, rel=1e-12)
    assert loss("kpop", "search_loss", predictions, settings) == pytest.approx(-recall, rel=1e-12)


def test_concept_ablation(predictions) -> None:
    edited, _ = predictions
    settings = settings_of("concept-ablation", weighting="epsilon")
    expected = by_hand(edited["erased@preserved"], edited["preserved"], "epsilon", "preserved")
    assert loss("concept-ablation", "erasing_loss", predictions, settings) == pytest.approx(expected, rel=1e-12)


def test_weight_decay() -> None:
    rng = np.random.default_rng(1)
    after, before = ([rng.standard_normal(shape) for shape in ((3, 4), (5,))] for _ in range(2))
    expected = sum(float(((a - b) ** 2).sum()) for a, b in zip(after, before))
    values = ({"weights": [torch.from_numpy(w) for w in part]} for part in (after, before))
    found = methods.load("weight-decay").preservation_loss(*values, settings_of("weight-decay"), None)
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_forget_me_not() -> None:
    rng = np.random.default_rng(2)
    layers = [rng.random(12), rng.random(20)]
    expected = np.mean([np.mean(layer**2) for layer in layers])
    values = {"attention@noised": [torch.from_numpy(layer) for layer in layers]}
    found = methods.load("forget-me-not").erasing_loss(values, {}, settings_of("forget-me-not"), None)
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_every_method_is_tested_here_or_as_a_closed_form() -> None:
    here = {*NEGATIVE, *PRESERVING, "esd", "kpop", "concept-ablation", "forget-me-not"}
    assert set(methods.MODULES) - here == {"time", "uce"}


def test_naive_preserves_nothing() -> None:
    assert methods.load("naive").CHOICE is None
    assert not hasattr(methods.load("naive"), "preservation_loss")
