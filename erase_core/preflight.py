"""Everything that can be wrong with a run, found before anything is loaded or written. Needs no torch."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

from .concepts.vocabulary import candidates, curate, require_top_k
from .generation.plan import check_judged, check_roles
from .models.source import ModelSource, find_model
from .spec import Spec, SpecError

EXTRAS = {"nudity": ("nudity", ("nudenet",))}
"""Metric → the extra that it needs, and the packages in it."""


def check(spec: Spec, several: bool = False) -> ModelSource:
    """Check a spec against the files it names and return its model. SpecError names the field and the fix.

    several: many runs are made from it below its output, each of which is checked by itself.
    """
    try:
        source = find_model(spec.model)
        check_place("scoring.judge", spec.scoring.judge)
        check_place("scoring.clip", spec.scoring.clip)
        check_scorers(spec)
        if not several:
            check_output(Path(spec.output))
        check_judged(spec)
        check_roles(spec)
        check_vocabulary(spec, source)
    except ValueError as error:
        raise SpecError(str(error)) from None
    return source


def check_vocabulary(spec: Spec, source: ModelSource) -> None:
    """The vocabulary can be read and keeps top_k words. A hub model's tokens are not known yet and are checked later."""
    tokens = source.tokenizer
    if spec.vocabulary_source == "clip-tokens" and tokens is None:
        return
    words = candidates(spec.vocabulary_source, lambda: tokenizer_vocabulary(tokens))
    require_top_k(curate(words, spec.erased_names, spec.vocabulary.exclude), spec.vocabulary.top_k)


def tokenizer_vocabulary(folder: Path) -> dict[str, int]:
    """Token → id, read from a tokenizer's folder without loading the tokenizer."""
    if (folder / "tokenizer.json").is_file():
        return json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    if (folder / "vocab.json").is_file():
        return json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    raise ValueError(f"vocabulary.source: clip-tokens needs a tokenizer.json or vocab.json in {folder}")


def check_place(field: str, place: str | None) -> None:
    """A judge or CLIP given as a path must be there; anything shaped owner/name may be a hub id."""
    if place is None or (Path(place) / "config.json").is_file():
        return
    if Path(place).is_absolute() or place.startswith(".") or place.count("/") != 1:
        raise ValueError(f"{field}: {place!r} has no config.json; give a model's folder or hub id")


def check_scorers(spec: Spec) -> None:
    """Metrics that were asked for by name need their packages, judge or CLIP."""
    for metric, (extra, packages) in EXTRAS.items():
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if metric in spec.metrics and missing:
            raise ValueError(
                f"scoring.metrics: {metric} needs the package {', '.join(missing)}; pip install 'erase[{extra}]'"
            )
    if spec.embedded:
        return
    judge, clip = spec.scoring.judge, spec.scoring.clip
    for metric, field, given in (("erasure", "judge", judge), ("clip_score", "clip", clip), ("kid", "clip", clip)):
        if metric in spec.metrics and given is None:
            raise ValueError(f"scoring.{field}: is needed for {metric} on this model; give a folder or a hub id")


def check_output(folder: Path) -> None:
    """The output can be written to and holds nothing that is not a run's."""
    if folder.is_file():
        raise ValueError(f"output: {str(folder)!r} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "summary.json").exists():
        raise ValueError(f"output: {str(folder)!r} holds other files; name a new or an empty folder")
    parent = next(p for p in [folder.absolute(), *folder.absolute().parents] if p.exists())
    if not os.access(parent, os.W_OK):
        raise ValueError(f"output: cannot write to {parent}; choose another folder")
