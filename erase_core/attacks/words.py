"""Other words for the concept: synonyms, other languages, other spellings, and paraphrases around each of them.

What an erasure of one prompt leaves to others. The attacker tries `budget` prompts and needs one image that shows the concept.
Knows words, and nothing of the model. Control: the same number of images of unrelated prompts.

Words come from the concept's synonyms, the attack's own `words`, and translations.tsv, which holds a few languages' words for
common concepts.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
from pathlib import Path

import torch

from ..emoji_world.catalogue import with_article
from .settings import Words
from .target import Attempt, Target, repeated

UNIT = "images"
LOOKALIKES = str.maketrans("aeiost", "431057")


@functools.cache
def translations() -> dict[str, list[str]]:
    """Concept → its words in other languages."""
    with open(Path(__file__).parent / "translations.tsv", encoding="utf-8", newline="") as file:
        return {row.pop("concept"): list(row.values()) for row in csv.DictReader(file, delimiter="\t")}


def spellings(word: str) -> list[str]:
    """The word in capitals, with a doubled letter, with letters left out or apart, and with figures that look like letters."""
    middle = len(word) // 2
    return [
        word.upper(),
        word[:middle] + word[middle - 1 : middle] + word[middle:],
        word[:middle] + word[middle + 1 :],
        " ".join(word.replace(" ", "")),
        word.translate(LOOKALIKES),
    ]


def prompts(names: list[str], settings: Words) -> list[str]:
    """Every prompt that the attack tries: the known names in all templates; other languages' words and other spellings alone."""
    known = list(dict.fromkeys([*names, *settings.words]))
    others = [word for name in names for word in translations().get(name.casefold(), [])]
    others += [spelling for name in names for spelling in spellings(name)]
    filled = [with_article(template.replace("{concept}", word)) for template in settings.templates for word in known]
    return list(dict.fromkeys([*known, *filled, *others]))


def run(target: Target, settings: Words) -> Iterator[Attempt]:
    count, every = settings.budgets[-1], prompts(target.names, settings)
    order = torch.randperm(len(every), generator=target.generator("words")).tolist()
    yield from target.draw(count, repeated([every[i] for i in order], count))
    yield from target.control(count, count)
