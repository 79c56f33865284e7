"""Where models are written: nothing is replaced but what this project wrote, and that is said before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from erase_core.emoji_world.assemble import save_world
from erase_core.files import PlaceError, check_file, writing
from erase_core.models import export
from erase_core.models.origin import Origin, write_origin
from erase_core.models.places import WORLD, check_model_place, check_world_place
from erase_core.models.source import WEIGHTS, ModelSource, find_model
from flows.pretrain import pretrain


def model(folder: Path, base_hash: str = "") -> Path:
    """A diffusers folder without weights; one that this project wrote names its base's hash."""
    (folder / "unet").mkdir(parents=True)
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    write_origin(folder, Origin(base_unet_hash=base_hash, license_files={"LICENSE.md": "Text."}))
    return folder


def refused(out: Path, message: str, source: ModelSource | None = None, delta: Path | None = None) -> None:
    with pytest.raises(PlaceError, match=f"^out: .*{message}"):
        check_model_place(out, source or find_model("emoji-world"), delta)


def test_what_is_no_model_of_ours_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    refused(tmp_path / "notes.txt", "is a file; name a new folder")
    refused(tmp_path / "notes.txt" / "model", "is a file; name a folder that can be made")
    refused(model(tmp_path / "clone"), "holds other files")
    ours = model(tmp_path / "ours", "0123456789abcdef")
    check_model_place(ours, find_model("emoji-world"))
    (ours / ".git").mkdir()
    refused(ours, "holds other files")
    refused(tmp_path, "holds other files")
    refused(tmp_path / "m.ckpt", "would be a pickle")
    refused(tmp_path / ("m" * 300), "cannot write .*name another place")
    (tmp_path / "empty").mkdir()
    for free in (tmp_path / "empty", tmp_path / "new" / "folder", tmp_path / "new.safetensors"):
        check_model_place(free, find_model("emoji-world"))


def test_what_is_read_is_not_replaced(tmp_path: Path) -> None:
    folder, file, delta = model(tmp_path / "base", "0" * 16), tmp_path / "m.safetensors", tmp_path / "delta.safetensors"
    (tmp_path / "link").symlink_to(folder)
    for out, source in (
        (folder, ModelSource("base", folder)),
        (tmp_path / "link", ModelSource("base", folder)),
        (tmp_path / "base" / ".." / "m.safetensors", ModelSource("m", file=file)),
        (delta, ModelSource("base", folder)),
    ):
        refused(out, "is what is read", source, delta)


def test_export_refuses_before_it_loads(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(export, "load_pipeline", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(PlaceError, match="holds other files"):
        export.export(find_model("emoji-world"), model(tmp_path / "clone"))


def test_world_replaces_a_world_alone(tmp_path: Path) -> None:
    check_world_place(WEIGHTS)
    check_world_place(tmp_path / "new")
    for name in WORLD:
        (tmp_path / "world" / name).mkdir(parents=True)
    check_world_place(tmp_path / "world")
    (tmp_path / "world" / "no-taxi").mkdir()
    for started in (
        lambda: check_world_place(tmp_path / "world"),
        lambda: save_world(tmp_path / "world", *[None] * 6),
        lambda: pretrain.fn(str(tmp_path / "world")),
    ):
        with pytest.raises(PlaceError, match="^output: .* holds other files"):
            started()


def test_place_of_a_file(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(PlaceError, match=f"^out: {tmp_path} is a folder; give a file name that ends in .png"):
        check_file("out", tmp_path, ".png")
    check_file("out", tmp_path / "new" / "grid.png", ".png")
    with pytest.raises(PlaceError, match="^out: cannot write .*: Is a directory"), writing("out", tmp_path):
        tmp_path.write_text("")
    monkeypatch.setattr("os.access", lambda place, _: place != tmp_path)
    with pytest.raises(PlaceError, match=f"^out: cannot write to {tmp_path}; choose another folder"):
        check_file("out", tmp_path / "new" / "grid.png", ".png")
