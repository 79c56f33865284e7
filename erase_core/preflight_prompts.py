"""Whether the text encoder reads the whole of a spec's prompts. Needs no torch, and no tokenizer for short ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .emoji_world.catalogue import with_article
from .emoji_world.labels import is_style
from .generation.plan import ERASED, roles
from .models.source import WEIGHTS, ModelSource
from .preflight_scorers import read_config
from .spec import Spec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONTEXT = 77
"""Tokens that the text encoders of Stable Diffusion read."""
ENDS = 2
"""Tokens that mark the beginning and the end of a prompt."""
OF_METHODS = ("neutral", "destination", "anchor", "erase_from")
"""Parameters of methods that are prompts."""
CLIP = WEIGHTS / "pipeline" / "tokenizer"


def check_lengths(spec: Spec, source: ModelSource) -> None:
    """Raise ValueError for a name or a prompt that is cut by the text encoder, which may lose the concept at its end.

    Rows of prompt files are drawn as the field draws them, cut or not. A hub model's tokenizer is not here.
    """
    for folder, context in tokenizers_of(source):
        long = [(field, text) for field, text in texts_of(spec) if most_tokens(text) > context]
        # Loaded for these alone: no other prompt can be cut.
        counted = long and tokenizer_in(folder)
        for field, text in long:
            if counted and (count := len(counted.encode(text).ids)) > context:
                raise ValueError(
                    f"{field}: {text!r} has {count} tokens with its two ends, and the model's text encoder reads {context}; "
                    "shorten it"
                )


def check_new_tokens(spec: Spec, source: ModelSource) -> None:
    """Raise ValueError for an attack with more tokens of its own than the text encoder reads beside a prompt's."""
    most = min((context for _, context in tokenizers_of(source)), default=CONTEXT) - ENDS - 1
    for i, attack in enumerate(spec.attacks.run if spec.attacks else ()):
        if (count := getattr(attack.settings, "tokens", 0)) > most:
            raise ValueError(
                f"attacks.run.{i}.tokens: {count} do not fit into a prompt, of whose tokens the model's text encoder reads {most} "
                "beside its two ends and a word; use fewer"
            )


def most_tokens(text: str) -> int:
    """No text has more tokens: CLIP's are a byte or longer and hold no space, and lower case has at most twice the bytes."""
    bare = "".join(text.split())
    return ENDS + (len(bare) if bare.isascii() else 2 * len(bare.encode("utf-8")))


def texts_of(spec: Spec) -> Iterator[tuple[str, str]]:
    """What is erased, led to and drawn, each by its field; of the templates, those with each concept that is known already."""
    for i, concept in enumerate(spec.concepts):
        yield f"concepts.{i}.concept", concept.concept
        yield from ((f"concepts.{i}.synonyms.{j}", name) for j, name in enumerate(concept.synonyms))
        for j, prompt in enumerate(concept.prompts):
            yield f"concepts.{i}.prompts.{j}.prompt", prompt.prompt
            yield f"concepts.{i}.prompts.{j}.neutral", prompt.neutral or ""
    own = spec.method.settings
    for name in OF_METHODS:
        yield f"method.{name}", getattr(own, name, None) or ""
    yield from ((f"method.words.{i}", word) for i, word in enumerate(getattr(own, "words", None) or ()))
    if spec.generation.prompt_files:
        return
    # What is erased first: it is what a user looks for in the message.
    drawn = sorted(roles(spec, []).items(), key=lambda item: item[1] != ERASED)
    for i, template in enumerate(spec.generation.prompts):
        for concept, _ in drawn:
            # Styles have a template of their own.
            if not (spec.embedded and is_style(concept)):
                yield f"generation.prompts.{i}", with_article(template.replace("{concept}", concept))


def tokenizers_of(source: ModelSource) -> Iterator[tuple[Path, int]]:
    """The folder of each of a model's tokenizers, and how many tokens its text encoder reads."""
    if source.folder is None:
        # Single files hold none, and are read with CLIP's.
        yield from [(CLIP, CONTEXT)] if source.file else []
        return
    for number in ("", "_2"):
        folder = source.folder / f"tokenizer{number}"
        if folder.is_dir():
            own = told(folder / "tokenizer_config.json", "model_max_length")
            yield (
                folder,
                min(own, told(source.folder / f"text_encoder{number}" / "config.json", "max_position_embeddings")),
            )


def told(file: Path, key: str) -> int:
    """A number of a JSON file; that of Stable Diffusion where it says none. ValueError for a file that is no mapping."""
    found = read_config("model", file).get(key) if file.is_file() else None
    return found if isinstance(found, int) else CONTEXT


def tokenizer_in(folder: Path) -> Tokenizer | None:
    """The tokenizer of a folder; None where its files are not CLIP's."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    if (folder / "tokenizer.json").is_file():
        read_config("model", folder / "tokenizer.json")
        found = Tokenizer.from_file(str(folder / "tokenizer.json"))
        found.no_truncation()
        found.no_padding()
        return found
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    if not (vocabulary.is_file() and merges.is_file()):
        return None
    # How a text is divided before its tokens are looked up is the same in all of CLIP's.
    found = Tokenizer.from_file(str(CLIP / "tokenizer.json"))
    found.model = BPE.from_file(str(vocabulary), str(merges), unk_token="<|endoftext|>", end_of_word_suffix="</w>")
    return found
