"""Safetensors out of a pickle, without running what the pickle holds."""

from __future__ import annotations

import pickle
import types
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from ..files import check_file, new_file, writing
from .source import ModelError

REBUILT = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"),
    ("torch", "device"),
}
"""What tensors are made of. Storages are allowed beside them."""


class Inert(dict):
    """Stands for an object of any other class, such as a training framework's own: takes everything and does nothing."""

    def __init__(self, *arguments: object, **options: object):
        super().__init__()

    def __setstate__(self, state: object) -> None:
        pass

    def append(self, item: object) -> None:
        pass

    def extend(self, items: object) -> None:
        pass


class Unpickler(pickle.Unpickler):
    """Makes tensors and plain containers; every other class becomes `Inert`, so that nothing of the file's choice is called."""

    def find_class(self, module: str, name: str) -> type:
        # A name with dots would be looked up through other modules.
        storage = module in ("torch", "torch.storage") and name.isidentifier() and name.endswith("Storage")
        return super().find_class(module, name) if storage or (module, name) in REBUILT else Inert


def convert(source: Path, out: Path) -> int:
    """Write a pickled checkpoint's weights to a .safetensors file and return how many there are.

    Raises ModelError when the file cannot be read or holds no tensors, and PlaceError when `out` cannot be written.
    """
    check_file("out", out, ".safetensors")
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            # torch would hand it to TorchScript, which has code of its own.
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                raise ModelError(f"pickle: {source} is a TorchScript program; give a checkpoint of weights")
    # torch asks for a module that unpickles.
    only_tensors = types.ModuleType("only_tensors")
    only_tensors.Unpickler, only_tensors.load = Unpickler, lambda file, **options: Unpickler(file, **options).load()
    try:
        state = torch.load(source, map_location="cpu", pickle_module=only_tensors, weights_only=False)
    except (
        OSError,
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        raise ModelError(f"pickle: {source} cannot be read as a checkpoint ({error})") from None
    if isinstance(state, dict):
        state = state.get("state_dict", state)
    # Tied weights share their memory, which safetensors does not allow.
    tensors = {name: value.detach().clone().contiguous() for name, value in state_items(state)}
    if not tensors:
        raise ModelError(f"pickle: {source} holds no tensors by name; give a checkpoint of weights")
    with writing("out", out), new_file(out) as partial:
        save_file(tensors, partial, {"format": "pt"})
    return len(tensors)


def state_items(state: object) -> list[tuple[str, torch.Tensor]]:
    """The tensors of a state dict by name."""
    items = state.items() if isinstance(state, dict) else ()
    return [(name, value) for name, value in items if isinstance(name, str) and torch.is_tensor(value)]
