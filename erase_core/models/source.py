"""Where a spec's `model` lives. Needs no torch, so that a wrong model is refused at once."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..files import digest, file_digest

EMBEDDED = "emoji-world"
WEIGHTS = Path(__file__).parent.parent / "emoji_world" / "weights"
PARTS = {
    "StableDiffusionPipeline": ("unet", "vae", "text_encoder"),
    "StableDiffusionXLPipeline": ("unet", "vae", "text_encoder", "text_encoder_2"),
}
"""The pipelines that can be erased from, and the parts of each that have weights."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(?:@\w[\w.+-]*(?:/\w[\w.+-]*)*)?")
"""owner/name, and a branch, a tag or a commit after an @."""
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
HALF = re.compile(r"\.(fp16|bf16)\b")
"""In the name of a file that holds weights in half precision."""
SHARD = re.compile(r"-\d+-of-\d+$")
"""How the name of one of several files of a part ends."""


class ModelError(ValueError):
    """A model that cannot be used; the message names the field and the fix."""


@dataclass(frozen=True)
class ModelSource:
    """A model's name, and its diffusers folder or its single file; a hub id has neither until it is loaded."""

    name: str
    folder: Path | None = None
    file: Path | None = None

    @property
    def on_hub(self) -> bool:
        return self.folder is None and self.file is None

    @property
    def tokenizer(self) -> Path | None:
        """The folder of its tokenizer; None for a hub id. Single files hold none: all these models share CLIP's."""
        if self.folder is not None:
            return self.folder / "tokenizer"
        return WEIGHTS / "pipeline" / "tokenizer" if self.file is not None else None


def find_model(name: str) -> ModelSource:
    """Resolve `emoji-world`, a local diffusers folder, a single .safetensors file, or a hub id; ModelError for all else."""
    if name == EMBEDDED:
        return ModelSource(name, WEIGHTS / "pipeline")
    try:
        place = Path(name).expanduser()
        is_folder, is_file = place.is_dir(), place.is_file()
    except (OSError, RuntimeError) as error:
        told = getattr(error, "strerror", None) or error
        raise ModelError(f"model: {name!r} cannot be looked up ({told}); check the path") from None
    if is_folder:
        check_folder(name, place)
        return ModelSource(name, place.resolve())
    if place.suffix in PICKLES:
        raise ModelError(f"model: {name!r} is a pickle, which can run code when it is read; {conversion(place)}")
    if is_file:
        from .checkpoint_layout import check_checkpoint

        check_checkpoint(name, place)
        return ModelSource(name, file=place.resolve())
    if HUB_ID.fullmatch(name) and place.suffix != ".safetensors":
        return ModelSource(name)
    raise ModelError(
        f"model: {name!r} is not emoji-world, a local folder, a .safetensors file, or a hub id (owner/name or "
        "owner/name@revision); check the path"
    )


def check_folder(name: str, folder: Path) -> str:
    """The pipeline class of a diffusers folder. ModelError when it is none that can be used, or lacks safetensors."""
    kind = pipeline_class(name, folder)
    for part in PARTS[kind]:
        weights = [path.name for path in (folder / part).glob("*.safetensors")]
        if variant_of(folder) is None and weights and all(HALF.search(name) for name in weights):
            raise ModelError(
                f"model: {name!r} has {part}/ in half precision alone ({weights[0]}) and unet/ not; give a folder of one"
                " precision"
            )
        if weights:
            continue
        pickles = sorted(p for p in (folder / part).glob("*") if p.suffix in PICKLES)
        if pickles:
            raise ModelError(
                f"model: {name!r} holds pickled weights ({part}/{pickles[0].name}), which can run code when they are read; "
                f"{conversion(pickles[0])}"
            )
        raise ModelError(f"model: {name!r} has no safetensors in {part}/; give a whole diffusers folder")
    return kind


def pipeline_class(name: str, folder: Path) -> str:
    """The pipeline class in a folder's model_index.json. ModelError when it cannot be read or is none of `PARTS`."""
    if not (folder / "model_index.json").is_file():
        raise ModelError(f"model: {name!r} has no model_index.json; give the folder of a diffusers pipeline")
    try:
        kind = json.loads((folder / "model_index.json").read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError):
        raise ModelError(
            f"model: the model_index.json of {name!r} is not a JSON object; give a whole diffusers folder"
        ) from None
    if not isinstance(kind, str) or kind not in PARTS:
        raise ModelError(f"model: {name!r} is a {kind}; give a {' or a '.join(PARTS)}")
    return kind


def conversion(pickle: Path) -> str:
    """How to make safetensors of a pickle, for an error's message."""
    if SHARD.search(pickle.stem):
        return "it is one of several parts; load it once where you trust it, and save it with safe_serialization=True"
    # The libraries look for a part's weights under these names.
    name = re.sub(r"^pytorch_model\b", "model", pickle.stem)
    return f"convert it once: erase convert {shlex.quote(str(pickle))} {shlex.quote(str(pickle.with_name(name)))}.safetensors"


def variant_of(folder: Path) -> str | None:
    """The file name variant of a folder that holds its weights in half precision only."""
    found = [HALF.search(p.name) for p in (folder / "unet").glob("*.safetensors")]
    return found[0][1] if found and all(found) else None


def model_hash(folder: Path) -> str:
    """A 16-digit hash of a diffusers folder: every config and every weight that is loaded of the parts that make images.

    What else lies there, such as a safety checker or another precision's weights, changes nothing: the hub's cache is shared with
    other programs.
    """
    unused = [pattern for pattern in ("fp16", "non_ema", "openvino") if pattern != variant_of(folder)]
    parts = {part for of in PARTS.values() for part in of} | {"tokenizer", "tokenizer_2", "scheduler"}

    def is_loaded(path: Path) -> bool:
        top, *below = path.relative_to(folder).parts
        return (top in parts if below else top == "model_index.json") and not any(p in path.name for p in unused)

    return folder_hash(folder, is_loaded)


def folder_hash(folder: Path, counts: Callable[[Path], bool] = lambda path: True) -> str:
    """A 16-digit hash of the configs and weights in a folder that count."""
    files = sorted(p for p in model_files(folder) if p.suffix in (".json", ".safetensors", ".txt"))
    return digest([(p.relative_to(folder).as_posix(), file_digest(p)) for p in files if counts(p)])


def model_files(folder: Path) -> list[Path]:
    """Every file below a model's folder, of which a part may be a link to another model's."""
    every = (Path(place, name) for place, _, names in os.walk(folder, followlinks=True) for name in names)
    return [path for path in every if path.is_file()]


def source_in(name: str, folder: Path) -> ModelSource:
    """A model by the folder that another process found it in, on any machine. ModelError where there is no such folder."""
    if not folder.is_dir():
        raise ModelError(
            f"model: {name!r} was found in {folder}, which is not on this machine; keep ERASE_HOME, the hub's cache (HF_HOME) and "
            "model folders where all machines see them"
        )
    return ModelSource(name, folder)


@functools.cache
def local_source(name: str) -> ModelSource:
    """A spec's model as a local folder; a hub model is downloaded, a single file converted.

    It stays the same folder as long as this process lives: other processes are given it, and ask no hub.
    """
    source = find_model(name)
    if source.folder is None:
        from .pipeline import resolve_folder

        source = ModelSource(name, resolve_folder(source))
    return source


@functools.cache
def local_model(name: str) -> tuple[ModelSource, str]:
    """As `local_source`, and the model's hash, for which all of it is read."""
    source = local_source(name)
    return source, model_hash(source.folder)
