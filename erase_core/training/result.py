"""What a training leaves behind: the changed weights, and the trace of its steps."""

from __future__ import annotations

import copy
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from ..files import new_file
from ..models.delta import save_delta

TRACE = pa.schema(
    [
        ("step", pa.int32()),
        ("phase", pa.string()),
        ("concept", pa.string()),
        ("word", pa.string()),
        ("probability", pa.float32()),
        ("drawn", pa.list_(pa.string())),
        ("erasing_loss", pa.float64()),
        ("preservation_loss", pa.float64()),
        ("seconds", pa.float64()),
    ]
)
"""word is the one that π favours, with its probability; drawn are the words preserved in the step."""


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
    edited = copy.deepcopy(unet)
    put_weights(edited, weights)
    save_delta(folder / "delta.safetensors", unet, edited, metadata)
    write_trace(folder / "trace.parquet", records)
