"""What runs have not used for long goes, and nothing else does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from erase_core.artifacts import find, produce
from erase_core.cleaning import DAY, unused
from erase_core.training import trajectory_files
from tests.command import erase_here

LONG_AGO = time.time() - 100 * DAY


def made(key: str):
    return produce("vocabulary", key, lambda folder: (folder / "vocabulary.txt").write_text("taxi"))


def aged(path: Path) -> Path:
    """The same file or folder, all of it as old as if it had not been touched for a hundred days."""
    for each in [*path.rglob("*"), path]:
        os.utime(each, (LONG_AGO, LONG_AGO))
    return path


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ERASE_HOME", str(tmp_path))
    return tmp_path


def test_what_was_not_used_for_long_goes(own_home: Path) -> None:
    old, asked_for = made("old"), made("asked-for")
    aged(old.folder), aged(asked_for.folder)
    began = asked_for.began
    trajectories = own_home / "trajectories" / "model"
    for word in ("old", "read"):
        file = trajectories / f"{word}{trajectory_files.ENDING}"
        trajectory_files.write(file, {"z": np.zeros((1, 2), np.float32)})
        aged(file)
    for key in ("broken-off", "under-way"):
        checkpoint = own_home / "training" / key / "checkpoint" / "step-1.pt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_bytes(b"weights")
        aged(own_home / "training" / key)
    elsewhere = aged_file(own_home / "mlflow" / "mlflow.db")

    # Used: asked for again, read again, written to.
    assert find("vocabulary", "asked-for").began == pytest.approx(began)
    assert trajectory_files.read(trajectories / f"read{trajectory_files.ENDING}")
    (own_home / "training" / "under-way" / "checkpoint" / "step-2.pt").write_bytes(b"weights")

    gone = {old.folder, trajectories / f"old{trajectory_files.ENDING}", own_home / "training" / "broken-off"}
    assert {each.path for each in unused(30)} == gone
    assert sum(each.size for each in unused(30) if each.kind == "training") == len(b"weights")
    told = erase_here("clean", "--dry-run")
    assert told.returncode == 0 and "cache/vocabulary" in told.stdout and "Nothing was removed" in told.stdout
    assert all(path.exists() for path in gone)

    done = erase_here("clean", "--unused-for", "30")
    assert done.returncode == 0, done
    assert not any(path.exists() for path in gone) and unused(30) == []
    assert find("vocabulary", "asked-for") and elsewhere.exists()
    assert (own_home / "training" / "under-way" / "checkpoint" / "step-1.pt").exists()
    assert not made("old").cached, "it is made again when it is asked for"


def test_what_killed_writes_left_goes_and_what_is_written_stays(own_home: Path) -> None:
    left = []
    for place in ("cache/training/.killed.ab12.partial", "cache/training/.no-lock.ab12.partial"):
        (own_home / place).mkdir(parents=True)
        (own_home / place / "half").write_bytes(b"half")
        left.append(aged(own_home / place))
    (own_home / "cache" / "training" / ".killed.lock").touch()
    (own_home / "trajectories" / "model").mkdir(parents=True)
    trajectory = own_home / "trajectories" / "model" / ".word.arrow.ab12.partial"
    trajectory.write_bytes(b"half")
    left.append(aged(trajectory))

    def build(folder: Path) -> None:
        aged(folder)
        assert {each.path for each in unused(30)} == set(left)
        (folder / "written").touch()

    assert produce("training", "under-way", build)
    assert {each.path for each in unused(30)} == set(left)
    done = erase_here("clean", "--unused-for", "30")
    assert done.returncode == 0 and not any(path.exists() for path in left), done


def test_words_share_the_locks_of_their_trajectories(own_home: Path) -> None:
    for word in ("ab1", "ab2", "ab3", "cd1"):
        trajectory_files.shared(own_home / "trajectories" / "model" / f"{word}{trajectory_files.ENDING}", parts)
    assert len(list((own_home / "locks").iterdir())) == 2


def parts() -> trajectory_files.Parts:
    return {"z": np.zeros((1, 2), np.float32)}


def aged_file(path: Path) -> Path:
    path.parent.mkdir()
    path.write_text("kept")
    return aged(path)


def test_less_than_a_day_is_refused(own_home: Path) -> None:
    ran = erase_here("clean", "--unused-for", "0.5")
    assert ran.returncode == 2 and "--unused-for" in ran.stderr
