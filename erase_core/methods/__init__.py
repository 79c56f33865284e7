"""The methods by name. One file a method: its parameters, and its losses beside their equations.

A method's module has

- `Settings`: its parameters, a pydantic model;
- `PRESERVES`: how the preserved concept is chosen, one of `erase_core.search.choosers`, or None;
- `erasing_loss(edited, frozen, settings, distance)`;
- `preservation_loss(edited, frozen, settings, distance)` where PRESERVES is not None.

`edited` and `frozen` hold the noise predictions of θ' and θ (see `erase_core.training.predictions.Predictions`).
"""

from __future__ import annotations

import importlib
from types import ModuleType

MODULES = {
    "adversarial": "erase_core.methods.adversarial",
    "naive": "erase_core.methods.naive",
    "neutral": "erase_core.methods.neutral",
    "fixed": "erase_core.methods.fixed",
    "random": "erase_core.methods.random",
    "nearest": "erase_core.methods.nearest",
}


def names() -> list[str]:
    """The names a spec's `method` may have."""
    return list(MODULES)


def load(name: str) -> ModuleType:
    """The module of a method; KeyError when there is none of that name."""
    return importlib.import_module(MODULES[name])


def register(name: str, module: str) -> None:
    """Add a method from outside: its name, and the dotted name of its module."""
    MODULES[name] = module
