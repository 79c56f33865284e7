"""Where a finished run's stages lie, read from its summary."""

from __future__ import annotations

from pathlib import Path

from ..artifacts import folder_of
from ..concepts.embeddings import EmbeddingTable
from .findings import summary


def stage_folder(output: Path, stage: str) -> Path:
    """The cached files of a run's stage: vocabulary, embeddings, nearest, training, original, erased or scores."""
    kind = "images" if stage in ("original", "erased") else stage
    return folder_of(kind, summary(output)["keys"][stage])


def embedding_table(output: Path) -> EmbeddingTable:
    """The embedded vocabulary of a run."""
    return EmbeddingTable(stage_folder(output, "embeddings") / "embeddings.arrow")
