"""Artifacts and files are whole or absent."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from erase_core.artifacts import find, folder_of, produce
from erase_core.files import digest, new_file, new_folder, write_json


def test_made_once(tmp_path: Path) -> None:
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        (folder / "a.txt").write_text("a")

    first, second = produce("stage", "once", build), produce("stage", "once", build)
    assert len(calls) == 1 and not first.cached and second.cached
    assert second.file("a.txt").read_text() == "a" and second.seconds == first.seconds


def test_two_at_once_make_it_once() -> None:
    calls, started = [], threading.Barrier(2)

    def build(folder: Path) -> None:
        calls.append(1)
        (folder / "a.txt").write_text("a")

    def work() -> None:
        started.wait()
        produce("stage", "together", build)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


@pytest.mark.parametrize("damage", ["alter", "delete", "record"])
def test_a_damaged_artifact_is_made_anew(damage: str) -> None:
    def build(folder: Path) -> None:
        (folder / "a.txt").write_text("a")

    made = produce("stage", f"damaged-{damage}", build)
    if damage == "alter":
        made.file("a.txt").write_text("b")
    elif damage == "delete":
        made.file("a.txt").unlink()
    else:
        made.file("artifact.json").write_text("{")
    assert find("stage", made.key) is None
    again = produce("stage", made.key, build)
    assert not again.cached and again.file("a.txt").read_text() == "a"


def test_a_failed_build_leaves_nothing() -> None:
    def build(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        produce("stage", "failed", build)
    assert not folder_of("stage", "failed").exists()
    assert not list(folder_of("stage", "failed").parent.glob("*.partial"))


def test_files_and_folders_are_whole_or_as_before(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"old": 1})
    old = (tmp_path / "a.json").read_text()
    with pytest.raises(KeyError), new_file(tmp_path / "a.json") as partial:
        partial.write_text("half")
        raise KeyError
    assert (tmp_path / "a.json").read_text() == old
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_text("old")
    with pytest.raises(KeyError), new_folder(tmp_path / "d") as partial:
        (partial / "y").write_text("half")
        raise KeyError
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["x"]
    with new_folder(tmp_path / "d") as partial:
        (partial / "y").write_text("new")
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["y"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "d"]


def test_digest_ignores_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})
