"""What is wrong with a spec, as "field: what is wrong; what to do"."""

from __future__ import annotations

import json
import re
from datetime import date
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from .spec_texts import LONGEST_NAME

SHOWN = 60
"""Characters of a value that an error shows."""
ITEMS = {
    "prompt_files": "a path in quotes, or {file, concept, general, own_guidance, limit}",
    "run": "an attack's name, or {name, and its parameters}",
    "prompts": "a prompt in quotes, or {prompt, neutral}",
    "concepts": "a word in quotes, or {concept, synonyms, prompts}",
}
"""How an item of one of the spec's lists is written."""
EXAMPLES = {
    "vocabulary": "{source: english-3000}",
    "training": "{steps: 100}",
    "generation": "{steps: 30}",
    "scoring": "{metrics: [erasure]}",
    "attacks": "{run: [seeds]}",
    "gate": "{min_esr_1: 0.98}",
    "report": "{show_unsafe: true}",
}
"""A part of the spec, as it may be written."""
MAPPINGS = ("model_type", "model_attributes_type", "dict_type")


class SpecError(ValueError):
    """A spec that cannot be run. The message names the field and the fix, one line a problem."""


def describe(problem: dict, model: type[BaseModel] | None = None) -> str:
    """One pydantic error as "field: what is wrong; what to do".

    model: what was validated; the keys beside an unknown one are read from it.
    """
    at = ".".join(str(part) for part in problem["loc"])
    kind, context = problem["type"], problem.get("ctx", {})
    given = problem.get("input")
    shown = str(given) if isinstance(given, date) else repr(given)
    shown = shown if len(shown) <= SHOWN else shown[: SHOWN - 3] + "…"
    if kind == "missing":
        return f"{at}: is missing; add it"
    if kind == "extra_forbidden":
        known = ", ".join(known_keys(model, problem["loc"]))
        return f"{at}: is not a key here" + (f"; the keys are {known}" if known else "; remove it")
    if kind == "value_error":
        message = str(context["error"])
        if at == "method" or re.fullmatch(r"attacks\.run\.\d+", at):
            return "\n".join(f"{at}.{line}" for line in message.splitlines())
        return f"{at}: {message}" if at else message
    if kind == "too_short":
        return f"{at}: is empty; give at least one"
    if given is None and kind in (*MAPPINGS, "list_type", "string_type", "int_type", "float_type", "bool_type"):
        return f"{at}: is empty; " + (
            f"remove it or give {form_of(problem['loc'])}" if kind in MAPPINGS else "give a value"
        )
    if kind in ("int_type", "float_type", "int_from_float"):
        return f"{at}: {shown} is not {'a whole number' if kind.startswith('int') else 'a number'}; write one without quotes"
    if kind in MAPPINGS:
        return f"{at}: {shown} should be {form_of(problem['loc'])}"
    if kind == "list_type":
        # What JSON writes is YAML too, with quotes where a bare word would be read as something else.
        written = json.dumps(given, ensure_ascii=False, default=str, skipkeys=True)
        return f"{at}: {shown} should be a list; write [{written}]"
    if kind == "string_type":
        return f"{at}: {shown} is not text; {'write one' if isinstance(given, list | dict) else 'put it'} in quotes"
    if kind == "string_pattern_mismatch":
        return f"{at}: {shown} may hold letters, digits, spaces, dots, dashes and underscores only, at most {LONGEST_NAME} of them"
    message = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return (
        f"{at}: {shown} should be {message}"
        if problem["msg"].startswith("Input should be")
        else f"{at}: {message} (got {shown})"
    )


def form_of(location: tuple) -> str:
    """How what has keys of its own is written: an item of one of the spec's lists, a part of the spec, or any other mapping."""
    if item := next((form for part, form in ITEMS.items() if part in location), ""):
        return item
    if location == ("method",):
        return "a method's name, or {name, and its parameters}"
    example = EXAMPLES.get(".".join(map(str, location)))
    return "a mapping of its keys" + (f", such as {example}" if example else "")


def known_keys(model: type[BaseModel] | None, location: tuple) -> list[str]:
    """The keys allowed beside an unknown one, whose location within the model is given. Empty where any key is allowed."""
    kind: Any = model
    for part in location[:-1]:
        kind = inner(kind, part)
    return next((list(k.model_fields) for k in (kind, *get_args(kind)) if is_model(k)), [])


def inner(kind: Any, part: str | int) -> Any:
    """The annotation of a model's field, of a list's item or of a mapping's value; None for what has none."""
    if is_model(kind):
        return kind.model_fields[part].annotation if part in kind.model_fields else None
    if get_origin(kind) in (list, dict):
        return get_args(kind)[-1]
    return next((found for option in get_args(kind) if (found := inner(option, part)) is not None), None)


def is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
