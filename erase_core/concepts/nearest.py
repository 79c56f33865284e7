"""The K words of a vocabulary nearest to an erased concept, found in chunks over the memory map."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline

from ..cores import share_rows
from ..models.conditions import layout_of
from ..models.prompts import encode, encode_pooled
from ..spec import Vocabulary
from .embeddings import EmbeddingTable, write_embeddings
from .neighbours import Neighbour

CHUNK = 64
"""Rows read together, so few that they stay in a core's cache."""


def similarities(table: EmbeddingTable, query: torch.Tensor, similarity: str) -> np.ndarray:
    """Similarity of every row to `query`, [L, d] or [p] as the rows are: minus the Euclidean distance for l2, else the cosine;
    float32 [rows].

    Memory is bounded by CHUNK rows a core whatever the vocabulary's size.
    """
    flat = query.detach().float().reshape(-1).cpu()

    def compared(parts: list[torch.Tensor]) -> torch.Tensor:
        # One place for all chunks: memory asked for anew for each would be cleared page by page.
        place, found = torch.empty(CHUNK, len(flat)), []
        for part in parts:
            rows = place[: len(part)].copy_(part)
            found.append(-torch.linalg.vector_norm(rows.sub_(flat), dim=1) if similarity == "l2" else rows @ flat)
        return torch.cat(found)

    found = share_rows(compared, [part for chunk in table.tensors() for part in chunk.flatten(1).split(CHUNK)]).numpy()
    return found if similarity == "l2" else found / (table.lengths * float(flat.norm())).clip(1e-8)


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

    points = table.rows([n.row for n in found], table.compared).flatten(1).numpy()
    fitted = KMeans(clusters, n_init=4, random_state=seed).fit(points)
    nearest = {int(np.argmin(np.linalg.norm(points - centre, axis=1))) for centre in fitted.cluster_centers_}
    # Methods that preserve one word take the first of the list, which is to be the nearest whatever the clusters are.
    nearest -= {number for number in nearest if fitted.labels_[number] == fitted.labels_[0]}
    return [found[i] for i in sorted({0, *nearest})]


def find_neighbours(
    pipeline: DiffusionPipeline,
    table: EmbeddingTable,
    concepts: list[str],
    vocabulary: Vocabulary,
    allowed: set[str],
    seed: int,
    kept: Path,
) -> dict[str, list[Neighbour]]:
    """Each concept's top-K among the `allowed` words, reduced to clusters where the spec asks so.

    Of words that were compared by their pooled embeddings the found ones' whole embeddings are written to `kept`, and the
    neighbours' rows are that file's; else they are the table's.
    """
    queries = (
        encode_pooled(pipeline, concepts)
        if vocabulary.pooled
        else layout_of(pipeline).tokens(encode(pipeline, concepts))
    )
    found = {
        name: top_k(table, query, vocabulary.top_k, vocabulary.similarity, allowed)
        for name, query in zip(concepts, queries)
    }
    if vocabulary.clusters:
        found = {name: reduce_to_clusters(table, near, vocabulary.clusters, seed) for name, near in found.items()}
    if not vocabulary.pooled:
        return found
    words = list(dict.fromkeys(neighbour.word for near in found.values() for neighbour in near))
    write_embeddings(kept, pipeline, words, table.metadata)
    row = {word: at for at, word in enumerate(words)}
    return {name: [replace(neighbour, row=row[neighbour.word]) for neighbour in near] for name, near in found.items()}
