"""The words nearest to each erased concept, as a table. Reading it needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..files import new_file

SCHEMA = pa.schema(
    [
        ("concept", pa.string()),
        ("rank", pa.int32()),
        ("word", pa.string()),
        ("similarity", pa.float32()),
        ("row", pa.int32()),
    ]
)


@dataclass(frozen=True)
class Neighbour:
    """A word near a concept; `row` is its row in the embedding file."""

    word: str
    similarity: float
    row: int


def write_neighbours(path: Path, neighbours: dict[str, list[Neighbour]]) -> None:
    """Write the table (concept, rank, word, similarity, row) of every erased concept's neighbours."""
    rows = [
        {"concept": concept, "rank": rank, "word": n.word, "similarity": n.similarity, "row": n.row}
        for concept, found in neighbours.items()
        for rank, n in enumerate(found, 1)
    ]
    with new_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), partial)


def read_neighbours(path: Path) -> dict[str, list[Neighbour]]:
    found: dict[str, list[Neighbour]] = {}
    for row in pq.read_table(path).to_pylist():
        found.setdefault(row["concept"], []).append(Neighbour(row["word"], row["similarity"], row["row"]))
    return found


def nearest_words(near: dict[str, list[Neighbour]], count: int = 20) -> list[str]:
    """The words nearest to any of the concepts, nearest first."""
    found = [neighbour for each in near.values() for neighbour in each]
    return list(dict.fromkeys(n.word for n in sorted(found, key=lambda n: -n.similarity)))[:count]
