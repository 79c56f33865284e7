"""The changed weights alone: what an erasure did to a model, small enough to send."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from ..files import new_file


class DeltaError(ValueError):
    """A delta that does not fit the model it is applied to."""


def save_delta(path: Path, base: nn.Module, edited: nn.Module, metadata: dict[str, str]) -> int:
    """Save the edited values of every weight that differs from `base`; returns how many weights (tensors) that is."""
    original = base.state_dict()
    changed = {
        name: value.detach().contiguous().cpu().clone()
        for name, value in edited.state_dict().items()
        if not torch.equal(value, original[name])
    }
    with new_file(path) as partial:
        save_file(changed, partial, metadata=metadata)
    return len(changed)


def apply_delta(unet: nn.Module, path: Path, base_hash: str | None = None) -> None:
    """Put a delta's weights into a UNet, in place.

    Raises DeltaError when the delta names weights the UNet lacks, has other shapes, or was made from another base model.
    """
    with safe_open(path, framework="pt") as file:
        made_from = (file.metadata() or {}).get("base_model_hash")
        if base_hash is not None and made_from not in (None, base_hash):
            raise DeltaError(f"{path} was made from model {made_from}, not from {base_hash}; apply it to its own base")
        values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is not a mapping
    own = dict(unet.named_parameters()) | dict(unet.named_buffers())
    wrong = [name for name, value in values.items() if name not in own or own[name].shape != value.shape]
    if wrong:
        raise DeltaError(f"{path} does not fit this UNet: {', '.join(wrong[:3])}")
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)
