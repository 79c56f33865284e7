"""A concept space left on disk answers as one in memory does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from erase_core.concepts.embeddings import EmbeddingTable, write_embeddings
from erase_core.models.conditions import latent_shape, layout_of
from erase_core.models.pipeline import twin
from erase_core.models.trainable import trainable_names
from erase_core.randomness import Streams, generator
from erase_core.search import rows as module
from erase_core.search.gumbel import GumbelSearch
from erase_core.search.rows import MappedRows, homes, mixture, nearest_row, products, rows_of
from erase_core.training.predictions import noise_predictor


@pytest.fixture(scope="module")
def both(world, tmp_path_factory) -> tuple[torch.Tensor, MappedRows, list[str]]:
    """The same 1,500 tokens' rows in another order than the file's, held and mapped."""
    path: Path = tmp_path_factory.mktemp("rows") / "embeddings.arrow"
    words = [token.removesuffix("</w>") for token in sorted(world.tokenizer.get_vocab())][::32][:1500]
    write_embeddings(path, world, words, {})
    table, layout = EmbeddingTable(path), layout_of(world)
    order = torch.randperm(len(words), generator=generator(0)).tolist()
    held = rows_of(table, order, layout, world.device)
    return held, MappedRows(table, order, layout, world.device), [words[i] for i in order]


def test_many_rows_stay_on_disk(both, monkeypatch) -> None:
    held, mapped, _ = both
    assert isinstance(held, torch.Tensor)
    monkeypatch.setattr(module, "HELD_BYTES", held.nbytes - 1)
    assert isinstance(rows_of(mapped.table, mapped.indices.tolist(), mapped.layout, mapped.device), MappedRows)
    assert mapped.coordinates.nbytes < held.nbytes / 10


def test_rows(both) -> None:
    held, mapped, _ = both
    assert len(mapped) == len(held)
    for which in ([3, 1, 3], torch.tensor([7, 1400]), slice(5, 9)):
        assert torch.equal(mapped[which], held[which])
    assert torch.equal(torch.cat(list(mapped.split(400))), held)
    weights = torch.rand(2, len(held), generator=generator(1))
    assert torch.allclose(mixture(mapped, weights), torch.einsum("bk,kld->bld", weights, held), rtol=1e-3, atol=1e-2)
    assert nearest_row(mapped, held[42] + 1e-3)[0] == 42


def test_products(both) -> None:
    """Any direction, of which only what lies along the rows counts."""
    held, mapped, _ = both
    gradient = torch.randn(3, *held.shape[1:], generator=generator(2))
    for exact, found in zip(products(held, gradient), products(mapped, gradient)):
        assert torch.corrcoef(torch.stack([exact, found]))[0, 1] > 0.995


def test_products_of_a_search_s_gradients(both, world, monkeypatch) -> None:
    """With the gradients that a search has, rows that the directions were not made from are in the exact product's order."""
    held, mapped, _ = both
    monkeypatch.setattr(module, "SAMPLE", 400)
    few = MappedRows(mapped.table, mapped.indices.tolist(), mapped.layout, mapped.device)
    sampled = torch.linspace(0, len(few) - 1, 400).long().tolist()
    others = [row for row in range(len(few)) if row not in sampled]
    edited_unet, rng = twin(world.unet, trainable_names(world.unet, "xattn-strict")), generator(4)
    with torch.no_grad():
        for name in trainable_names(world.unet, "xattn-strict"):
            weight = edited_unet.get_parameter(name)
            weight.add_(0.03 * weight.std() * torch.randn(weight.shape, generator=rng))
    frozen, edited = (noise_predictor(unet, world.scheduler) for unet in (world.unet, edited_unet))
    for row in others[::250]:
        condition = held[[row]].clone().requires_grad_(True)
        z, t = torch.randn(1, *latent_shape(world.unet), generator=rng), torch.randint(100, 900, (1,), generator=rng)
        hurt = (edited(z, t, condition) - frozen(z, t, condition)).square().mean()
        (gradient,) = torch.autograd.grad(hurt, condition)
        exact, found = products(held, gradient)[0, others], products(few, gradient)[0, others]
        assert torch.corrcoef(torch.stack([exact, found]))[0, 1] > 0.999
        assert found.argmax() in exact.topk(10).indices


def test_the_search_ends_at_the_same_word(both) -> None:
    """Ascending the distance from one word's embedding, on disk as in memory."""
    held, mapped, words = both
    ends = []
    for rows in (held, mapped):
        search = GumbelSearch(words, rows, temperature=0.5, learning_rate=0.5)
        for step in range(60):
            choice = search.choose(Streams(3, step, samples=range(4)))
            search.ascend(search.gradient(choice, 2 * (choice.embeddings - held[10])))
        ends.append(search.favourite(choice)[0])
    assert ends[0] == ends[1]


def test_homes(both) -> None:
    held, mapped, words = both
    assert torch.equal(homes(held, len(held)), torch.arange(len(held)))
    found = homes(held, 20)
    assert torch.equal(found, homes(mapped, 20)) and len(found.unique()) == 20
    having = found.unique()
    assert torch.equal(found[having], having)
    cosine = torch.nn.functional.cosine_similarity(held[[5]].flatten(1), held[having].flatten(1))
    assert found[5] == having[cosine.argmax()]


def test_a_word_without_trajectories_uses_anothers(both) -> None:
    held, _, words = both
    search = GumbelSearch(words, held, temperature=1.0, learning_rate=0.1, with_trajectories=5)
    choice = search.choose(Streams(4, samples=range(8)))
    homes_of, embeddings = choice.at
    assert len(set(homes_of)) <= 5
    assert choice.elsewhere == [row for row in range(8) if choice.words[row] != homes_of[row]]
    assert choice.words != homes_of and torch.equal(embeddings[0], held[words.index(homes_of[0])])
