"""Paths in a spec: the user's home in them, and which field an error of the system is about."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

if TYPE_CHECKING:
    from .spec import Spec


def expand(path: str) -> str:
    """A path that begins with ~ or ~user with that home in its place; any other exactly as it is given."""
    found = os.path.expanduser(path)
    if path.startswith("~") and found == path:
        raise ValueError(f"{path!r} begins with the home of nobody here; write the whole path")
    return found


UserPath = Annotated[str, AfterValidator(expand)]


def named_paths(spec: Spec) -> Iterator[tuple[str, str]]:
    """Each field of a spec that may hold a path, and what it holds."""
    part = spec.scoring
    yield "model", os.path.expanduser(spec.model)
    yield "output", spec.output
    named = {
        "vocabulary.source": spec.vocabulary.source,
        **{
            f"scoring.{name}": getattr(part, name)
            for name in ("judge", "clip", "features", "lpips_backbone", "reference")
        },
        "attacks.images": spec.attacks and spec.attacks.images,
        "training.hostfile": spec.training.hostfile,
        **{f"generation.prompt_files.{i}.file": p.file for i, p in enumerate(spec.generation.prompt_files)},
    }
    yield from ((field, place) for field, place in named.items() if place)


def unreachable(spec: Spec, error: OSError) -> str:
    """An error of the system on a spec's files as "field: what; fix". The field is the one whose path lies nearest."""
    if error.filename is None:
        return str(error)
    place = os.path.abspath(str(error.filename))
    shared = {field: len(os.path.commonpath([place, os.path.abspath(path)])) for field, path in named_paths(spec)}
    field = max(shared, key=shared.get)
    return f"{field}: cannot read {str(error.filename)!r}: {error.strerror}; check its name and its permissions"
