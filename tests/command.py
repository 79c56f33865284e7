"""Run the `erase` command as a user would: in a process of its own, or, where a test is not about that, in this one."""

from __future__ import annotations

import os
import subprocess
import sys
from subprocess import CompletedProcess

from typer.testing import CliRunner


def erase(*arguments: str, **environment: str) -> CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "flows.command", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def erase_here(*arguments: str, **environment: str) -> CompletedProcess:
    """The same without the seconds that a new process takes to import everything. Raises what the command does not handle."""
    from flows.command import app

    ran = CliRunner(env=environment).invoke(app, arguments)
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    return CompletedProcess(arguments, ran.exit_code, ran.stdout, ran.stderr)
