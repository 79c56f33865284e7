"""The studies by name. One file a study: which runs it needs, and what it reads from their results.

A study's module has

- `runs(base)`: label → spec of every run it needs, made from the base spec (see `variant`);
- `find(outputs)`: `Findings` from the runs' output folders by label.
"""

from __future__ import annotations

import importlib
from types import ModuleType

NAMES = (
    "sensitivity",
    "spectrum",
    "preserve-what",
    "text-similarity",
    "search-collapse",
    "target-collapse",
    "vocabulary",
    "trade-off",
)


def load(name: str) -> ModuleType:
    """The module of a study; KeyError when there is none of that name."""
    if name not in NAMES:
        raise KeyError(name)
    return importlib.import_module(f"erase_core.studies.{name.replace('-', '_')}")
