"""TIME and UCE: their equations on a real layer, their optimality, and what they promise to leave alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from erase_core import methods
from erase_core.methods import closed_form
from erase_core.models.prompts import encode
from erase_core.models.trainable import trainable_names
from erase_core.spec import Method, Training, make_spec
from erase_core.training.candidates import conditions_of, erased_concepts
from erase_core.training.closed_form import solve_layers, token_rows
from erase_core.training.loop import train
from erase_core.training.step import Conditions, ErasedConcept

PRESERVED = ["bus", "truck", "apple"]


def concepts(pipeline, words=PRESERVED) -> list[ErasedConcept]:
    prompts = ["taxi", "a taxi"]
    return [
        ErasedConcept("taxi", prompts, encode(pipeline, prompts), words, encode(pipeline, words) if words else None)
    ]


@pytest.mark.parametrize("name", ["time", "uce"])
def test_holds_its_equation_on_the_real_model(name: str, world) -> None:
    """W' · (system) = right-hand side, both written out token by token in float64 numpy, for every layer."""
    settings = methods.load(name).Settings()
    found = concepts(world, PRESERVED if name == "uce" else [])
    conditions = Conditions(*encode(world, ["", ""]))
    source, wanted, kept = (
        encode(world, texts).flatten(0, 1).double().numpy() if texts else np.zeros((0, 0))
        for texts in (["taxi", "a taxi"], ["", ""], PRESERVED if name == "uce" else [])
    )
    rho, d, weigh = settings.regularisation, source.shape[1], getattr(settings, "preservation_weight", 0.0)
    names = trainable_names(world.unet, "xattn-strict")
    weights = dict(world.unet.named_parameters())
    layers = list(solve_layers(world.unet, names, found, conditions, methods.load(name), settings))
    assert [layer[0] for layer in layers] == names
    system = rho * np.eye(d) + sum(np.outer(c, c) for c in source) + weigh * sum(np.outer(c, c) for c in kept)
    for layer, solved, *_ in layers:
        weight = weights[layer].detach().double().numpy()
        right = rho * weight + sum(np.outer(weight @ b, c) for c, b in zip(source, wanted))
        right = right + weigh * sum(np.outer(weight @ c, c) for c in kept)
        left = solved.double().numpy() @ system
        assert np.abs(left - right).max() / np.abs(right).max() < 1e-4


def test_uce_keeps_what_its_words_are_projected_to(world) -> None:
    """On every layer better than where they are not given, and the better the more they count."""
    uce, names = methods.load("uce"), trainable_names(world.unet, "xattn-strict")
    kept, conditions = encode(world, PRESERVED).flatten(0, 1).double(), Conditions(*encode(world, ["", ""]))
    weights = dict(world.unet.named_parameters())

    def moved(words: list[str], weight: float) -> list[float]:
        settings = uce.Settings(preservation_weight=weight)
        layers = solve_layers(world.unet, names, concepts(world, words), conditions, uce, settings)
        return [float((kept @ (new.double() - weights[name].double()).T).norm()) for name, new, *_ in layers]

    without, light, heavy = moved([], 0.1), moved(PRESERVED, 0.1), moved(PRESERVED, 10.0)
    for none, some, most in zip(without, light, heavy, strict=True):
        assert most < 0.3 * some < 0.3 * none


def test_a_prompt_s_tokens_are_led_to_its_own_neutral_s(tiny_pipeline) -> None:
    prompts = [{"prompt": "a car in noto style", "neutral": "a car"}, "a rose in noto style"]
    given = {"name": "x", "concepts": [{"concept": "noto", "prompts": prompts}], "method": "time", "output": "o"}
    spec = make_spec(given)
    found = erased_concepts(spec, tiny_pipeline, None, {})
    _, wanted, _ = token_rows(found, conditions_of(spec, tiny_pipeline))
    assert torch.equal(wanted, encode(tiny_pipeline, ["", "a car", ""], empty_as_text=True).flatten(0, 1).double())


def test_uce_minimises_its_objective(tiny_pipeline) -> None:
    """No small step in any direction lowers the sum of squares that it is the solution of."""
    rng = torch.Generator().manual_seed(0)
    weight, source, wanted, kept = (torch.randn(*s, generator=rng).double() for s in ((5, 4), (6, 4), (6, 4), (3, 4)))
    settings = methods.load("uce").Settings(preservation_weight=2.0, regularisation=0.3)
    best = methods.load("uce").solve(weight, source, wanted, kept, settings)

    def objective(w: torch.Tensor) -> float:
        edit = (source @ w.T - wanted @ weight.T).square().sum()
        return float(edit + 2.0 * (kept @ (w - weight).T).square().sum() + 0.3 * (w - weight).square().sum())

    for _ in range(50):
        direction = torch.randn(5, 4, generator=rng).double()
        assert objective(best + 1e-3 * direction) > objective(best)


@pytest.mark.parametrize("name", ["time", "uce"])
def test_what_has_nothing_in_common_with_the_edit_stays_exactly(name: str) -> None:
    """A condition orthogonal to every edited token is projected as before; an edited one as its destination."""
    rng = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(6, 6, generator=rng).double())[0]
    weight, wanted = torch.randn(5, 6, generator=rng).double(), torch.randn(1, 6, generator=rng).double()
    source, other = basis[:1] * 3, basis[1:2]
    settings = methods.load(name).Settings(regularisation=1e-9)
    solved = methods.load(name).solve(weight, source, wanted, other, settings)
    assert torch.allclose(other @ solved.T, other @ weight.T, atol=1e-6)
    assert torch.allclose(source @ solved.T, wanted @ weight.T, atol=1e-6)


def test_many_rows_are_taken_in_parts(monkeypatch) -> None:
    left, right = torch.randn(2, 50, 6, generator=torch.Generator().manual_seed(0))
    whole = left.double().T @ right.double()
    monkeypatch.setattr(closed_form, "ROWS", 7)
    assert torch.allclose(closed_form.gram(left, right), whole, rtol=1e-12)
    assert torch.equal(closed_form.gram(left[:0], right[:0]), torch.zeros(6, 6).double())


@pytest.mark.parametrize("name", ["time", "uce"])
def test_through_the_loop_only_keys_and_values_change(name: str, tiny_pipeline) -> None:
    empty = encode(tiny_pipeline, [""])[0]
    records: list[dict] = []
    weights = train(
        tiny_pipeline.unet,
        tiny_pipeline.scheduler,
        concepts(tiny_pipeline),
        Conditions(empty, empty),
        Method(name=name),
        Training(trainable="xattn-strict"),
        seed=0,
        on_record=records.append,
    )
    before = dict(tiny_pipeline.unet.named_parameters())
    assert list(weights) == trainable_names(tiny_pipeline.unet, "xattn-strict") and len(records) == len(weights)
    assert all(not torch.equal(value, before[layer]) for layer, value in weights.items())
