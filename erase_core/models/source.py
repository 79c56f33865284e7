"""Where a spec's `model` lives. Needs no torch, so that a wrong model is refused at once."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path

from ..files import digest, file_digest

EMBEDDED = "emoji-world"
WEIGHTS = Path(__file__).parent.parent / "emoji_world" / "weights"


class ModelError(ValueError):
    """A model that cannot be used; the message names the field and the fix."""


@dataclass(frozen=True)
class ModelSource:
    """A model's name and its folder; the folder is None for a hub id, which is resolved when it is loaded."""

    name: str
    folder: Path | None


def find_model(name: str) -> ModelSource:
    """Resolve `emoji-world`, a local diffusers folder, or a hub id; ModelError when it is none of them."""
    if name == EMBEDDED:
        return ModelSource(name, WEIGHTS / "pipeline")
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise ModelError(f"model: {name!r} has no model_index.json; give the folder of a diffusers pipeline")
        kind = json.loads((folder / "model_index.json").read_text(encoding="utf-8")).get("_class_name")
        if kind != "StableDiffusionPipeline":
            raise ModelError(f"model: {name!r} is a {kind}; give a StableDiffusionPipeline")
        pickles = sorted(
            p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix in (".bin", ".ckpt", ".pt", ".pth")
        )
        if pickles and not any(folder.rglob("*.safetensors")):
            raise ModelError(f"model: {name!r} holds pickled weights ({pickles[0]}); convert them to safetensors")
        return ModelSource(name, folder.resolve())
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) and folder.suffix != ".safetensors":
        return ModelSource(name, None)
    raise ModelError(f"model: {name!r} is not emoji-world, a local folder, or a hub id (owner/name); check the path")


def model_hash(folder: Path) -> str:
    """A 16-digit hash of a diffusers folder: every config and every weight of the parts that make images."""
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".safetensors", ".txt") and p.is_file())
    return digest([(p.relative_to(folder).as_posix(), file_digest(p)) for p in files])


@functools.cache
def local_model(name: str) -> tuple[ModelSource, str]:
    """A spec's model as a local folder (a hub model is downloaded) and its hash."""
    source = find_model(name)
    if source.folder is None:
        from .pipeline import resolve_folder

        source = ModelSource(name, resolve_folder(source))
    return source, model_hash(source.folder)
