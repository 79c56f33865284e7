"""What ranks tell their launcher, beside all else that they print: JSON objects, a line each."""

from __future__ import annotations

import json
import sys


def tell(message: dict) -> None:
    """Tell the launcher. In one write with its end: all ranks share a pipe, and lines in parts would mix."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def heard(line: str, first: str) -> dict | None:
    """The message in a line that a rank printed, if it is one whose first name is `first`."""
    if not line.startswith(f'{{"{first}"'):
        return None
    try:
        return json.loads(line)
    except ValueError:  # A long line, with another rank's in the middle: what is told is told for progress alone.
        return None
