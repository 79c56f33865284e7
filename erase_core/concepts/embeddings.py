"""Prompt embeddings of a vocabulary, whole or pooled, in one memory-mapped Arrow file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from diffusers import DiffusionPipeline

from ..files import new_file
from ..models.prompts import encode_batches, encode_pooled

Progress = Callable[[int, int], None]


def write_embeddings(
    path: Path,
    pipeline: DiffusionPipeline,
    words: list[str],
    metadata: dict[str, str],
    batch_size: int = 256,
    progress: Progress = lambda done, total: None,
) -> None:
    """Encode `words` in batches and write (word, embedding [L, d], pooled [p], length).

    Embeddings are float16 fixed-shape tensors; the length, float32, is the Euclidean norm of all of a row's embedding.
    """
    with new_file(path) as partial:
        writer, done = None, 0
        for embedding, pooled in encode_batches(pipeline, words, batch_size):
            embedding, pooled = embedding.half().cpu(), pooled.half().cpu()
            columns = [
                pa.array(words[done : done + len(embedding)], pa.string()),
                pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(embedding.numpy())),
                pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(pooled.numpy())),
                pa.array(embedding.float().flatten(1).norm(dim=1).numpy()),
            ]
            batch = pa.record_batch(columns, names=["word", "embedding", "pooled", "length"])
            if writer is None:
                writer = pa.ipc.new_file(partial, batch.schema.with_metadata(metadata))
            writer.write_batch(batch)
            done += len(embedding)
            progress(done, len(words))
        writer.close()


def write_pooled(
    path: Path,
    pipeline: DiffusionPipeline,
    words: list[str],
    metadata: dict[str, str],
    progress: Progress = lambda done, total: None,
) -> None:
    """Encode `words` and write (word, pooled [p], length): float16 tensors, and their Euclidean norms, float32."""
    pooled = encode_pooled(pipeline, words, progress=progress).half().cpu()
    columns = [
        pa.array(words, pa.string()),
        pa.FixedShapeTensorArray.from_numpy_ndarray(pooled.numpy()),
        pa.array(pooled.float().norm(dim=1).numpy()),
    ]
    batch = pa.record_batch(columns, names=["word", "pooled", "length"])
    with new_file(path) as partial, pa.ipc.new_file(partial, batch.schema.with_metadata(metadata)) as writer:
        writer.write_batch(batch)


class EmbeddingTable:
    """A memory-mapped embedding file: rows are read when asked for, not before.

    `compared` is the column whose rows are compared and whose norms are the lengths: embedding, or pooled in a file of those alone.
    """

    def __init__(self, path: Path):
        self.file = pa.ipc.open_file(pa.memory_map(str(path)))
        self.metadata = {k.decode(): v.decode() for k, v in (self.file.schema.metadata or {}).items()}
        batches = [self.file.get_batch(i) for i in range(self.file.num_record_batches)]
        self.words: list[str] = [word for batch in batches for word in batch.column("word").to_pylist()]
        held = [name for name in ("embedding", "pooled") if name in self.file.schema.names]
        self.compared = held[0]
        self.chunks = {name: [batch.column(name).to_numpy_ndarray() for batch in batches] for name in held}
        self.lengths = np.concatenate([batch.column("length").to_numpy() for batch in batches])
        self.starts = np.cumsum([0, *(len(chunk) for chunk in self.chunks[self.compared])])

    def __len__(self) -> int:
        return len(self.words)

    def tensors(self) -> Iterator[torch.Tensor]:
        """All that is compared as it is on disk, float16 [·, L, d] or [·, p], a piece at a time; to be read only."""
        for chunk in self.chunks[self.compared]:
            with warnings.catch_warnings():
                # The map cannot be written to, which torch has no way to say of a tensor.
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                yield torch.from_numpy(chunk)

    def rows(self, indices: Iterable[int], column: str = "embedding") -> torch.Tensor:
        """Embeddings float32 [len(indices), L, d], or pooled ones [len(indices), p]."""
        found = [self.row(int(index), column) for index in indices]
        return torch.from_numpy(np.stack(found).astype(np.float32))

    def row(self, index: int, column: str) -> np.ndarray:
        chunk = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.chunks[column][chunk][index - self.starts[chunk]]
