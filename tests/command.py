"""Run the `erase` command as a user would."""

from __future__ import annotations

import os
import subprocess
import sys


def erase(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "flows.command", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
