"""Weights of a network that a metric is defined with, from a file that the user gives."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ..models.source import ModelError


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file or of a PyTorch one, in which nothing but tensors is unpickled."""
    if Path(path).suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def shapes_in(path: str | Path, field: str) -> dict[str, torch.Size]:
    """The shapes of the tensors in such a file by their names; no tensor is read. ModelError when it is no such file."""
    try:
        if Path(path).suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                names = file.keys()
                return {name: torch.Size(file.get_slice(name).get_shape()) for name in names}
        found = torch.load(path, map_location="meta", weights_only=True)
        return {name: value.shape for name, value in found.items() if isinstance(value, torch.Tensor)}
    except (OSError, RuntimeError, UnpicklingError, EOFError, SafetensorError) as error:
        raise ModelError(f"{field}: cannot read {str(path)!r}; give a file of weights ({error})") from error


def put_weights(network: torch.nn.Module, weights: dict[str, torch.Tensor], field: str, what: str) -> None:
    """Load the weights that a network names; others in the file are left. ValueError when one is missing or of another shape."""
    for name, own in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if name not in weights or weights[name].shape != own.shape:
            raise ValueError(f"{field}: has no {name} of shape {list(own.shape)}; give the weights of {what}")
    network.load_state_dict(weights, strict=False)
    network.requires_grad_(False).eval()
