"""Artifacts and files are whole or absent."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from erase_core.artifacts import RECORD, Artifact, find, folder_of, produce
from erase_core.files import digest, new_file, new_folder, write_json
from erase_core.versions import versions


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


def test_what_was_made_from_other_contents_is_made_anew() -> None:
    """A training that is removed and made again has its old key, and maybe other weights."""

    def train(weights: str) -> Artifact:
        def build(folder: Path) -> None:
            (folder / "delta").write_text(weights)
            (folder / "trace").write_text("in another second each time")

        shutil.rmtree(folder_of("trained", "k"), ignore_errors=True)
        return produce("trained", "k", build)

    def draw(training: Artifact) -> Artifact:
        made = training.file("delta").read_text()
        inputs = training.content_of("delta")
        return produce("drawn", "k", lambda folder: (folder / "image").write_text(made), inputs=inputs)

    assert not draw(train("a")).cached and draw(train("a")).cached
    shutil.rmtree(folder_of("trained", "k"))
    assert find("drawn", "k"), "nothing speaks against it"
    other = train("b")
    assert find("drawn", "k") is None
    again = draw(other)
    assert not again.cached and again.file("image").read_text() == "b" and draw(other).cached


def test_it_says_with_which_versions_it_was_made() -> None:
    made = produce("stage", "versions", lambda folder: None)
    assert made.record["versions"] == versions() and {"python", "erase", "torch", "nudenet"} <= set(versions())
    write_json(made.file(RECORD), {name: value for name, value in made.record.items() if name != "versions"})
    assert find("stage", "versions"), "it was made before versions were written down"


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


def test_a_folder_that_cannot_be_replaced_is_put_back(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_text("old")
    replace, calls = os.replace, []

    def fails_at_the_second(*arguments: Path) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError("input/output error")
        replace(*arguments)

    monkeypatch.setattr(os, "replace", fails_at_the_second)
    with pytest.raises(OSError, match="input/output error"), new_folder(tmp_path / "d") as partial:
        (partial / "y").write_text("new")
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["x"]


def test_contents_are_on_the_disk_before_they_have_their_name(tmp_path: Path, monkeypatch) -> None:
    """A power cut after a rename would else leave empty files under final names."""
    done: list[tuple[str, str, bytes]] = []
    fsync, replace = os.fsync, os.replace

    def told_fsync(number: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{number}"))
        done.append(("fsync", path.parent.name if path.name == "x" else path.name, path.read_bytes()))
        fsync(number)

    def told_replace(old: Path, new: Path) -> None:
        done.append(("replace", old.name, b""))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", told_fsync)
    monkeypatch.setattr(os, "replace", told_replace)
    with new_file(tmp_path / "file") as file:
        file.write_bytes(b"whole")
    with new_folder(tmp_path / "folder") as folder:
        (folder / "x").write_bytes(b"whole")
        (folder / "elsewhere").symlink_to(tmp_path / "file")
    written = [[("fsync", each.name, b"whole"), ("replace", each.name, b"")] for each in (file, folder)]
    assert done == sum(written, [])


def test_digest_ignores_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})
