"""Which images a spec asks for, and the role of each concept in them."""

from __future__ import annotations

from dataclasses import dataclass

from ..emoji_world.catalogue import STYLES, concepts, with_article
from ..emoji_world.labels import is_style, labels_of
from ..spec import Spec

ERASED, PRESERVED = "erased", "preserved"
STYLE_PROMPT = "a {} in {} style"
WORDS_PER_STYLE = 24
"""A style is scored on this many things drawn in it, spread over the catalogue."""


@dataclass(frozen=True)
class Wanted:
    """An image to make: its prompt and seed, and the concept it should show."""

    prompt: str
    concept: str
    seed: int


class PlanError(ValueError):
    """A spec whose images cannot be judged; the message names the field and the fix."""


def roles(spec: Spec, nearest: list[str]) -> dict[str, str]:
    """Role of every concept that is drawn: erased or preserved.

    On the emoji world a word erases the concepts it covers ("weapon" covers the bomb, the sword, …) and all others are
    preserved, in catalogue order, so that runs share the original model's images. When a style is erased, the other styles
    are preserved too. Elsewhere the preserved concepts are those given, or the `nearest` words.
    """
    erased = [concept.concept for concept in spec.concepts]
    if not spec.embedded:
        kept = spec.scoring.preserved or nearest
        return dict.fromkeys(erased, ERASED) | dict.fromkeys(kept, PRESERVED)
    covered = {label for name in spec.erased_names for label in labels_of(name)}
    every = [c.word for c in concepts()]
    kept = set(every if spec.scoring.preserved is None else spec.scoring.preserved)
    both = sorted(covered & kept) if spec.scoring.preserved is not None else []
    if both:
        raise PlanError(f"concepts: {', '.join(both)} is also to be preserved; take it out of one of the two lists")
    unknown = sorted(kept - set(every))
    if unknown and "erasure" in spec.metrics:
        raise PlanError(
            f"scoring.preserved: {', '.join(unknown)} is not a concept that the judge knows; see erase vocab list"
        )
    drawn = [word for word in every if word in covered or word in kept] + unknown
    found = {word: ERASED if word in covered else PRESERVED for word in drawn}
    gone = {name.casefold() for name in spec.erased_names if is_style(name)}
    styles = {style: ERASED if style in gone else PRESERVED for style in STYLES} if gone else {}
    return found | styles | {word: ERASED for word in erased if word not in found and word.casefold() not in styles}


def wanted_images(spec: Spec, role_of: dict[str, str]) -> list[Wanted]:
    """One image for every concept, prompt and seed, in a fixed order."""
    own = {concept.concept.casefold(): concept.prompts for concept in spec.concepts}
    seeds, found = spec.generation.seeds, []
    for concept in role_of:
        prompts = list(own.get(concept.casefold(), []))
        if spec.embedded and is_style(concept):
            found += styled_images(concept, seeds)
        else:
            prompts = [*(with_article(t.replace("{concept}", concept)) for t in spec.generation.prompts), *prompts]
        found += [Wanted(prompt, concept, seed) for prompt in prompts for seed in seeds]
    return found


def styled_images(style: str, seeds: list[int]) -> list[Wanted]:
    """One image each of things from all over the catalogue in a style, the seeds in turn."""
    every = [c.word for c in concepts()]
    words = every[:: max(1, len(every) // WORDS_PER_STYLE)][:WORDS_PER_STYLE]
    return [
        Wanted(with_article(STYLE_PROMPT.format(word, style)), style, seeds[i % len(seeds)])
        for i, word in enumerate(words)
    ]


def check_judged(spec: Spec) -> None:
    """Raise PlanError for an erased concept that the emoji world's judge does not know."""
    if not spec.embedded or "erasure" not in spec.metrics or spec.scoring.judge:
        return
    for i, concept in enumerate(spec.concepts):
        if not any(labels_of(name) or is_style(name) for name in concept.names):
            raise PlanError(
                f"concepts.{i}.concept: {concept.concept!r} is not a concept that the emoji world's judge knows; choose one that "
                "erase vocab list shows, or leave erasure out of scoring.metrics"
            )
