"""The concepts, groups and styles of the emoji world, and the captions that describe them."""

from __future__ import annotations

import csv
import functools
import random
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

STYLES = {
    "noto": "noto",
    "twemoji": "twemoji",
    "fluent": "fluent-emoji-flat",
    "emojione": "emojione",
}
"""Style word used in captions → name of the icon set it is rendered from."""

TEMPLATES = ("{}", "a {}", "a {}", "a photo of a {}", "a picture of a {}", "a drawing of a {}")
STYLE_TEMPLATES = ("a {} in {} style", "a {} in {} style", "a {1} style {0}", "{} in {} style")


@dataclass(frozen=True)
class Concept:
    """One thing the world can draw: its word, its emoji's name, its group and its other names."""

    word: str
    emoji: str
    group: str
    tags: tuple[str, ...]


@functools.cache
def concepts() -> tuple[Concept, ...]:
    """All concepts in catalogue order; a concept's index is its class in the concept judge."""
    with open(HERE / "concepts.tsv", encoding="utf-8", newline="") as file:
        return tuple(
            Concept(row["concept"], row["emoji"], row["group"], tuple(t.strip() for t in row["tags"].split(",")))
            for row in csv.DictReader(file, delimiter="\t")
        )


def groups() -> dict[str, list[str]]:
    """Superordinate word → the concepts it covers."""
    members: dict[str, list[str]] = {}
    for concept in concepts():
        members.setdefault(concept.group, []).append(concept.word)
    return members


def words() -> list[str]:
    """Every word the model was taught: names, groups, tags and styles, without repeats."""
    found = [c.word for c in concepts()] + list(groups()) + [t for c in concepts() for t in c.tags] + list(STYLES)
    return list(dict.fromkeys(found))


def with_article(prompt: str) -> str:
    """Turn "a apple" into "an apple" wherever an article precedes a vowel."""
    tokens = prompt.split(" ")
    for i, (token, following) in enumerate(zip(tokens, tokens[1:])):
        if token == "a" and following.startswith(tuple("aeiou")):
            tokens[i] = "an"
    return " ".join(tokens)


def caption(concept: Concept, style: str, rng: random.Random) -> str:
    """Draw one caption: mostly the name with its style, else the name, its group, or one of its other names."""
    kind = rng.random()
    if kind < 0.70:
        text = rng.choice(STYLE_TEMPLATES).format(concept.word, style)
    elif kind < 0.88:
        text = rng.choice(TEMPLATES).format(concept.word)
    elif kind < 0.92:
        text = rng.choice((f"a {concept.word}, {concept.group}", f"a {concept.word}, {rng.choice(concept.tags)}"))
    elif kind < 0.96:
        text = rng.choice(TEMPLATES).format(rng.choice((concept.group, *concept.tags)))
    else:
        text = rng.choice(STYLE_TEMPLATES).format(rng.choice((concept.group, *concept.tags)), style)
    return with_article(text)
