"""What a training leaves behind: the changed weights, and the trace of its steps."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..files import digest, new_file
from ..models.delta import save_delta

TRACE = pa.schema(
    [
        ("step", pa.int32()),
        ("phase", pa.string()),
        ("concept", pa.string()),
        ("word", pa.string()),
        ("probability", pa.float32()),
        ("distance", pa.float32()),
        ("drawn", pa.list_(pa.string())),
        ("search_loss", pa.float64()),
        ("erasing_loss", pa.float64()),
        ("preservation_loss", pa.float64()),
        ("seconds", pa.float64()),
        ("latent_seconds", pa.float64()),
    ]
)
"""word is the one that the search favours, with its probability and c_a's distance from it; drawn are the step's words;
latent_seconds, the part of the seconds in which its latents were sampled.
"""


class Snapshots:
    """Keeps the searched c_a of each concept about every `every` steps. Called as the loop's on_search.

    folder: where they lie meanwhile, a file each, so that a training that goes on from a checkpoint has those of before.
    """

    def __init__(self, every: int, folder: Path):
        self.every, self.folder, self.kept = every, folder, {}
        for file in sorted(folder.glob("*.safetensors")):
            for name, value in load_file(file).items():
                concept, _, step = name.rpartition("/")
                self.kept[int(step), concept] = value

    def __call__(self, step: int, concept: str, searched: torch.Tensor) -> None:
        last = max((at for at, name in self.kept if name == concept and at < step), default=None)
        if last is None or step - last >= self.every:
            value = self.kept[step, concept] = searched.detach().float().cpu().clone().contiguous()
            write_snapshots(self.folder / f"{step:06d}-{digest(concept)}.safetensors", {(step, concept): value})

    def save(self, path: Path) -> None:
        """Write all of them."""
        write_snapshots(path, self.kept)


def write_snapshots(path: Path, found: dict[tuple[int, str], torch.Tensor]) -> None:
    """Write snapshots, by step and concept, as tensors [L, d] named "concept/step"."""
    with new_file(path) as partial:
        save_file({f"{concept}/{step:06d}": value for (step, concept), value in found.items()}, partial)


def put_weights(unet: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Copy trained weights into a UNet, in place."""
    parameters = dict(unet.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)


def write_trace(path: Path, records: list[dict]) -> None:
    with new_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(records, schema=TRACE), partial)


def save_result(
    folder: Path, unet: nn.Module, weights: dict[str, torch.Tensor], records: list[dict], metadata: dict[str, str]
) -> None:
    """Write delta.safetensors against `unet` (θ) and trace.parquet."""
    save_delta(folder / "delta.safetensors", unet, weights, metadata)
    write_trace(folder / "trace.parquet", records)
