"""The rows of a concept space R [K, R, d]: a tensor when they are few, else left in the memory-mapped file."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import torch

from ..concepts.embeddings import EmbeddingTable
from ..models.conditions import Layout
from .choice import Choice

HELD_BYTES = 256 * 2**20
"""Rows that take no more than this in float32 are held in memory."""
CHUNK, SAMPLE, RANK = 1024, 1024, 256


class MappedRows:
    """Rows on disk, read as a tensor's are: by index, or in parts by `split`.

    A product with every row reads their coordinates on the principal directions of an even sample, which alone are held in memory:
    K · RANK numbers and not K · R · d.
    """

    def __init__(self, table: EmbeddingTable, indices: Sequence[int], layout: Layout, device: torch.device):
        """indices: which rows of the table, in the order of the words."""
        self.table, self.indices, self.layout, self.device = table, torch.as_tensor(indices), layout, device

    @functools.cached_property
    def axes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean of an even sample of the rows [R · d], and its principal directions [R · d, RANK]."""
        sample = self[torch.linspace(0, len(self) - 1, min(SAMPLE, len(self))).long()].flatten(1)
        mean = sample.mean(0)
        return mean, principal_directions(sample - mean, RANK)

    @functools.cached_property
    def coordinates(self) -> torch.Tensor:
        """The rows on the principal directions [K, RANK]; read from disk when a search by gradient first asks."""
        mean, directions = self.axes
        return torch.cat([(chunk.flatten(1) - mean) @ directions for chunk in self.split(CHUNK)])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, which: slice | Sequence[int] | torch.Tensor) -> torch.Tensor:
        """Conditions [B, R, d] as they are on disk."""
        return packed(self.table, self.indices[which].tolist(), self.layout).to(self.device)

    def split(self, size: int) -> Iterator[torch.Tensor]:
        """All rows in order, `size` at a time."""
        return (self[at : at + size] for at in range(0, len(self), size))

    def products(self, gradient: torch.Tensor) -> torch.Tensor:
        """As `products`, but for what lies off the principal directions, and for a number that is the same for every row."""
        # This way round the product reads the coordinates once, several times faster than the other.
        _, directions = self.axes
        return (self.coordinates @ (gradient.flatten(1) @ directions).T).T


Rows = torch.Tensor | MappedRows


def rows_of(table: EmbeddingTable, indices: Sequence[int], layout: Layout, device: torch.device) -> Rows:
    """The conditions of a table's rows, as a tensor when they are few."""
    if len(indices) * packed(table, indices[:1], layout).nbytes > HELD_BYTES:
        return MappedRows(table, indices, layout, device)
    return packed(table, indices, layout).to(device)


def packed(table: EmbeddingTable, indices: Sequence[int], layout: Layout) -> torch.Tensor:
    """The conditions [B, R, d] of a table's rows, as they are on disk."""
    return layout.pack(table.rows(indices), table.rows(indices, "pooled") if layout.pooled else None)


def principal_directions(centred: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` directions [D, count] of the largest variance of rows [N, D] with mean zero, from their N × N products."""
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    kept = min(count, int((values > values[-1] * 1e-6).sum()))
    return (centred.T @ vectors[:, -kept:]) / values[-kept:].sqrt()


def products(rows: Rows, gradient: torch.Tensor) -> torch.Tensor:
    """⟨gradient_b, R_i⟩ for each of B gradients [B, R, d] and every row, [B, K]."""
    if isinstance(rows, MappedRows):
        return rows.products(gradient)
    return gradient.flatten(1) @ rows.flatten(1).T


def mixture(rows: Rows, weights: torch.Tensor) -> torch.Tensor:
    """Σ_i weights_bi R_i, [B, R, d], for weights [B, K]."""
    if isinstance(rows, MappedRows):
        # Of rows on disk those alone are read that some condition is made of.
        used = weights.any(0).nonzero().flatten()
        chunks = ((weights[:, part], rows[part.cpu()]) for part in used.split(CHUNK))
    else:
        chunks = zip(weights.split(CHUNK, dim=1), rows.split(CHUNK))
    return torch.stack([torch.einsum("bk,kld->bld", part, chunk) for part, chunk in chunks]).sum(0)


def nearest_row(rows: Rows, position: torch.Tensor) -> tuple[int, float]:
    """The row nearest to a condition [R, d], and its Euclidean distance."""
    distances = torch.cat([(chunk - position).flatten(1).norm(dim=1) for chunk in rows.split(CHUNK)])
    best = int(distances.argmin())
    return best, float(distances[best])


def homes(rows: Rows, count: int | None) -> torch.Tensor:
    """Which row's trajectories each row uses, [K]: its own when there are no more than `count` rows, or no such bound.

    Of more rows, `count` spread evenly over the order (nearest to the target first) have trajectories, and every other uses
    those of the one that it is nearest to by cosine. So the sampling of latents does not grow with the vocabulary.
    """
    if count is None or len(rows) <= count:
        return torch.arange(len(rows))
    having = torch.linspace(0, len(rows) - 1, count).long()
    directions = torch.nn.functional.normalize(rows[having].flatten(1), dim=1)
    found = having[torch.cat([(chunk.flatten(1) @ directions.T).argmax(1) for chunk in rows.split(CHUNK)]).cpu()]
    found[having] = having
    return found


def drawn(words: list[str], rows: Rows, which: torch.Tensor, home_of: torch.Tensor) -> Choice:
    """The choice of the rows `which` [B] under their own conditions [B, R, d]."""
    which = which.cpu()
    home = home_of[which]
    elsewhere = None if torch.equal(home, which) else ([words[row] for row in home], rows[home])
    under = rows[which]
    return Choice([words[row] for row in which], under, under, home=elsewhere)
