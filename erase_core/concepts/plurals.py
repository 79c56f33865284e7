"""Which words are one name in the singular and the plural."""

from __future__ import annotations

from collections.abc import Iterable


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


def is_one_of(word: str, names: Iterable[str]) -> bool:
    """Whether a word is one of some names, the plural of one, or one's singular; all in lower case."""
    forms = {word, *singulars(word)}
    return any(name in forms or word in singulars(name) for name in names)
