"""The Gumbel search: its draws, its gradient against finite differences, and that it finds what hurts most."""

from __future__ import annotations

import pytest
import torch

from erase_core.randomness import Streams, generator
from erase_core.search.gumbel import GumbelSearch

K, L, D, B = 7, 3, 4, 5


def make(hard: bool, temperature: float = 1.7) -> GumbelSearch:
    embeddings = torch.randn(K, L, D, generator=generator(0, "embeddings"), dtype=torch.float64)
    search = GumbelSearch(
        [f"w{i}" for i in range(K)], embeddings, temperature=temperature, mixed=1 if hard else K, learning_rate=0.1
    )
    search.logits = torch.randn(K, generator=generator(0, "logits"), dtype=torch.float64)
    return search


def loss(embedding: torch.Tensor) -> torch.Tensor:
    """A smooth stand-in for L2: the mean over draws of a function of the mixture."""
    return (embedding.flatten(1).sin() ** 2).sum(1).mean()


def test_soft_gradient_against_finite_differences() -> None:
    search = make(hard=False)
    choice = search.choose(Streams(1, samples=range(B)))
    mixed = choice.embeddings.clone().requires_grad_(True)
    (to_mixture,) = torch.autograd.grad(loss(mixed), mixed)
    found = search.gradient(choice, to_mixture)
    step, expected = 1e-6, torch.zeros(K, dtype=torch.float64)
    for i in range(K):
        values = []
        for sign in (1, -1):
            moved = make(hard=False)
            moved.logits = search.logits.clone()
            moved.logits[i] += sign * step
            values.append(loss(moved.choose(Streams(1, samples=range(B))).embeddings))
        expected[i] = (values[0] - values[1]) / (2 * step)
    assert torch.allclose(found, expected, atol=1e-6)
    assert expected.abs().max() > 1e-3


def test_hard_gradient_is_straight_through() -> None:
    """By autograd: forward the one-hot rows, backward the softmax."""
    search = make(hard=True)
    choice = search.choose(Streams(2, samples=range(B)))
    mixed = choice.embeddings.clone().requires_grad_(True)
    (to_mixture,) = torch.autograd.grad(loss(mixed), mixed)
    logits = search.logits.clone().requires_grad_(True)
    uniform = Streams(2, samples=range(B)).uniform(K).clamp(1e-20, 1 - 1e-7)
    soft = torch.softmax((logits - torch.log(-torch.log(uniform))) / search.temperature, 1)
    one_hot = torch.nn.functional.one_hot(soft.argmax(1), K).double()
    straight = one_hot + soft - soft.detach()
    loss(torch.einsum("bk,kld->bld", straight, search.embeddings)).backward()
    assert torch.allclose(search.gradient(choice, to_mixture), logits.grad, atol=1e-10)


def test_hard_draw_is_one_word() -> None:
    search = make(hard=True)
    choice = search.choose(Streams(3, samples=range(B)))
    rows = choice.weights.argmax(1)
    assert not choice.elsewhere and torch.equal(choice.embeddings, search.embeddings[rows])
    assert choice.words == [f"w{i}" for i in rows.tolist()]


def test_draws_follow_the_logits() -> None:
    """The argmax of logits plus Gumbel noise is a draw from softmax(logits), and so is a rival."""
    search = make(hard=True)
    chosen = search.choose(Streams(4, samples=range(10_000))).weights.argmax(1)
    rivals, _ = search.rivals(Streams(4, samples=range(2000)), 5)
    assert rivals.shape == (2000, 5)
    for rows in (chosen, rivals.flatten()):
        seen = torch.bincount(rows, minlength=K) / len(rows)
        assert torch.allclose(seen.double(), torch.softmax(search.logits, 0), atol=0.02)


def test_rivals_of_a_sample_stand_together() -> None:
    """And are the same whichever other samples are drawn beside it."""
    search = make(hard=True)
    rows, choice = search.rivals(Streams(3, samples=range(B)), 4)
    assert choice.words == [f"w{i}" for i in rows.flatten().tolist()]
    assert not choice.elsewhere and torch.equal(choice.embeddings, search.embeddings[rows.flatten()])
    for sample in range(B):
        alone, _ = search.rivals(Streams(3, samples=[sample]), 4)
        assert torch.equal(alone[0], rows[sample])


def test_rivals_never_fall_off_the_end() -> None:
    """Nor on a word whose probability is 0."""
    search = make(hard=True)
    with torch.no_grad():
        search.logits[:] = torch.tensor([0.0, *[-1000.0] * (K - 2), 0.0])
    rows, _ = search.rivals(Streams(3, samples=range(500)), 4)
    assert set(rows.flatten().tolist()) == {0, K - 1}


def test_score_gradient_is_that_of_the_expected_loss() -> None:
    """Over many draws the mean is the derivative of Σ softmax(π)_i L_i, which autograd has."""
    search = make(hard=True)
    losses = torch.rand(K, generator=generator(9), dtype=torch.float64)
    logits = search.logits.clone().requires_grad_(True)
    (wanted,) = torch.autograd.grad((torch.softmax(logits, 0) * losses).sum(), logits)
    rows, _ = search.rivals(Streams(10, samples=range(8000)), 5)
    found = search.score_gradient(rows, (losses[rows] - losses[rows].mean()).float())
    assert wanted.abs().max() > 0.02
    assert torch.allclose(found.double(), wanted, atol=0.005)


def test_measured_rivals_lead_to_the_word_that_is_hurt_most() -> None:
    """Whatever the scale of a timestep, by which all of a sample's losses are multiplied."""
    embeddings = torch.randn(K, L, D, generator=generator(5))
    search = GumbelSearch([str(i) for i in range(K)], embeddings, temperature=2.0, learning_rate=0.05)
    hurt = torch.tensor([1.0, 1.1, 0.9, 1.2, 2.0, 0.8, 1.0])
    for step in range(300):
        streams = Streams(6, step, samples=range(4))
        rows, _ = search.rivals(streams, 3)
        measured = hurt[rows] * 1000 ** streams.uniform(1)
        search.ascend(search.score_gradient(rows, measured / measured.mean(1, keepdim=True) - 1))
    assert int(search.logits.argmax()) == 4


def test_ascends_to_the_word_that_is_hurt_most() -> None:
    embeddings = torch.randn(K, L, D, generator=generator(5))
    search = GumbelSearch([str(i) for i in range(K)], embeddings, temperature=2.0, learning_rate=0.05)
    worst = 4
    for step in range(300):
        choice = search.choose(Streams(6, step, samples=range(4)))
        mixed = choice.embeddings.clone().requires_grad_(True)
        hurt = -(mixed - embeddings[worst]).square().mean()
        (gradient,) = torch.autograd.grad(hurt, mixed)
        search.ascend(search.gradient(choice, gradient))
    assert int(search.logits.argmax()) == worst


def test_state_round_trip() -> None:
    embeddings = torch.randn(K, L, D, generator=generator(7))
    first = GumbelSearch(["a"] * K, embeddings, temperature=2.0, learning_rate=0.05)
    first.ascend(torch.arange(K).float())
    second = GumbelSearch(["a"] * K, embeddings, temperature=2.0, learning_rate=0.05)
    second.load_state_dict(first.state_dict())
    for search in (first, second):
        search.ascend(torch.ones(K))
    assert torch.equal(first.logits, second.logits)


@pytest.mark.parametrize("hard", [True, False])
def test_same_seed_same_draw(hard: bool) -> None:
    search = make(hard)
    assert search.choose(Streams(8, samples=range(B))).words == search.choose(Streams(8, samples=range(B))).words
