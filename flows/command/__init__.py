"""The `erase` command. Heavy libraries are imported by the commands that need them, so that help and errors are instant."""

import importlib

from .app import app, main

__all__ = ["app", "main"]

# In the order of the help.
for name in (
    "runs",
    "plan",
    "attack",
    "scoring",
    "registered",
    "model_files",
    "servers",
    "schema",
    "vocabulary",
    "cleaning",
):
    importlib.import_module(f".{name}", __name__)
