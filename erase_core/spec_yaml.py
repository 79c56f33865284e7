"""A spec from a YAML file, and where in it each key stands."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from .spec import Spec, make_spec
from .spec_errors import SHOWN, SpecError
from .spec_paths import expand


class SafeLoader(yaml.SafeLoader):
    """YAML without tags, aliases or repeated keys: none belongs in a spec, and aliases can blow up memory."""

    def compose_node(self, parent, index):
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(
                f"line {event.start_mark.line + 1}: aliases (*name) are not allowed; write the value out"
            )
        if getattr(event, "tag", None) is not None:
            raise yaml.YAMLError(f"line {event.start_mark.line + 1}: tags ({event.tag}) are not allowed; remove it")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key.value, str)):
            if key.value in seen:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {key.value} is given twice; keep one")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node, deep=False):
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            # What looks like a date or a number, and is none, as 2024-13-45.
            line, shown = node.start_mark.line + 1, repr(node.value)[:SHOWN]
            raise yaml.YAMLError(f"line {line}: {shown} cannot be read: {error}; put it in quotes") from None


# YAML 1.1 reads 1e-4 as text; every other number format of a spec is already right.
SafeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
LARGEST_FILE = 1_000_000


def parse_mapping(text: str, where: str = "spec") -> dict:
    """The keys of a YAML text, with the user's home for ~ in its output. SpecError when it is not readable or no mapping."""
    try:
        value = yaml.load(text, SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise SpecError(f"{where}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise SpecError(f"{where}: must be a mapping with the keys of a spec, such as name, concepts and output")
    if isinstance(value.get("output"), str):
        # Here too: a batch's own output is read from its mapping, which is no whole spec.
        try:
            value["output"] = expand(value["output"])
        except ValueError as error:
            raise SpecError(f"output: {error}") from None
    return value


def parse_spec(text: str, where: str = "spec") -> Spec:
    """Read a spec from YAML text. SpecError names what is wrong and how to mend it."""
    return make_spec(parse_mapping(text, where))


def read_text(path: Path) -> str:
    """The text of a YAML file or a list of words. SpecError when it is absent, too large, not UTF-8 or cannot be read."""
    try:
        if not path.is_file():
            raise SpecError(f"{path}: no such file; give the path of a YAML spec")
        if path.stat().st_size > LARGEST_FILE:
            raise SpecError(
                f"{path}: larger than a spec can be ({LARGEST_FILE} bytes); put long word lists in a file of their own"
            )
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}; check its name and its permissions") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path}: not UTF-8 text; save it as UTF-8") from None


def load_spec(path: str | Path) -> Spec:
    """Read a spec from a YAML file. SpecError names what is wrong and how to mend it."""
    return parse_spec(read_text(Path(path)), str(path))


def lines_of(text: str) -> dict[str, int]:
    """The line of every key and item of a YAML text that is a mapping, by its dotted name as errors have it."""
    found: dict[str, int] = {}

    def visit(node: yaml.Node, at: str) -> None:
        children = []
        if isinstance(node, yaml.MappingNode):
            children = [(str(key.value), key, value) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            children = [(str(i), item, item) for i, item in enumerate(node.value)]
        for name, marked, value in children:
            found[at + name] = marked.start_mark.line + 1
            visit(value, f"{at}{name}.")

    visit(yaml.compose(text, SafeLoader), "")
    return found
