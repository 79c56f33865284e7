"""Texts of a spec: words to erase or preserve, prompts, and templates with a place for a concept."""

from __future__ import annotations

import unicodedata
from typing import Annotated

from pydantic import AfterValidator

ALL = "all"
"""The `concept` of scores that summarise every concept of a role; no concept can be called so."""
LONGEST_CONCEPT = 200
LONGEST_NAME = 100


def clean_text(text: str) -> str:
    """Refuse what cannot be a concept or a prompt, and trim the rest."""
    text = unicodedata.normalize("NFC", text).strip()
    if not text:
        raise ValueError("is empty; write a word or a short phrase")
    if len(text) > LONGEST_CONCEPT:
        raise ValueError(f"has {len(text)} characters; use at most {LONGEST_CONCEPT}")
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co") for character in text):
        raise ValueError("has control or invisible characters; remove them")
    return text


def clean_concept(text: str) -> str:
    text = clean_text(text)
    if text.casefold() == ALL:
        raise ValueError(f"{text!r} is what the scores call all concepts together; write another word")
    if "/" in text or "\\" in text:
        raise ValueError("has a path separator; write the concept's words, not a path")
    if any(unicodedata.category(character) in ("So", "Sk") for character in text):
        raise ValueError("has emoji or other symbols; write the word for what they show")
    if any(unicodedata.bidirectional(character) in ("R", "AL") for character in text):
        raise ValueError("has right-to-left text, which the text encoders do not know; write it in Latin letters")
    return text


def fillable(text: str) -> str:
    """Refuse a template that has no place for a concept."""
    if "{concept}" not in text or set("{}") & set(text.replace("{concept}", "")):
        raise ValueError(f"{text!r} must hold {{concept}} and no other braces, as in 'a photo of a {{concept}}'")
    return text


Text = Annotated[str, AfterValidator(clean_text)]
Word = Annotated[str, AfterValidator(clean_concept)]
Template = Annotated[Text, AfterValidator(fillable)]
