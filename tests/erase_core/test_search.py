"""The searches beside the Gumbel-softmax: projections, prompts, and mixtures of a few words."""

from __future__ import annotations

import copy

import pytest
import torch

from erase_core.models.attention import AttentionRecord
from erase_core.models.prompts import encode
from erase_core.randomness import Streams, generator
from erase_core.search import projected as projected_module
from erase_core.search.attacker import worst_prompts
from erase_core.search.gumbel import GumbelSearch
from erase_core.search.projected import ProjectedSearch
from erase_core.search.prompt import PromptSearch
from erase_core.training.candidates import name_positions
from erase_core.training.step import concept_attention

K, L, D, B = 7, 3, 4, 5


def words() -> torch.Tensor:
    return torch.randn(K, L, D, generator=generator(0, "embeddings"), dtype=torch.float64)


def projected(norm: str, radius: float = 0.5) -> ProjectedSearch:
    start = torch.randn(L, D, generator=generator(0, "start"), dtype=torch.float64)
    names = [str(i) for i in range(K)]
    return ProjectedSearch("taxi", start, names, words(), norm=norm, radius=radius, step_size=0.2)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_projection_climbs_and_stays_in_its_ball(norm: str) -> None:
    search = projected(norm)
    peak = search.start + 10
    heights = []
    for step in range(20):
        choice = search.choose(Streams(1, step, samples=range(B)))
        assert choice.elsewhere == (list(range(B)) if step else []) and choice.words == ["taxi"] * B
        drawn = choice.embeddings.clone().requires_grad_(True)
        height = -(drawn - peak).square().mean()
        (gradient,) = torch.autograd.grad(height, drawn)
        search.ascend(search.gradient(choice, gradient))
        heights.append(float(height.detach()))
        away = search.position - search.start
        size = away.norm() if norm == "l2" else away.abs().max()
        assert float(size) <= search.radius * (1 + 1e-9)
    assert heights[0] < heights[1] < heights[2] and float(size) == pytest.approx(search.radius)


def test_projection_tells_the_nearest_word(monkeypatch) -> None:
    """Read from all words when c_a has moved, and not for each record of a step."""
    asked, nearest = [], projected_module.nearest_row
    monkeypatch.setattr(projected_module, "nearest_row", lambda *given: asked.append(1) or nearest(*given))
    search = projected("l2")
    assert search.favourite(search.choose(Streams(0, samples=[0]))) == search.favourite(None) and len(asked) == 1
    search.position = words()[4] + 0.01
    word, probability, apart = search.favourite(search.choose(Streams(0, samples=[0])))
    assert (word, probability) == ("4", None)
    assert apart == pytest.approx(0.01 * (L * D) ** 0.5) and len(asked) == 2


def test_prompt_learns_by_ascent() -> None:
    start = torch.randn(L, D, generator=generator(0, "start"))
    search = PromptSearch("taxi", start, tokens=2, learning_rate=0.1)
    assert torch.equal(search.searched(), start[-2:])
    goal = torch.ones(2, D)
    for step in range(200):
        choice = search.choose(Streams(1, step, samples=range(B)))
        drawn = choice.embeddings.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(-(drawn - goal).square().mean(), drawn)
        search.ascend(search.gradient(choice, gradient))
    assert torch.allclose(search.searched(), goal, atol=0.05)


@pytest.mark.parametrize(
    "make", [lambda: projected("l2"), lambda: PromptSearch("taxi", words()[0], tokens=2, learning_rate=0.1)]
)
def test_state_round_trip(make) -> None:
    first, second = make(), make()
    shape = first.searched().shape
    first.ascend(torch.ones(shape, dtype=torch.float64))
    second.load_state_dict(first.state_dict())
    for search in (first, second):
        search.ascend(torch.arange(shape.numel()).reshape(shape).double())
    assert torch.equal(first.searched(), second.searched())


def few(logits: torch.Tensor | None = None) -> GumbelSearch:
    search = GumbelSearch([str(i) for i in range(K)], words(), temperature=1.7, learning_rate=0.1, mixed=3)
    search.logits = torch.randn(K, generator=generator(0, "logits"), dtype=torch.float64) if logits is None else logits
    return search


