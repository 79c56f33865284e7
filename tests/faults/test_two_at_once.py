"""Two runs of one output: the second is refused with the first one's process, until that one ends, or shares it."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from erase_core import results
from erase_core.results import InUse, free, held
from tests.faults.runs import kill_when, start, wait_for

HOLD = """
import sys, time, pathlib
from erase_core.results import held
with held(pathlib.Path(sys.argv[1]), shared="shared" in sys.argv):
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
    refusal = pytest.raises(InUse, match=f"process {os.getpid()} ")
    with held(out, shared=True), held(out, shared=True), refusal, held(out):
        pass
    with held(out), pytest.raises(InUse, match=f"process {os.getpid()} "), held(tmp_path / "x" / ".." / "out"):
        pass


def test_who_comes_while_another_begins_shares_with_it(monkeypatch, tmp_path: Path) -> None:
    """It waits until what only the first may do is done."""
    entered, begun = threading.Event(), threading.Event()
    monkeypatch.setattr(results, "remove_partials", lambda output: time.sleep(0.3))

    def join() -> None:
        with held(tmp_path, shared=True, begin=lambda: pytest.fail("the second is not the first")):
            entered.set()

    other = threading.Thread(target=join)

    def begin() -> None:
        begun.set()
        other.start()
        assert not entered.wait(0.3)

    with held(tmp_path, shared=True, begin=begin):
        assert begun.is_set() and entered.wait(5)
    other.join()


def test_many_that_share_begin_at_once(monkeypatch, tmp_path: Path) -> None:
    began, refused, start = [], [], threading.Barrier(8)
    monkeypatch.setattr(results, "remove_partials", lambda output: time.sleep(0.1))

    def share() -> None:
        start.wait()
        try:
            with held(tmp_path, shared=True, begin=lambda: began.append(None)):
                start.wait(10)
        except (InUse, threading.BrokenBarrierError) as error:
            refused.append(error)
            start.abort()

    threads = [threading.Thread(target=share) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not refused and len(began) == 1


def test_a_refusal_names_the_living(tmp_path: Path) -> None:
    out = tmp_path / "out"
    both = []
    for name in ("first", "second"):
        both.append(start([sys.executable, "-c", HOLD, str(out), "shared"], tmp_path / name))
        wait_for((tmp_path / name).read_text, both[-1])
    first, second = both
    with pytest.raises(InUse, match=f"processes {first.pid}, {second.pid} are writing to"), held(out):
        pass
    kill_when(first, lambda: True)
    with pytest.raises(InUse, match=f"output: process {second.pid} is writing to"), held(out):
        pass
    kill_when(second, lambda: True)
    with held(out):
        pass


def test_a_look_whether_it_is_free(tmp_path: Path) -> None:
    with held(tmp_path):
        assert not free(tmp_path)
    assert free(tmp_path)
    with held(tmp_path, shared=True):
        assert not free(tmp_path)
