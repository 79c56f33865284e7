"""The command that writes the spec's schema."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from .app import app, refusing


@app.command()
def schema(out: Annotated[Path | None, typer.Option(help="Write to this file instead.")] = None) -> None:
    """Print the JSON schema of the spec, for editors."""
    from erase_core.files import PlaceError, check_file, new_file, writing
    from erase_core.spec import json_schema

    text = json.dumps(json_schema(), indent=2) + "\n"
    if out is None:
        sys.stdout.write(text)
    else:
        with refusing(PlaceError):
            check_file("out", out, ".json")
        with refusing(PlaceError), writing("out", out), new_file(out) as partial:
            partial.write_text(text, encoding="utf-8")
