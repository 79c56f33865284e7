"""Which of the judges' classes a word stands for."""

from __future__ import annotations

from .catalogue import STYLES, concepts


def labels_of(word: str) -> set[str]:
    """The concepts that a word names: itself, the members of a group ("weapon"), or all that carry a tag ("canine").

    Case is ignored. Empty for a word that names none.
    """
    folded = word.casefold()
    exact = {c.word for c in concepts() if c.word.casefold() == folded}
    if exact:
        return exact
    return {c.word for c in concepts() if folded == c.group or folded in c.tags}


def is_style(word: str) -> bool:
    """Whether a word names one of the styles, which the style judge knows."""
    return word.casefold() in STYLES
