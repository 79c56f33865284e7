"""Weights of a network that a metric is defined with, from a file that the user gives."""

from __future__ import annotations

from pathlib import Path

import torch


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file or of a PyTorch one, in which nothing but tensors is unpickled."""
    if Path(path).suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def put_weights(network: torch.nn.Module, weights: dict[str, torch.Tensor], field: str, what: str) -> None:
    """Load the weights that a network names; others in the file are left. ValueError when one is missing or of another shape."""
    for name, own in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if name not in weights or weights[name].shape != own.shape:
            raise ValueError(f"{field}: has no {name} of shape {list(own.shape)}; give the weights of {what}")
    network.load_state_dict(weights, strict=False)
    network.requires_grad_(False).eval()
