"""Which images a spec asks for, and the role of each concept in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..emoji_world.catalogue import STYLES, concepts, with_article
from ..emoji_world.labels import is_style, labels_of
from ..spec import Spec
from ..spec_concepts import Concept
from .prompt_files import Prompt, are_local, is_local, read_prompts

ERASED, PRESERVED, GENERAL = "erased", "preserved", "general"
STYLE_PROMPT = "a {} in {} style"
WORDS_PER_STYLE = 24
"""A style is scored on this many things drawn in it, spread over the catalogue."""


@dataclass(frozen=True)
class Wanted:
    """An image to make: its prompt and seed, and the concept it should show."""

    prompt: str
    concept: str
    seed: int
    case_number: int | None = None
    """The row's number in a prompt file."""
    guidance_scale: float | None = None
    """The prompt's own guidance, where it is not the spec's."""


class PlanError(ValueError):
    """A spec whose images cannot be judged; the message names the field and the fix."""


def roles(spec: Spec, nearest: list[str]) -> dict[str, str]:
    """Role of every concept that is drawn: erased or preserved, or general for prompts that show none.

    On the emoji world a word erases the concepts it covers ("weapon" covers the bomb, the sword, …) and all others are
    preserved, in catalogue order, so that runs share the original model's images. When a style is erased, the other styles
    are preserved too. An erased concept is spelt as in the spec. Elsewhere the preserved concepts are those given, of which there
    may be none, or else the `nearest` words. Prompt files are drawn as they are: what they show is preserved unless it is erased.
    """
    if spec.generation.prompt_files:
        return roles_in_files(spec)
    erased = spec.concept_words
    if not spec.embedded:
        kept = nearest if spec.scoring.preserved is None else spec.scoring.preserved
        return dict.fromkeys(erased, ERASED) | dict.fromkeys(kept, PRESERVED)
    covered = {label for name in spec.erased_names for label in labels_of(name)}
    every = [c.word for c in concepts()]
    kept = set(every if spec.scoring.preserved is None else spec.scoring.preserved)
    both = sorted(covered & kept) if spec.scoring.preserved is not None else []
    if both:
        raise PlanError(f"concepts: {', '.join(both)} is also to be preserved; take it out of one of the two lists")
    unknown = sorted(kept - set(every))
    if unknown and "erasure" in spec.metrics and not spec.scoring.judge:
        raise PlanError(
            f"scoring.preserved: {', '.join(unknown)} is not a concept that the judge knows; see erase vocab list"
        )
    drawn = [word for word in every if word in covered or word in kept] + unknown
    spelling = {word.casefold(): word for word in erased}
    found = {spelling.get(word.casefold(), word): ERASED if word in covered else PRESERVED for word in drawn}
    gone = {name.casefold() for name in spec.erased_names if is_style(name)}
    styles = {style: ERASED if style in gone else PRESERVED for style in STYLES} if gone else {}
    return found | styles | {word: ERASED for word in erased if word not in found and word.casefold() not in styles}


def prompts_in_files(spec: Spec) -> list[tuple[Prompt, str]]:
    """Every prompt of the spec's files with the concept it shows, spelt as in the spec, or its file's name if it shows none."""
    erased = spec.concept_words
    spelling = {name.casefold(): concept.concept for concept in spec.concepts for name in concept.names}
    found = []
    for i, part in enumerate(spec.generation.prompt_files):
        general = Path(part.file).name.split(".")[0]
        for prompt in read_prompts(part, erased, f"generation.prompt_files.{i}"):
            concept = prompt.concept and spelling.get(prompt.concept.casefold(), prompt.concept)
            found.append((prompt, concept or general))
    return found


def names_in_files(spec: Spec, concept: Concept) -> set[str]:
    """What prompt files may call an erased concept, in casefold: its names, and on the emoji world what they cover."""
    covered = {label for name in concept.names for label in labels_of(name)} if spec.embedded else set()
    return {name.casefold() for name in (*spec.names_of(concept), *covered)}


