"""What Prefect kept of a stage, in a home that was moved; and what a stage that worked leaves of an accelerator's memory."""

from __future__ import annotations

import contextlib
import contextvars
import fcntl
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from prefect import flow, task

from erase_core.artifacts import Artifact, folder_of, produce
from erase_core.spec import make_spec
from flows.tracked import beside
from tasks.caching import call
from tasks.progress import Stopped, go_on, stopping


@task(name="moved", persist_result=True, cache_key_fn=lambda context, parameters: "moved-k")
def make() -> Artifact:
    return produce("moved", "k", lambda folder: (folder / "file").write_text("made"))


@flow
def stages() -> Artifact:
    return call(make, "k")


def test_a_moved_home_is_read_where_it_is(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("ERASE_HOME", str(tmp_path / "first"))
    first = stages()
    (tmp_path / "first").rename(tmp_path / "second")
    monkeypatch.setenv("ERASE_HOME", str(tmp_path / "second"))
    second = stages()
    assert not first.cached and second.cached
    assert second.folder == tmp_path / "second" / "cache" / "moved" / "k" and second.file("file").read_text() == "made"


def test_who_waits_for_another_s_result_is_stopped(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("ERASE_HOME", str(tmp_path))
    lock, stop = folder_of("moved", "held").parent / ".held.lock", threading.Event()
    lock.parent.mkdir(parents=True)

    @task(name="moved")
    def wait() -> Artifact:
        stop.set()
        return produce("moved", "held", lambda folder: None)

    @flow
    def waits() -> Artifact:
        stopping.set((stop,))
        return call(wait, "held")

    with open(lock, "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Stopped):
            contextvars.copy_context().run(waits)


@pytest.mark.parametrize("which", ["batch", "training"])
def test_what_is_beside_a_training_stops_with_it_and_with_the_batch(which: str, monkeypatch) -> None:
    monkeypatch.setattr("flows.tracked.room_beside", lambda *ranks: contextlib.nullcontext())
    of_batch, ends = threading.Event(), []

    def stage(*_: object) -> None:
        deadline = time.monotonic() + 20
        try:
            while time.monotonic() < deadline:
                go_on()
                time.sleep(0.05)
        except Stopped as error:
            ends.append(error)
            raise

    def work() -> None:
        stopping.set((of_batch,))
        with beside(
            make_spec({"name": "a", "concepts": ["taxi"], "output": "out"}), stage, "drawn", make, "no such key"
        ) as drawn:
            if which == "training":
                raise ZeroDivisionError
            of_batch.set()
            drawn()

    with pytest.raises(Stopped if which == "batch" else ZeroDivisionError):
        contextvars.copy_context().run(work)
    assert len(ends) == 1


def test_a_stage_that_worked_gives_an_accelerator_s_memory_back(tmp_path: Path, monkeypatch) -> None:
    """The ranks of the next one are other processes. One whose result was there has taken none."""
    given: list[str] = []
    cuda = SimpleNamespace(is_initialized=lambda: True, empty_cache=lambda: given.append("memory"))
    monkeypatch.setitem(sys.modules, "torch.cuda", cuda)
    monkeypatch.setenv("ERASE_HOME", str(tmp_path))
    assert not stages().cached and given == ["memory"]
    assert stages().cached and given == ["memory"]
    (tmp_path / "cache" / "moved" / "k" / "file").write_text("altered")
    cuda.is_initialized = lambda: False
    assert not stages().cached and given == ["memory"]


def test_memory_is_given_back_without_torch() -> None:
    given = "import sys; from erase_core.accelerators import give_back_memory as give; give(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", given], check=True)
