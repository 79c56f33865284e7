"""A flow's spec as its parameter: written out, or the path of its file, which is read when a run starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from erase_core.spec import Spec
from erase_core.spec_paths import expand
from erase_core.spec_yaml import load_spec


def read(value: object) -> object:
    """The spec of a file whose path is given; anything else as it is. Raises SpecError."""
    return load_spec(Path(expand(value))) if isinstance(value, str) else value


SpecOrFile = Annotated[Spec, BeforeValidator(read, json_schema_input_type=Spec | str)]
