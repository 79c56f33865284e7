"""GPUs for slots, on a machine that is made to believe it has some."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from pathlib import Path

import pytest
import torch

from erase_core.distributed.environment import gpus
from erase_core.distributed.ranks import launch_environment
from tasks.gpus import own_gpus, room_beside


@pytest.fixture
def four(tmp_path: Path, monkeypatch) -> list[int]:
    """Four GPUs; returns the numbers that were made current."""
    current: list[int] = []

    @contextlib.contextmanager
    def device(number: int):
        current.append(number)
        yield

    monkeypatch.setenv("ERASE_HOME", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "device", device)
    return current


def test_work_at_once_is_on_gpus_of_its_own(four: list[int]) -> None:
    with own_gpus(1):
        assert gpus.get() == "0"
        with own_gpus(2):
            assert gpus.get() == "1,2"
            with own_gpus(2):
                assert gpus.get() == "3,0", "all are taken once, so one of them is shared"
        with own_gpus(1):
            assert gpus.get() == "1", "free again"
    assert gpus.get() is None and four == [0, 1, 3, 1]
    with own_gpus(9):
        assert gpus.get() == "0,1,2,3"


def test_what_is_beside_a_training_is_on_other_gpus(four: list[int]) -> None:
    """On as many as its ranks are, or not beside it."""
    with room_beside(1, 2):
        assert gpus.get() == "1,2"
    with room_beside(2, 2):
        assert gpus.get() == "2,3"
    assert gpus.get() is None and four == [1, 2]
    assert room_beside(3, 2) is None and room_beside(4, 1) is None


def hold(ready, over) -> None:
    with own_gpus(1):
        ready.set()
        over.wait(60)


def test_another_process_s_gpus_are_left_to_it(four: list[int]) -> None:
    """Until it is killed."""
    context = multiprocessing.get_context("fork")
    ready, over = context.Event(), context.Event()
    other = context.Process(target=hold, args=(ready, over))
    other.start()
    assert ready.wait(60)
    with own_gpus(1):
        assert gpus.get() == "1"
    other.kill()
    other.join()
    with own_gpus(1):
        assert gpus.get() == "0"


def test_only_visible_gpus_are_chosen_and_ranks_see_them(four: list[int], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    (tmp_path / "job.json").write_text("{}")
    with own_gpus(1), own_gpus(1):
        assert four == [0, 1]
        ranks = launch_environment(os.environ, tmp_path / "job.json", "a", 1, None)
        assert ranks["CUDA_VISIBLE_DEVICES"] == "2"
    assert launch_environment(os.environ, tmp_path / "job.json", "b", 1, None)["CUDA_VISIBLE_DEVICES"] == "5,2"


def test_a_machine_without_gpus_has_none_to_choose(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("ERASE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with own_gpus(2):
        assert gpus.get() is None
    assert not list(tmp_path.iterdir())