def roles_in_files(spec: Spec) -> dict[str, str]:
    """Role of every concept that the prompt files show. Raises PlanError for an erased one that none of their prompts shows."""
    of_each = {c.concept: names_in_files(spec, c) for c in spec.concepts}
    gone = set().union(*of_each.values())
    kept = None if spec.scoring.preserved is None else {word.casefold() for word in spec.scoring.preserved}
    found: dict[str, str] = {}
    for prompt, concept in prompts_in_files(spec):
        if prompt.concept is None:
            found[concept] = GENERAL
        elif concept.casefold() in gone:
            found[concept] = ERASED
        elif kept is None or concept.casefold() in kept:
            found[concept] = PRESERVED
    shown = {concept.casefold() for concept, role in found.items() if role != GENERAL}
    unseen = [concept for concept, names in of_each.items() if not names & shown]
    if unseen:
        raise PlanError(
            f"generation.prompt_files: no prompt shows {', '.join(unseen)}; add a file that has some, or give the name that the "
            "files have as its synonym"
        )
    absent = sorted((kept or set()) - {concept.casefold() for concept in found})
    if absent:
        raise PlanError(f"scoring.preserved: no prompt of the files shows {', '.join(absent)}; take it out")
    unknown = sorted(c for c, role in found.items() if role != GENERAL and not (labels_of(c) or is_style(c)))
    if unknown and spec.embedded and "erasure" in spec.metrics and not spec.scoring.judge:
        raise PlanError(
            f"generation.prompt_files: {', '.join(unknown)} is not a concept that the emoji world's judge knows; see erase vocab "
            "list, or name a judge of your own"
        )
    return found


def images_of_files(spec: Spec, role_of: dict[str, str]) -> list[Wanted]:
    """One image for every prompt of the files, those of one guidance scale together; every seed for a prompt without its own."""
    found = [
        Wanted(prompt.prompt, concept, seed, prompt.case_number, prompt.guidance_scale)
        for prompt, concept in prompts_in_files(spec)
        if concept in role_of
        for seed in (spec.generation.seeds if prompt.seed is None else [prompt.seed])
    ]
    return sorted(found, key=lambda w: (w.guidance_scale is not None, w.guidance_scale or 0.0))


def shown(role_of: dict[str, str]) -> list[str]:
    """The concepts that prompts show: every one but the names of general prompts."""
    return [concept for concept, role in role_of.items() if role != GENERAL]


def wanted_images(spec: Spec, role_of: dict[str, str]) -> list[Wanted]:
    """One image for every concept, prompt and seed, or for every row of the prompt files, in a fixed order."""
    if spec.generation.prompt_files:
        return images_of_files(spec, role_of)
    own = {concept.concept.casefold(): concept.prompt_texts for concept in spec.concepts}
    seeds, found = spec.generation.seeds, []
    for concept in role_of:
        prompts = list(own.get(concept.casefold(), []))
        if spec.embedded and is_style(concept):
            found += styled_images(concept, seeds)
        else:
            prompts = [*(with_article(t.replace("{concept}", concept)) for t in spec.generation.prompts), *prompts]
        # An image that is drawn twice says no more than once.
        found += [Wanted(prompt, concept, seed) for prompt in dict.fromkeys(prompts) for seed in seeds]
    return found


def styled_images(style: str, seeds: list[int]) -> list[Wanted]:
    """One image each of things from all over the catalogue in a style, the seeds in turn."""
    every = [c.word for c in concepts()]
    words = every[:: max(1, len(every) // WORDS_PER_STYLE)][:WORDS_PER_STYLE]
    return [
        Wanted(with_article(STYLE_PROMPT.format(word, style)), style, seeds[i % len(seeds)])
        for i, word in enumerate(words)
    ]


def check_roles(spec: Spec) -> None:
    """Raise ValueError for concepts or prompt files that make no images. A hub dataset's file is read when it is there."""
    if are_local(spec.generation.prompt_files):
        roles(spec, [])
    for i, part in enumerate(spec.generation.prompt_files):
        if not is_local(part) and part.concept is None and not part.general and len(spec.concepts) != 1:
            raise PlanError(
                f"generation.prompt_files.{i}.concept: is needed for a hub dataset's file when several concepts are erased; name "
                "what its prompts show, or write general: true"
            )


def check_judged(spec: Spec) -> None:
    """Raise PlanError for erased concepts that the emoji world's judge does not know, a line each."""
    if not spec.embedded or "erasure" not in spec.metrics or spec.scoring.judge:
        return
    unknown = [
        f"concepts.{i}.concept: {concept.concept!r} is not a concept that the emoji world's judge knows; choose one that "
        "erase vocab list shows, or leave erasure out of scoring.metrics"
        for i, concept in enumerate(spec.concepts)
        if not any(labels_of(name) or is_style(name) for name in concept.names)
    ]
    if unknown:
        raise PlanError("\n".join(unknown))
