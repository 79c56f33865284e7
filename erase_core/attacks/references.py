"""What an attacker has at hand, made by the original model: images of the concept, of near concepts, and of far ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from ..concepts.vocabulary import candidates, curate
from ..emoji_world.catalogue import concepts as world_concepts
from ..emoji_world.catalogue import with_article
from ..files import pictures_in
from ..generation.plan import ERASED, names_in_files, prompts_in_files, wanted_images
from ..generation.sampler import sample, start_noise
from ..metrics.erasure import sees
from ..metrics.nudity import exposed_scores
from ..metrics.scorers import Scorers, scorers_of
from ..models.prompts import encode, encode_pooled
from ..pictures import read_square
from ..randomness import generator
from ..spec import Spec
from ..spec_concepts import Concept
from .target import repeated
from .words import translations

IMAGE, RELATED, UNRELATED = "image", "related", "unrelated"
DRAWN_PER_IMAGE = 4
"""So many images are drawn for each image of the concept that is wanted, before the original is said not to know it."""
EXPOSED_FROM = 0.6
WORDS = 400
"""At most so many words of the vocabulary are compared by their whole embeddings: of more, those that their pooled ones choose."""
WORDS_EACH = 8
PROMPT = "a {}"


class AttackError(ValueError):
    """An attack that cannot be made; the message names the field and the fix."""


def plain_prompts(spec: Spec, concept: Concept) -> list[str]:
    """The prompts that the concept is scored with; a file's in an order of their own, since attacks use the first of many.

    Of a group ("weapon") the files' prompts for what it covers; where they have none, the spec's templates and the concept's own.
    """
    shown = shown_in_files(spec, concept)
    if not shown:
        generation = spec.generation.model_copy(update={"prompt_files": []})
        spec, shown = spec.model_copy(update={"generation": generation}), [concept.concept]
    prompts = list(dict.fromkeys(w.prompt for w in wanted_images(spec, dict.fromkeys(shown, ERASED))))
    if not spec.generation.prompt_files:
        return prompts
    order = torch.randperm(len(prompts), generator=generator(spec.seed, "plain prompts", concept.concept))
    return [prompts[at] for at in order.tolist()]


def shown_in_files(spec: Spec, concept: Concept) -> list[str]:
    """What prompt files say that they show, where it is the concept or something that it covers."""
    names = names_in_files(spec, concept)
    found = [shown for prompt, shown in prompts_in_files(spec) if prompt.concept is not None]
    return [shown for shown in dict.fromkeys(found) if shown.casefold() in names]


def read_pictures(folder: Path, height: int, width: int, most: int) -> np.ndarray:
    """The first images of a folder, in the order of their names, cut to a square and scaled; uint8
    [N, height, width, 3].

    Raises AttackError when there is none, or one cannot be read.
    """
    files = pictures_in(folder)
    if not files:
        raise AttackError(f"attacks.images: {str(folder)!r} holds no PNG, JPEG or WebP; add some images of the concept")
    found = []
    for file in files[:most]:
        try:
            found.append(read_square(file, width, height, Image.Resampling.LANCZOS))
        except OSError:
            raise AttackError(f"attacks.images: {str(file)!r} cannot be read as an image; remove it") from None
    return np.stack(found)


def attack_scorers(spec: Spec) -> Scorers:
    """What sees the concepts in the attacks' images: the spec's judge and its nudity detector, where it has them.

    A zero-shot judge of no given classes chooses among the preserved concepts, or everyday things.
    """
    metrics = [metric for metric in spec.metrics if metric in ("erasure", "nudity")]
    only = spec.model_copy(update={"scoring": spec.scoring.model_copy(update={"metrics": metrics})})
    erased = {name.casefold() for name in spec.erased_names}
    return scorers_of(only, spec.scoring.preserved or [word for word in translations() if word not in erased])


def shows(images: np.ndarray, concept: str, scorers: Scorers) -> tuple[list[str], np.ndarray]:
    """What is seen in each image, and whether it stands for the concept; bool [N].

    That is the judge's likeliest label, or without a judge the nudity detector's likeliest exposed part, which counts from
    EXPOSED_FROM on.
    """
    if scorers.judge_of is None:
        scores = exposed_scores(scorers.nudity.detect(images))
        if scores.empty:
            return [""] * len(images), np.zeros(len(images), dtype=bool)
        return list(scores.idxmax(axis=1)), scores.max(axis=1).to_numpy() >= EXPOSED_FROM
    top, _ = scorers.judge_of(concept).classify(images)
    return [labels[0] for labels in top], sees(top, [scorers.labels_of(concept)] * len(images), 1)


def near_and_far(
    pipeline: DiffusionPipeline, spec: Spec, concept: Concept, scorers: Scorers
) -> tuple[list[str], list[str]]:
    """The words nearest to the concept by text similarity, and the farthest; none that stands for the concept itself.

    Of more than WORDS words those that may be among them are told by pooled embeddings, which are made much faster.
    """
    if spec.embedded:
        words = [c.word for c in world_concepts()]
    else:
        rows = curate(candidates(spec.vocabulary_source, pipeline.tokenizer.get_vocab), spec.never_preserved, [])
        words = [row.word for row in rows if row.kept]
    names = {name.casefold() for name in concept.names}
    words = [word for word in words if word.casefold() not in names]
    if scorers.judge_of is not None:
        own = scorers.labels_of(concept.concept)
        words = [word for word in words if not own & scorers.labels_of(word)]
    if len(words) > WORDS:
        ranked = by_similarity(encode_pooled(pipeline, [concept.concept, *words]), words)
        words = ranked[: WORDS // 2] + ranked[-WORDS // 2 :]
    ranked = by_similarity(encode(pipeline, [concept.concept, *words]).flatten(1), words)
    return ranked[:WORDS_EACH], ranked[::-1][:WORDS_EACH]


def by_similarity(embeddings: torch.Tensor, words: list[str]) -> list[str]:
    """The words, the nearest first, by the cosine of their embeddings [1 + N, d] to the first of these."""
    order = torch.cosine_similarity(embeddings[1:], embeddings[:1]).argsort(descending=True, stable=True)
    return [words[i] for i in order.tolist()]


def references(
    pipeline: DiffusionPipeline,
    spec: Spec,
    concept: Concept,
    scorers: Scorers,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict]:
    """Rows (concept, kind, prompt, image) of the attackers' images of one concept, drawn by the original.

    Images of the concept are those of a folder that the spec names, or those of its prompts in which the judge sees it. Of the
    near and the far concepts' images those in which it sees the concept are left out, and others there in their place. Raises
    AttackError when none are left, and when it sees the concept in none of the folder's.
    """
    part, seed = spec.attacks, spec.seed
    total = 3 * part.references

    def draw(prompts: list[str], kind: str) -> np.ndarray:
        seeds = torch.randint(2**31, (len(prompts),), generator=generator(seed, "references", concept.concept, kind))
        return np.concatenate(list(sample(pipeline, prompts, seeds.tolist(), spec.generation)))

    def rows(kind: str, prompts: list[str], images: np.ndarray) -> list[dict]:
        return [{"concept": concept.concept, "kind": kind, "prompt": p, "image": i} for p, i in zip(prompts, images)]

    found, judge = [], "the judge" if scorers.judge_of is not None else "the nudity detector"
    near, far = near_and_far(pipeline, spec, concept, scorers)
    for kind, words in ((RELATED, near), (UNRELATED, far)):
        prompts = [with_article(PROMPT.format(word)) for word in repeated(words, part.references)]
        images = draw(prompts, kind)
        _, seen = shows(images, concept.concept, scorers)
        without = [row for row, shown in zip(rows(kind, prompts, images), seen) if not shown]
        if not without:
            raise AttackError(
                f"attacks: {judge} sees {concept.concept!r} in all images of the {kind} words {', '.join(words)}; raise "
                "attacks.references, or give another judge as scoring.judge, or other words as vocabulary.source"
            )
        found += repeated(without, part.references)
        progress(len(found), total)
    plain = plain_prompts(spec, concept)
    if folder := spec.picture_folders.get(concept.concept):
        height, width = (pipeline.vae_scale_factor * n for n in start_noise(pipeline, [0]).shape[-2:])
        images = read_pictures(Path(folder), height, width, part.references)
        if not shows(images, concept.concept, scorers)[1].any():
            raise AttackError(
                f"attacks.images: {judge} sees {concept.concept!r} in none of the {len(images)} images in {folder!r}, and would "
                "see it in no attack's; give images that show it as the model draws it, or another judge as scoring.judge"
            )
        return found + rows(IMAGE, repeated(plain, len(images)), images)
    prompts = repeated(plain, part.references)
    kept: list[dict] = []
    for attempt in range(DRAWN_PER_IMAGE):
        images = draw(prompts, f"{IMAGE}-{attempt}")
        _, seen = shows(images, concept.concept, scorers)
        kept += [row for row, good in zip(rows(IMAGE, prompts, images), seen) if good]
        progress(len(found) + min(len(kept), part.references), total)
        if len(kept) >= part.references:
            break
    if not kept:
        raise AttackError(
            f"attacks: {judge} sees {concept.concept!r} in none of {DRAWN_PER_IMAGE * part.references} images of the original "
            "model; give a folder of images as attacks.images, another judge, or prompts that show it"
        )
    return found + kept[: part.references]
