"""This machine's slots, which all that open some share, as limits of a real Prefect server."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from prefect.client.orchestration import get_client

from tasks.progress import Stopped, stopping
from tasks.slots import limit_name, open_slots, slot


def limits() -> dict[str, int]:
    with get_client(sync_client=True) as client:
        found = {each.name: each.limit for each in client.read_global_concurrency_limits()}
    return {kind: found[limit_name(kind)] for kind in ("training", "generation") if limit_name(kind) in found}


def test_who_is_not_alone_changes_what_is_given_and_nothing_else(server, capsys) -> None:
    with open_slots(None, 2, trainings=8) as first:
        assert first == limits() == {"training": 8, "generation": 2} and not capsys.readouterr().out
        with open_slots(None, None) as other:
            assert other == limits() == {"training": 8, "generation": 2}
        told = "This machine's slots are open already, and shared: 8 for training, 2 for generation.\n"
        assert capsys.readouterr().out == told
        with open_slots(None, 3) as other:
            assert other == limits() == {"training": 8, "generation": 3}
        assert "8 for training, 3 for generation, changed." in capsys.readouterr().out
        with get_client(sync_client=True) as client:
            client.delete_global_concurrency_limit_by_name(limit_name("training"))
        with open_slots(None, None) as other:
            assert other == limits() == {"training": 1, "generation": 3}, "of one that has another server"
    with open_slots(None, None) as again:
        assert again == limits() == {"training": 1, "generation": 1}, "as nobody has any"


def test_hosts_that_share_a_home_over_nfs_have_slots_of_their_own(server, monkeypatch, capsys) -> None:
    def flock(file: IO, kind: int) -> None:
        """As NFS locks: only what a file is open for."""
        if kind & fcntl.LOCK_SH and not file.readable() or kind & fcntl.LOCK_EX and not file.writable():
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        on_disk(file, kind)

    on_disk = fcntl.flock
    monkeypatch.setattr("tasks.slots.fcntl.flock", flock)
    with open_slots(3, 2) as here:
        monkeypatch.setattr("tasks.slots.socket.gethostname", lambda: "another")
        with open_slots(None, None) as there:
            assert there == limits() == {"training": 1, "generation": 1} and not capsys.readouterr().out
        monkeypatch.undo()
        assert here == limits() == {"training": 3, "generation": 2}


def test_homes_on_one_host_leave_each_other_s_slots(server, tmp_path: Path, monkeypatch) -> None:
    with open_slots(2, 1), get_client(sync_client=True) as client:
        mine = limit_name("training")
        client.increment_concurrency_slots([mine], 1, "concurrency")
        monkeypatch.setenv("ERASE_HOME", str(tmp_path))
        with open_slots(5, 1):
            assert limits() == {"training": 5, "generation": 1}
        found = client.read_global_concurrency_limit_by_name(mine)
        assert (found.limit, found.active_slots) == (2, 1)
        monkeypatch.undo()


def test_who_waits_for_a_slot_is_stopped_or_gets_it(server) -> None:
    """More wait than the server is asked for at once."""
    stop, ends = threading.Event(), []

    def work() -> None:
        stopping.set((threading.Event(), stop))
        try:
            with slot("training", wanted=True):
                ends.append("had it")
        except Stopped:
            ends.append("stopped")

    with open_slots(1, 1), ThreadPoolExecutor(3) as pool:
        with slot("training", wanted=True):
            waiting = [pool.submit(work) for _ in range(3)]
            time.sleep(1)
            assert not ends
            stop.set()
            wait(waiting, 60)
            assert ends == ["stopped"] * 3
            stop.clear()
            waiting = [pool.submit(work) for _ in range(3)]
            time.sleep(1)
        wait(waiting, 60)
        assert ends[3:] == ["had it"] * 3


def test_what_a_killed_one_held_is_free_again(server) -> None:
    with open_slots(1, 1), get_client(sync_client=True) as client:
        client.increment_concurrency_slots([limit_name("training")], 1, "concurrency")
        assert client.read_global_concurrency_limit_by_name(limit_name("training")).active_slots == 1
    with open_slots(1, 1), get_client(sync_client=True) as client:
        assert client.read_global_concurrency_limit_by_name(limit_name("training")).active_slots == 0


def test_what_works_on_when_who_opened_the_slots_was_killed_keeps_its_own(server) -> None:
    with ExitStack() as work, get_client(sync_client=True) as client:
        with open_slots(1, 1):
            work.enter_context(slot("training", wanted=True))
        with open_slots(None, None):
            assert client.read_global_concurrency_limit_by_name(limit_name("training")).active_slots == 1
