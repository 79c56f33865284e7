"""Which of the judges' classes a word stands for."""

from __future__ import annotations

from .catalogue import STYLES, concepts, words


def labels_of(word: str) -> set[str]:
    """The concepts that a word names: itself, the members of a group ("weapon"), or all that carry a tag ("canine").

    Case is ignored. Empty for a word that names none.
    """
    folded = word.casefold()
    exact = {c.word for c in concepts() if c.word.casefold() == folded}
    if exact:
        return exact
    return {c.word for c in concepts() if folded == c.group or folded in c.tags}


def members_of(word: str) -> list[str]:
    """What a superordinate word ("weapon", "canine") takes with it: the concepts it covers, and the names that only they have.

    Empty for a word that covers one concept, or none.
    """
    covered = labels_of(word)
    return [w for w in words() if labels_of(w) and labels_of(w) <= covered] if len(covered) > 1 else []


def is_style(word: str) -> bool:
    """Whether a word names one of the styles, which the style judge knows."""
    return word.casefold() in STYLES
