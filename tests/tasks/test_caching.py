"""What Prefect kept of a stage, in a home that was moved; and what a stage that worked leaves of an accelerator's memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from prefect import flow, task

from erase_core.artifacts import Artifact, produce
from tasks.caching import call


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
