"""The studies by name. One file a study: which runs it needs, and what it reads from their results.

A study's module has

- `runs(base)`: label → spec of every run it needs, made from the base spec (see `variant`), which has no attacks;
- `find(outputs)`: `Findings` from the runs' output folders by label.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from ..spec import Spec

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


def runs(name: str, base: Spec) -> dict[str, Spec]:
    """Label → spec of every run that a study needs, made from a base spec; KeyError when there is no study of that name.

    The base's attacks are left out: no study reads what they find, and some do without the judge that they need.
    """
    return load(name).runs(base.model_copy(update={"attacks": None}))
