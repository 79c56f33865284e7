"""Where a model may be written, so that nothing is replaced but what this project wrote. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from ..files import PlaceError, check_file, check_folder, read_json
from .origin import CARD, is_licence, read_card
from .source import PICKLES, ModelSource

INDEX = "model_index.json"
WORLD = {"pipeline", "clip", "concept_judge", "style_judge"}
"""The folders of an emoji world."""
WORLD_PAGES = {CARD, "contact-sheet.png", "quality.json"}


def check_model_place(out: Path, source: ModelSource, delta: Path | None = None) -> None:
    """Raise PlaceError when what is made of a model, and a delta, cannot be written to `out`.

    `out` is a file when it ends in .safetensors, else a folder. A folder is replaced only when this project wrote it.
    """
    if out.suffix in PICKLES:
        raise PlaceError(f"out: {out} would be a pickle; name a folder or a .safetensors file")
    if out.resolve() in [read.resolve() for read in (source.folder, source.file, delta) if read is not None]:
        raise PlaceError(f"out: {out} is what is read, and would be replaced; name another place")
    if out.suffix == ".safetensors":
        check_file("out", out, ".safetensors")
    else:
        check_folder("out", out, wrote_model)


def check_world_place(output: Path) -> None:
    """Raise PlaceError when an emoji world cannot be written to `output`. A folder is replaced only when it is a world."""
    check_folder("output", output, is_world)


def wrote_model(folder: Path) -> bool:
    """Whether this project wrote all of a diffusers folder: its card names a base, and there is nothing beside the parts."""
    try:
        index = read_json(folder / INDEX)
    except (OSError, ValueError):
        return False
    if not isinstance(index, dict) or not read_card(folder / CARD).base_unet_hash:
        return False
    return all(path.name in {INDEX, CARD, *index} or is_licence(path.name) for path in folder.iterdir())


def is_world(folder: Path) -> bool:
    """Whether a folder holds an emoji world and nothing else. One that was broken off while it was measured has no pages yet."""
    names = {path.name for path in folder.iterdir() if not (path.name[0] == "." and path.suffix == ".partial")}
    return WORLD <= names <= WORLD | WORLD_PAGES
