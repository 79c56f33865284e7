"""What a spec erases: concepts, with their other names and the prompts that show them."""

from __future__ import annotations

from typing import Any

from pydantic import Field, GetJsonSchemaHandler, field_validator

from .methods.settings import Part
from .spec_texts import LONGEST_CONCEPT, Text, Word


class Prompt(Part):
    """A prompt that shows a concept, and what it is to show without it."""

    prompt: Text = Field(description="The prompt.")
    neutral: Text | None = Field(
        None,
        description="The same without the concept, as 'a house' for 'a house in the style of Van Gogh': what the prompt is led to. "
        "Default: what the method leads every prompt to.",
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict:
        """A text alone, or an object."""
        return {"anyOf": [{"type": "string", "title": "prompt"}, handler(core_schema)]}


class Concept(Part):
    """A concept to erase."""

    concept: Word = Field(description="The word or phrase to erase.")
    synonyms: list[Word] = Field([], description="Other names of it; erased with it and never preserved.")
    prompts: list[Prompt] = Field(
        [],
        description="Prompts that show it: texts, or {prompt, neutral}. Erased like its names, and drawn beside the generation "
        "prompts.",
    )

    @field_validator("prompts", mode="before")
    @classmethod
    def accept_texts(cls, value: Any) -> Any:
        return [{"prompt": v} if isinstance(v, str) else v for v in value] if isinstance(value, list) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict:
        """A word alone, or an object."""
        word = {"type": "string", "title": "word", "minLength": 1, "maxLength": LONGEST_CONCEPT}
        return {"anyOf": [word, handler(core_schema)]}

    @property
    def names(self) -> list[str]:
        """The concept and its synonyms."""
        return [self.concept, *self.synonyms]

    @property
    def prompt_texts(self) -> list[str]:
        return [prompt.prompt for prompt in self.prompts]
