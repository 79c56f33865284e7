"""Erase concepts from text-to-image diffusion models, preserving the concept that the erasure hurts most.

from erase_core import erase, load
erased = erase(load("emoji-world"), concepts=["taxi"])
erased("a taxi").images[0]
"""

from __future__ import annotations

__all__ = ["compare", "erase", "load"]


def __getattr__(name: str):
    # The library's heavy parts are imported on first use: the command line must answer before torch would have loaded.
    if name in __all__:
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
