"""The changed weights alone: what an erasure did to a model, small enough to send."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ..files import new_file

BASE_KEY = "base_unet_hash"


class DeltaError(ValueError):
    """A delta that does not fit the model it is applied to."""


def weights_hash(unet: nn.Module) -> str:
    """A 16-digit hash of a UNet's weights by name, rounded to fp16.

    So every copy of a model has the same hash: its folder, its single file, and either of them in fp32 or fp16.
    """
    found = hashlib.sha256()
    for name, value in sorted(unet.state_dict().items()):
        found.update(f"{name} {list(value.shape)}".encode())
        found.update(value.detach().half().cpu().contiguous().numpy().data)
    return found.hexdigest()[:16]


def save_delta(path: Path, base: nn.Module, weights: dict[str, torch.Tensor], metadata: dict[str, str]) -> int:
    """Save those of the edited `weights` that differ from `base`'s; returns how many (tensors) that is.

    The hash of the base goes with them: the metadata's, or that of `base` as it is.
    """
    original = base.state_dict()
    changed = {
        name: value.detach().contiguous().cpu().clone()
        for name, value in weights.items()
        if not torch.equal(value.to(original[name].device), original[name])
    }
    with new_file(path) as partial:
        known = {} if BASE_KEY in metadata else {BASE_KEY: weights_hash(base)}
        save_file(changed, partial, metadata={**known, **metadata})
    return len(changed)


def apply_delta(unet: nn.Module, path: Path, any_base: bool = False) -> str | None:
    """Put a delta's weights into a UNet, in place; returns the hash of the weights that it was put on, None with any_base.

    Raises DeltaError when the delta names weights the UNet lacks, has other shapes, or, unless any_base is true, was made
    from another base model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            made_from = (file.metadata() or {}).get(BASE_KEY)
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is not a mapping
    except (SafetensorError, OSError) as error:
        raise DeltaError(f"{path} is not a delta: {error}; give a run's delta.safetensors") from None
    own = dict(unet.named_parameters()) | dict(unet.named_buffers())
    wrong = [name for name, value in values.items() if name not in own or own[name].shape != value.shape]
    if wrong:
        raise DeltaError(f"{path} does not fit this UNet ({', '.join(wrong[:3])}); apply it to a copy of its own base")
    base = None if any_base else weights_hash(unet)
    if base is not None and made_from != base:
        raise DeltaError(
            f"{path} was made from a UNet with the hash {made_from or 'unknown'}, this one has {base}; apply it to a copy of its "
            "own base, or to any base with --force"
        )
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)
    return base
