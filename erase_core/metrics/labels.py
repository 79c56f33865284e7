"""Which labels of a classifier stand for a concept."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def names_in(text: str) -> list[str]:
    """The names in a text that holds one or several with commas between ("cab, hack, taxi"), in its order and in NFC."""
    return [name.strip() for name in unicodedata.normalize("NFC", text).split(",") if name.strip()]


def matching_labels(labels: Iterable[str], names: Iterable[str]) -> set[str]:
    """Labels one of whose comma-separated names ("cab, hack, taxi") is one of `names`; case is ignored."""
    wanted = {part.casefold() for name in names for part in names_in(name)}
    return {label for label in labels if wanted & {part.casefold() for part in names_in(label)}}
