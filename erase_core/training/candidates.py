"""What the training loop is given: the concepts to erase with their candidates for preservation, and the conditions."""

from __future__ import annotations

from diffusers import DiffusionPipeline
from transformers import PreTrainedTokenizerBase

from .. import methods
from ..concepts.embeddings import EmbeddingTable
from ..concepts.neighbours import Neighbour
from ..models.conditions import layout_of
from ..models.prompts import encode, tokens_read
from ..search.choice import Choice
from ..search.rows import rows_of
from ..spec import Spec
from ..spec_concepts import Concept
from .step import Conditions, ErasedConcept


def conditions_of(spec: Spec, pipeline: DiffusionPipeline) -> Conditions:
    """The embeddings of "" and of the concept that the method leads to: its neutral concept, or a closed form's destination."""
    text, as_text = neutral_text(spec)
    (unconditional,) = encode(pipeline, [""])
    (neutral,) = encode(pipeline, [text], empty_as_text=as_text)
    return Conditions(unconditional, neutral, layout_of(pipeline))


def neutral_text(spec: Spec) -> tuple[str, bool]:
    """What the method leads to, and whether "" is encoded as a text.

    A closed form leads tokens to those of a text: to zeros it would lose what every prompt begins with.
    """
    settings = spec.method.settings
    closed = hasattr(settings, "destination")
    return settings.destination if closed else getattr(settings, "neutral", ""), closed


def given_words(spec: Spec) -> list[str] | None:
    """The candidates that the method's parameters name, or None when they come from the nearest words."""
    kind, settings = methods.load(spec.method.name).CHOICE, spec.method.settings
    if kind in ("fixed", "words"):
        return settings.words
    if kind == "anchor":
        return None if settings.anchor is None else [settings.anchor]
    if kind == "neutral":
        return [settings.neutral]
    return None if kind in methods.NEIGHBOURS else []


def erased_concepts(
    spec: Spec, pipeline: DiffusionPipeline, table: EmbeddingTable, near: dict[str, list[Neighbour]]
) -> list[ErasedConcept]:
    """A spec's concepts with the embeddings of their names and prompts, and of the candidates the method chooses from."""
    kind, settings = methods.load(spec.method.name).CHOICE, spec.method.settings
    given = given_words(spec)
    shared = encode(pipeline, given) if given else None
    broad = getattr(settings, "erase_from", None)
    subject = (broad, encode(pipeline, [broad])[0]) if broad else None
    found = []
    for concept in spec.concepts:
        words = spec.names_of(concept)
        prompts = [*words, *concept.prompt_texts]
        if given is not None:
            names, candidates = given, shared
        else:
            chosen = near[concept.concept][:1] if kind in ("nearest", "anchor") else near[concept.concept]
            names = [n.word for n in chosen]
            candidates = rows_of(table, [n.row for n in chosen], layout_of(pipeline), pipeline.device)
        longest = tokens_read(pipeline.tokenizer, pipeline.text_encoder)
        positions = [name_positions(pipeline.tokenizer, longest, prompt, words) for prompt in prompts]
        text, as_text = (names[0], False) if kind == "anchor" else neutral_text(spec)
        led_to = {
            "anchors" if kind == "anchor" else "neutrals": without_concept(spec, concept, pipeline, text, as_text)
        }
        embeddings = encode(pipeline, prompts)
        found.append(
            ErasedConcept(concept.concept, prompts, embeddings, names, candidates, positions, subject, **led_to)
        )
    return found


def without_concept(
    spec: Spec, concept: Concept, pipeline: DiffusionPipeline, text: str, as_text: bool
) -> Choice | None:
    """What each prompt of a concept is led to, its names first: its neutral, or `text`. None where all are led to that."""
    if not any(prompt.neutral for prompt in concept.prompts):
        return None
    texts = [*(text for _ in spec.names_of(concept)), *(prompt.neutral or text for prompt in concept.prompts)]
    embeddings = encode(pipeline, texts, empty_as_text=as_text)
    return Choice(texts, embeddings, embeddings)


def name_positions(tokenizer: PreTrainedTokenizerBase, longest: int, prompt: str, names: list[str]) -> list[int]:
    """Positions of a concept's tokens in its tokenised prompt; of all its words where the prompt names it otherwise.

    Of several names in one prompt, the longest counts: "police car" and not the "car" in it. longest: tokens of a prompt that are
    read.
    """
    ids = tokenizer(prompt, truncation=True, max_length=longest).input_ids
    every = [tokenizer(name, add_special_tokens=False).input_ids for name in names]
    for own in sorted(every, key=len, reverse=True):
        for start in range(1, len(ids) - len(own)):
            if ids[start : start + len(own)] == own:
                return list(range(start, start + len(own)))
    return list(range(1, len(ids) - 1))
