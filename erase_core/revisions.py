"""The commits of the model hub that a run reads: each hub id is resolved once, and is one folder from then on. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from .generation.prompt_files import HUB_FILE, is_local
from .hub import commit_of, snapshot
from .metrics.imagenet_classes import EFFICIENTNET
from .models.source import find_model
from .spec import Spec

SCORER_FILES = ["*.json", "*.txt", "*.safetensors"]
SCORER_UNUSED = ["*/*", "*fp16*", "open_clip*"]
"""What is left where it is when a judge or a CLIP is fetched."""


def hub_scorers(spec: Spec) -> dict[str, str]:
    """The judge and CLIP that are on the model hub, and not on this machine, by the field that names them."""
    named = {"scoring.judge": spec.scoring.judge, "scoring.clip": spec.scoring.clip}
    given = {field: place for field, place in named.items() if place and place != EFFICIENTNET}
    return {field: place for field, place in given.items() if not Path(place).is_dir()}


def scorer_commits(spec: Spec) -> dict[str, str]:
    """The commit of the judge and of the CLIP that are on the hub, by the field that names them. Raises as `hub.fetched`."""
    return {field: commit_of(field, name, "config.json") for field, name in hub_scorers(spec).items()}


def revisions(spec: Spec) -> dict[str, str]:
    """The commit of everything that a spec names on the hub, by the field that names it. Raises as `hub.fetched`."""
    model = {"model": commit_of("model", spec.model, "model_index.json")} if find_model(spec.model).on_hub else {}
    prompts = {
        f"generation.prompt_files.{i}.file": HUB_FILE.fullmatch(part.file)
        for i, part in enumerate(spec.generation.prompt_files)
        if not is_local(part)
    }
    files = {field: commit_of(field, found[1], found[2], "dataset") for field, found in prompts.items()}
    return model | scorer_commits(spec) | files


def located(spec: Spec) -> Spec:
    """The spec with the folders of its judge and its CLIP in place of their hub ids: fetched, or from the cache.

    Raises as `hub.fetched`.
    """
    folders = {
        field.removeprefix("scoring."): str(snapshot(field, name, "config.json", SCORER_FILES, SCORER_UNUSED))
        for field, name in hub_scorers(spec).items()
    }
    return spec.model_copy(update={"scoring": spec.scoring.model_copy(update=folders)}) if folders else spec