def test_mixture_of_few_holds_only_the_heaviest() -> None:
    choice = few().choose(Streams(1, samples=range(B)))
    assert torch.equal((choice.weights > 0).sum(1), torch.full((B,), 3))
    assert torch.allclose(choice.weights.sum(1), torch.ones(B).double())
    assert torch.allclose(choice.embeddings, torch.einsum("bk,kld->bld", choice.weights, words()))
    assert torch.equal(choice.word_embeddings, words()[choice.weights.argmax(1)])


def test_gradient_of_a_mixture_of_few_against_finite_differences() -> None:
    def loss(embedding: torch.Tensor) -> torch.Tensor:
        return (embedding.flatten(1).sin() ** 2).sum(1).mean()

    search = few()
    choice = search.choose(Streams(1, samples=range(B)))
    drawn = choice.embeddings.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(drawn), drawn)
    found, step = search.gradient(choice, gradient), 1e-6
    for i in range(K):
        ends = []
        for sign in (1, -1):
            moved = search.logits.clone()
            moved[i] += sign * step
            ends.append(loss(few(moved).choose(Streams(1, samples=range(B))).embeddings))
        assert float(found[i]) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), abs=1e-6)


def test_recorded_attention_computes_what_the_stock_layers_do(world) -> None:
    embeddings = encode(world, ["a taxi", "a bus"])
    z, t = torch.randn(2, 8, 8, 8, generator=generator(0)), torch.tensor([300, 700])
    stock = world.unet(z, t, encoder_hidden_states=embeddings).sample
    unet = copy.deepcopy(world.unet)
    record = AttentionRecord(unet)
    with record.recording() as seen:
        recorded = unet(z, t, encoder_hidden_states=embeddings).sample
    unet(z, t, encoder_hidden_states=embeddings)
    assert torch.allclose(stock, recorded, atol=1e-4)
    layers = [module for name, module in unet.named_modules() if name.endswith("attn2")]
    assert len(seen) == len(layers)
    assert all(torch.allclose(layer.sum(-1), torch.ones(()), atol=1e-4) for layer in seen)


def test_concept_attention_picks_the_concept_s_tokens() -> None:
    layer = torch.arange(2 * 2 * 3 * 5).reshape(4, 3, 5).float()
    own = concept_attention([layer], [[1], [2, 3]], [1, 0], after=False)
    assert torch.equal(own[0], torch.stack([layer[0:2, :, 2], layer[0:2, :, 3]]))
    assert torch.equal(own[1], layer[2:4, :, 1].unsqueeze(0))
    behind = concept_attention([layer], [[1], [2, 3]], [1, 0], after=True)
    assert [len(tokens) for tokens in behind] == [3, 4]


@pytest.mark.parametrize(
    ("prompt", "names", "words"),
    [
        ("a taxi", ["taxi"], "taxi"),
        ("a photo of a police car", ["police car"], "police car"),
        ("a photo of a police car", ["vehicle", "car", "police car"], "police car"),
        ("a cab", ["taxi"], "a cab"),
    ],
)
def test_positions_of_the_name(prompt: str, names: list[str], words: str, world) -> None:
    ids = world.tokenizer(prompt).input_ids
    found = name_positions(world.tokenizer, 77, prompt, names)
    assert world.tokenizer.decode([ids[i] for i in found]).strip() == words


def test_the_attacker_brings_back_and_stays_in_its_ball() -> None:
    """Against a quadratic loss whose minimum in a ball is known: the point of the ball nearest to the loss's own minimum."""
    erased = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))
    wanted = erased + 10.0

    def recovery(prompts: torch.Tensor) -> torch.Tensor:
        return (prompts - wanted).square().sum()

    def sizes(away: torch.Tensor) -> torch.Tensor:
        return away.flatten(1).norm(dim=1) / erased.flatten(1).norm(dim=1)

    found = [worst_prompts(erased, recovery, 0.5, steps, Streams(3, samples=range(6))) - erased for steps in (1, 30)]
    toward = torch.nn.functional.normalize((wanted - erased).flatten(1), dim=1)
    aligned = [(torch.nn.functional.normalize(each.flatten(1), dim=1) * toward).sum(1) for each in found]
    assert (sizes(found[0]) <= 0.5 + 1e-6).all() and len(set(sizes(found[1]).tolist())) == 6
    assert (aligned[1] > 0.9).all() and (aligned[1] > aligned[0]).all() and (aligned[0] > 0.5).all()
    torch.testing.assert_close(sizes(found[1]), 0.5 * Streams(3, samples=range(6)).uniform(1)[:, 0])
