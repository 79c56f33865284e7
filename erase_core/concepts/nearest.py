"""The K words of a vocabulary nearest to an erased concept, found in chunks over the memory map."""

from __future__ import annotations

import numpy as np
import torch

from ..cores import share_rows
from ..spec import Vocabulary
from .embeddings import EmbeddingTable
from .neighbours import Neighbour

CHUNK = 64
"""Rows read together, so few that they stay in a core's cache."""


def similarities(table: EmbeddingTable, query: torch.Tensor, similarity: str) -> np.ndarray:
    """Similarity of every row to `query` [L, d]: cosine, or minus the Euclidean distance; float32 [rows].

    Memory is bounded by CHUNK rows a core whatever the vocabulary's size.
    """
    flat = query.detach().float().reshape(-1).cpu()

    def compared(parts: list[torch.Tensor]) -> torch.Tensor:
        # One place for all chunks: memory asked for anew for each would be cleared page by page.
        place, found = torch.empty(CHUNK, len(flat)), []
        for part in parts:
            rows = place[: len(part)].copy_(part)
            found.append(rows @ flat if similarity == "cosine" else -torch.linalg.vector_norm(rows.sub_(flat), dim=1))
        return torch.cat(found)

    found = share_rows(compared, [part for chunk in table.tensors() for part in chunk.flatten(1).split(CHUNK)]).numpy()
    return found / (table.lengths * float(flat.norm())).clip(1e-8) if similarity == "cosine" else found


def top_k(table: EmbeddingTable, query: torch.Tensor, k: int, similarity: str, allowed: set[str]) -> list[Neighbour]:
    """The k nearest of the allowed words, nearest first; equal similarities keep the vocabulary's order."""
    scores = similarities(table, query, similarity)
    scores[[word not in allowed for word in table.words]] = -np.inf
    order = np.argsort(-scores, kind="stable")[: min(k, len(allowed))]
    return [Neighbour(table.words[row], float(scores[row]), int(row)) for row in order]


def reduce_to_clusters(table: EmbeddingTable, found: list[Neighbour], clusters: int, seed: int) -> list[Neighbour]:
    """The nearest neighbour, and one word for each further one of `clusters` k-means centres of the neighbours' embeddings: the
    one nearest to the centre.
    """
    if clusters >= len(found):
        return found
    from sklearn.cluster import KMeans

    points = table.rows([n.row for n in found]).flatten(1).numpy()
    fitted = KMeans(clusters, n_init=4, random_state=seed).fit(points)
    nearest = {int(np.argmin(np.linalg.norm(points - centre, axis=1))) for centre in fitted.cluster_centers_}
    # Methods that preserve one word take the first of the list, which is to be the nearest whatever the clusters are.
    nearest -= {number for number in nearest if fitted.labels_[number] == fitted.labels_[0]}
    return [found[i] for i in sorted({0, *nearest})]


def find_neighbours(
    table: EmbeddingTable, queries: dict[str, torch.Tensor], vocabulary: Vocabulary, allowed: set[str], seed: int
) -> dict[str, list[Neighbour]]:
    """Each concept's (name → embedding [L, d]) top-K among the `allowed` words, reduced to clusters where the spec asks so."""
    found = {
        name: top_k(table, query, vocabulary.top_k, vocabulary.similarity, allowed) for name, query in queries.items()
    }
    if vocabulary.clusters:
        found = {name: reduce_to_clusters(table, near, vocabulary.clusters, seed) for name, near in found.items()}
    return found
