"""Which words are one name in the singular and the plural."""

from __future__ import annotations

import functools


def singulars(word: str) -> list[str]:
    """What a word may be the plural of, by the regular rules of English spelling."""
    found = []
    if word.endswith("ies") and len(word) > 4:
        found.append(word[:-3] + "y")
    if word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        found.append(word[:-2])
    if word.endswith("ves") and len(word) > 4:
        found += [word[:-3] + "f", word[:-3] + "fe"]
    if word.endswith("s") and not word.endswith("ss") and len(word) > 3:
        found.append(word[:-1])
    return found


@functools.lru_cache
def with_singulars(names: frozenset[str]) -> frozenset[str]:
    """Some names, and what they may be plurals of."""
    return names.union(*map(singulars, names))


def is_one_of(word: str, names: frozenset[str]) -> bool:
    """Whether a word is one of some names, the plural of one, or one's singular; all in lower case."""
    return word in with_singulars(names) or not names.isdisjoint(singulars(word))
