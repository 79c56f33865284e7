"""Specs made from a base spec."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ..concepts.vocabulary import candidates, curate
from ..spec import Spec, make_spec

EVERYDAY = ("car", "apple", "house")
"""Words that `fixed` preserves: the first that is not erased."""


def everyday(erased: Iterable[str], words: Iterable[str] = EVERYDAY) -> str:
    """The first of some words that is not among the erased names."""
    gone = {name.casefold() for name in erased}
    return next(word for word in words if word not in gone)


def parameters_of(method: str, erased: Iterable[str]) -> dict:
    """A method as in a spec, with the parameters that have no default."""
    return {"name": method, **({"words": [everyday(erased)]} if method == "fixed" else {})}


def words_of(base: Spec, source: str) -> list[str]:
    """The words that a run with this vocabulary source has to choose from, before the top-K."""
    # Only these studies need a model's files before their runs.
    from ..models.source import local_model
    from ..preflight import tokenizer_vocabulary

    tokens = local_model(base.model)[0].folder / "tokenizer"
    rows = curate(candidates(source, lambda: tokenizer_vocabulary(tokens)), base.erased_names, base.vocabulary.exclude)
    return [row.word for row in rows if row.kept]


def merged(base: dict, changes: dict) -> dict:
    """`base` with `changes` put over it, part by part."""
    return base | {
        key: merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in changes.items()
    }


def variant(base: Spec, label: str, **changes: object) -> Spec:
    """A run of a study: the base spec with `changes`, without its gate, and an output folder below the base's.

    A change of `method` replaces the method with all its parameters, and its own training defaults apply.
    """
    given = base.model_dump(mode="json", exclude_unset=True, exclude={"gate"})
    label = re.sub(r"[^\w.-]+", " ", label).strip()
    if "method" in changes:
        given.pop("method", None)
    named = {
        "name": f"{base.name} - {label}"[:100],
        "output": str(Path(base.output) / "runs" / label.replace(" ", "-")),
    }
    return make_spec(merged(given, {**changes, **named}))
