"""What Prefect kept of a stage, in a home that was moved."""

from __future__ import annotations

from pathlib import Path

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
