"""Two runs of one output: the second is refused with the first one's process, until that one ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from erase_core.results import InUse, held
from tests.faults.runs import kill_when, start

HOLD = """
import sys, time, pathlib
from erase_core.results import held
with held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_second_is_refused_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    process = start([sys.executable, "-c", HOLD, str(out)], log)

    def refused() -> bool:
        if not log.read_text():
            return False
        with pytest.raises(InUse, match=f"output: process {process.pid} is writing to '{out}'; wait"), held(out):
            pass
        with pytest.raises(InUse), held(out, shared=True):
            pass
        with held(tmp_path / "another"):
            return True

    kill_when(process, refused)
    with held(out, shared=True) as first, held(out, shared=True) as second:
        assert first and not second
        with pytest.raises(InUse, match=f"process {os.getpid()} "), held(out):
            pass
    with held(out), pytest.raises(InUse, match=f"process {os.getpid()} "), held(tmp_path / "x" / ".." / "out"):
        pass
