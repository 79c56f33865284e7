"""Specs made from a base spec."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from .. import methods
from ..concepts.vocabulary import candidates, curate
from ..files import digest
from ..spec import Spec, make_spec
from ..spec_errors import SpecError

EVERYDAY = ("car", "apple", "house")
"""Words that `fixed` preserves: the first that is not erased."""

NOT_SOLVED = ("trainable", "processes", "hostfile")
"""What of a spec's training a method does not take that solves for the weights."""


def everyday(erased: Iterable[str], words: Iterable[str] = EVERYDAY) -> str:
    """The first of some words that is not among the erased names; where all are, the most frequent English word that is not."""
    gone = {name.casefold() for name in erased}
    for word in words:
        if word not in gone:
            return word
    return next(row.word for row in curate(candidates("english-3000"), gone, ()) if row.kept)


def needs(method: str) -> set[str]:
    """The parameters of a method that have no default."""
    return {name for name, field in methods.settings_of(method).model_fields.items() if field.is_required()}


def comparable() -> list[str]:
    """The methods that a comparison of all can run: those that need nothing said but which words to preserve."""
    return [name for name in methods.names() if needs(name) <= {"words"}]


def parameters_of(method: str, erased: Iterable[str]) -> dict:
    """A method as in a spec, with an everyday word to preserve where it must be given words."""
    return {"name": method, **({"words": [everyday(erased)]} if "words" in needs(method) else {})}


def words_of(base: Spec, source: str) -> list[str]:
    """The words that a run with this vocabulary source has to choose from, before the top-K."""
    # Only these studies need a model's files before their runs.
    from ..models.source import local_model
    from ..preflight import tokenizer_vocabulary

    tokens = local_model(base.model)[0].folder / "tokenizer"
    rows = curate(
        candidates(source, lambda: tokenizer_vocabulary(tokens)), base.never_preserved, base.vocabulary.exclude
    )
    return [row.word for row in rows if row.kept]


def judged(base: Spec) -> dict:
    """The scoring part of a run whose ESR and PSR a study reads; the spec's check then asks for a judge before anything is run."""
    return {"metrics": list(dict.fromkeys([*base.metrics, "erasure"]))}


def encoded_whole(base: Spec) -> dict:
    """The vocabulary part of a run whose study reads the embeddings of all words, not of the top-K alone."""
    return {"similarity": "cosine"} if base.vocabulary.pooled else {}


def require_preserved(base: Spec, least: int = 1) -> None:
    """Raise SpecError where fewer concepts are preserved, for a study that tells of their images."""
    if base.scoring.preserved is not None and (given := len(base.scoring.preserved)) < least:
        raise SpecError(
            f"scoring.preserved: has {given}, and this study is of {least} or more; name others, or leave it out"
        )


def merged(base: dict, changes: dict) -> dict:
    """`base` with `changes` put over it, part by part."""
    return base | {
        key: merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in changes.items()
    }


def name_of(method: str | dict) -> str:
    """The name of a method as in a spec."""
    return method if isinstance(method, str) else method["name"]


def variant(base: Spec, label: str, **changes: object) -> Spec:
    """A run of a study: the base spec with `changes`, without its gate, and an output folder below the base's.

    A change of `method` replaces the method with all its parameters, and its own training defaults apply; a method that solves for
    the weights is not told which to train, nor by how many ranks. With other concepts, those of them that the base hides are
    hidden, and none of them is preserved; with these or other prompts, the base's prompt files, which show its own, are not drawn.
    """
    given = base.model_dump(mode="json", exclude_unset=True, exclude={"gate"})
    # A name has no other letters; of a word in other ones little may be left.
    other = "" if label.isascii() else f" {digest(label)[:6]}"
    label = (re.sub(r"[^A-Za-z0-9._-]+", " ", label).strip() + other).strip()
    if "method" in changes:
        given.pop("method", None)
        if methods.solves(methods.load(name_of(changes["method"]))):
            given["training"] = {k: v for k, v in given.get("training", {}).items() if k not in NOT_SOLVED}
    if "concepts" in changes:
        erased = {n.casefold() for c in changes["concepts"] for n in [c["concept"], *c.get("synonyms", [])]}
        for part, name, stay in (("report", "unsafe", True), ("scoring", "preserved", False)):
            if words := given.get(part, {}).get(name):
                given[part][name] = [word for word in words if (word.casefold() in erased) is stay] or None
    if "concepts" in changes or "prompts" in changes.get("generation", {}):
        given.get("generation", {}).pop("prompt_files", None)
    named = {
        "name": f"{base.name} - {label}"[:100],
        "output": str(Path(base.output) / "runs" / label.replace(" ", "-")),
    }
    return make_spec(merged(given, {**changes, **named}))
