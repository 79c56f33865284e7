"""What serves a registered model: where it draws, and from which seeds."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from erase_core.files import read_json, write_json
from tasks import registered_model
from tasks.registered_model import TextToImage


@pytest.fixture(scope="module")
def served(tiny_folder: Path) -> TextToImage:
    model = TextToImage()
    model.load_context(SimpleNamespace(artifacts={"pipeline": str(tiny_folder)}))
    return model


def test_a_row_without_a_seed_has_another_image_each_time(served: TextToImage) -> None:
    frame = pd.DataFrame({"prompt": ["a bus"] * 3, "seed": [7, None, 7]})
    first, second = (served.predict(None, frame)["png"].tolist() for _ in range(2))
    assert first[0] == second[0] == first[2] and len({*first, *second}) == 3
    unseeded = frame.drop(columns="seed")[:1]
    assert len({served.predict(None, unseeded)["png"][0] for _ in range(2)}) == 2


def test_requests_at_once_draw_one_image_at_a_time(tiny_folder: Path, tmp_path: Path) -> None:
    """Stock SD 1.x's scheduler remembers what it has predicted."""
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    write_json(
        folder / "scheduler" / "scheduler_config.json",
        {**config, "_class_name": "PNDMScheduler", "skip_prk_steps": True},
    )
    index = read_json(folder / "model_index.json")
    write_json(folder / "model_index.json", {**index, "scheduler": ["diffusers", "PNDMScheduler"]})
    model = TextToImage()
    model.load_context(SimpleNamespace(artifacts={"pipeline": str(folder)}))
    frames = [pd.DataFrame({"prompt": ["a bus", "a taxi"], "seed": [seed, seed]}) for seed in range(3)]
    alone = [model.predict(None, frame)["png"].tolist() for frame in frames]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda frame: model.predict(None, frame)["png"].tolist(), frames))
    assert together == alone


@pytest.mark.parametrize("seed", [1.5, "one", float("inf")])
def test_a_seed_is_a_whole_number(served: TextToImage, seed: object) -> None:
    with pytest.raises(ValueError, match=f"seed: {seed!r} is no whole number"):
        served.predict(None, pd.DataFrame({"prompt": ["a bus"], "seed": [seed]}))


@pytest.mark.parametrize(("there", "place"), [(True, ("cuda", torch.float16)), (False, ("cpu", torch.float32))])
def test_it_draws_in_half_precision_on_a_gpu(there: bool, place: tuple, monkeypatch) -> None:
    class Pipelines:
        @staticmethod
        def from_pretrained(folder: str, dtype: torch.dtype, **options: object) -> SimpleNamespace:
            return SimpleNamespace(to=lambda device: (device, dtype))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(registered_model, "DiffusionPipeline", Pipelines)
    model = TextToImage()
    model.load_context(SimpleNamespace(artifacts={"pipeline": "-"}))
    assert model.pipeline == place
