"""A home of its own for every test session, and tiny models in the real formats."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from pathlib import Path

# Importing makes many objects and no garbage, and a session imports everything.
gc.set_threshold(100_000, 50, 50)
# Neither the servers that a developer's shell is pointed at, nor those of the session's parent process.
for inherited in [name for name in os.environ if name.startswith(("ERASE_", "MLFLOW_", "PREFECT_"))]:
    del os.environ[inherited]
LONG = {"flows", "infra", "test_notebook.py", "test_training.py", "test_distribution.py", "test_models.py"}
"""Folders and files whose tests take longest."""
HOME = Path(tempfile.mkdtemp(prefix="erase-home-"))
os.environ["ERASE_HOME"] = str(HOME)
os.environ.setdefault("OMP_NUM_THREADS", "2")

from infra.environment import prepare  # noqa: E402 - the home must be chosen first

prepare()

import pytest  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first: no worker shall wait for another at the end."""
    items.sort(key=lambda item: LONG.isdisjoint(item.path.parts))


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def world():
    """The embedded model, loaded once. Tests must not change it."""
    # The session's parent has no use for it, and waits for its own imports before it starts the workers.
    from erase_core.models.pipeline import load_pipeline
    from erase_core.models.source import find_model

    return load_pipeline(find_model("emoji-world"))


@pytest.fixture(scope="session")
def tiny_pipeline():
    """A Stable Diffusion with random weights and other dimensions than the embedded one. Tests must not change it."""
    from tests.tiny import tiny_stable_diffusion

    return tiny_stable_diffusion()


@pytest.fixture(scope="session")
def tiny_folder(tiny_pipeline, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny_pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture
def images_file(tmp_path: Path):
    """Writes a file of images as a run draws them, each of one grey value, for (prompt, concept, seed) each."""
    from tests.tiny import grey_images

    return lambda name, wanted, values: grey_images(tmp_path / f"{name}.parquet", wanted, values)
