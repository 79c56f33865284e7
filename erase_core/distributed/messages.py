"""What ranks tell their launcher, beside all else that they print: JSON objects, a line each."""

from __future__ import annotations

import json
import os
import sys
import time

from .rank import FAILURES

SECONDS_BETWEEN_SIGNS = 60.0
signed = time.monotonic()
"""When this process told last that it is at work."""


def tell(message: dict) -> None:
    """Tell the launcher. In one write with its end: all ranks share a pipe, and lines in parts would mix."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def at_work() -> None:
    """Tell the launcher, about once a minute, that work goes on which has nothing else to tell for long; nothing in no rank.

    A launch that says nothing is stopped; see `environment.patience`.
    """
    global signed
    if FAILURES in os.environ and time.monotonic() - signed > SECONDS_BETWEEN_SIGNS:
        signed = time.monotonic()
        tell({"at_work": True})


def heard(line: str, first: str) -> dict | None:
    """The message in a line that a rank printed, if it is one whose first name is `first`."""
    if not line.startswith(f'{{"{first}"'):
        return None
    try:
        return json.loads(line)
    except ValueError:  # A long line, with another rank's in the middle: what is told is told for progress alone.
        return None
