"""Specs made from a base spec."""

from __future__ import annotations

from pathlib import Path

from ..spec import Spec, make_spec

GIVEN = {"fixed": {"words": ["car"]}}
"""Parameters of the methods that have no default for them: one everyday word, the same whatever is erased."""


def merged(base: dict, changes: dict) -> dict:
    """`base` with `changes` put over it, part by part."""
    return base | {
        key: merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in changes.items()
    }


def variant(base: Spec, label: str, **changes: object) -> Spec:
    """A run of a study: the base spec with `changes`, and an output folder below the base's.

    A change of `method` replaces the method with all its parameters, and its own training defaults apply.
    """
    given = base.model_dump(mode="json", exclude_unset=True)
    if "method" in changes:
        given.pop("method", None)
    named = {
        "name": f"{base.name} - {label}"[:100],
        "output": str(Path(base.output) / "runs" / label.replace(" ", "-")),
    }
    return make_spec(merged(given, {**changes, **named}))
