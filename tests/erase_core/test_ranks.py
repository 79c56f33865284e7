"""Where ranks find their places, how they are launched on several machines, and how they fail."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from erase_core.distributed import messages, ranks
from erase_core.distributed.environment import NodeGroup, Place, first_host, node_group, patience, place, read_hostfile
from erase_core.distributed.group import join
from erase_core.distributed.messages import heard, tell
from erase_core.distributed.rank import FAILURES, read_failures, write_death, write_failure
from erase_core.distributed.ranks import (
    SMALL_MODEL,
    RanksFailed,
    follow_orders,
    launch_command,
    launch_environment,
    run_ranks,
    superseded,
)
from erase_core.files import alone, read_json, write_json
from erase_core.preflight import check
from erase_core.spec import make_spec
from erase_core.spec_errors import SpecError
from erase_core.training import trajectory_files
from erase_core.training.predictions import noise_predictor
from tests.servers import free_port

MODULE = "tests.erase_core.talking_rank"
SLURM = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": "localhost"}


def test_places() -> None:
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "5"}
    assert place(torchrun) == Place(3, 4, 1, "a", 5)
    assert place({**SLURM, **torchrun}) == place(torchrun)
    assert place({}) is None
    # A batch script has tasks, and is none of them.
    assert place({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) is None
    assert place({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}) is None
    found = place({**SLURM, "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "3"})
    assert found == Place(1, 2, 0, "localhost", 27703)
    assert place({**SLURM, "MASTER_ADDR": "b", "MASTER_PORT": "6"}) == Place(1, 2, 0, "b", 6)
    assert place(place(torchrun).variables()) == place(torchrun)
    with pytest.raises(ValueError, match="RANK is set, but not MASTER_ADDR, MASTER_PORT"):
        place({"RANK": "0", "WORLD_SIZE": "2"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[03-05,9],cpu1", "gpu03"), ("cpu1,gpu[1-2]", "cpu1"), ("r[1-2]n[4-5]", "r1n4"), ("localhost", "localhost")],
)
def test_first_host(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_node_groups() -> None:
    group = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "a", "PET_MASTER_PORT": "29500"}
    assert node_group(group) == NodeGroup(2, 1, "a", 29500)
    assert node_group({}) is None and node_group({**group, "PET_NNODES": "1:1"}) is None
    with pytest.raises(ValueError, match="PET_NNODES is 2, but PET_MASTER_ADDR is not set"):
        node_group({**group, "PET_MASTER_ADDR": ""})


def test_a_wrong_line_of_a_hostfile_is_the_field_s(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("a slots=two\n")
    given = {"processes": 2, "hostfile": str(tmp_path / "hosts")}
    spec = make_spec({"name": "x", "concepts": ["taxi"], "output": str(tmp_path / "o"), "training": given})
    with pytest.raises(SpecError, match=r"^training.hostfile: .*hosts: line 1 must be 'host slots=N'"):
        check(spec)


def test_hostfiles(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("# two hosts\na slots=4\n\nb slots=2  # the small one\n")
    assert read_hostfile(path) == {"a": 4, "b": 2}
    for wrong in ("a", "a slots=x", "a slots=1\na slots=1"):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=r"hosts: line \d must be 'host slots=N'"):
            read_hostfile(path)


def test_the_cause_of_a_failure_comes_first(tmp_path: Path) -> None:
    """The rank that lost another tells first; the killed one is told of later, and is the cause."""
    write_failure(tmp_path, 0, 2, "Connection closed by peer")
    write_death(tmp_path, 1, 2, signal.SIGKILL)
    first, second = read_failures(tmp_path)
    assert first.told.startswith("rank 1 of 2 on ") and "was killed by SIGKILL" in first.told
    assert "failed: Connection closed by peer" in second.told
    assert not first.expected and not second.expected


def job(folder: Path, **values) -> Path:
    write_json(folder / "job.json", {"work": "add", "seconds": 0, **values})
    return folder / "job.json"


def ranks_alive(path: Path) -> list[int]:
    return [p.pid for p in psutil.process_iter(["cmdline"]) if str(path) in (p.info["cmdline"] or [])]


def gone(path: Path, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while ranks_alive(path) and time.monotonic() < end:
        time.sleep(0.1)
    return not ranks_alive(path)


def test_one_rank_s_error_is_told(tmp_path: Path) -> None:
    path = job(tmp_path, work="fail")
    with pytest.raises(RanksFailed, match="ZeroDivisionError"):
        run_ranks(MODULE, path, 1, lambda line: None)
    assert gone(path) and "ZeroDivisionError" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("work", "told"),
    [("wrong", "training.method: is wrong"), ("full", "[Errno 28] No space left on device"), ("fail", None)],
)
def test_what_every_try_would_end_with_is_told_as_such(tmp_path: Path, work: str, told: str | None) -> None:
    """In its own words alone; the traceback is in the log."""
    with pytest.raises(RanksFailed) as caught:
        run_ranks(MODULE, job(tmp_path, work=work), 1, lambda line: None)
    assert caught.value.expected == (told is not None)
    assert str(caught.value) == told or told is None
    assert "Traceback" in (tmp_path / "log.txt").read_text()


def test_a_message_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks share a pipe, and print unbuffered, as with python -u: in two writes, another's line could come between."""
    writes = []

    class Pipe(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, part) -> int:
            writes.append(bytes(part))
            return len(part)

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Pipe(), write_through=True))
    tell({"items": 4})
    assert writes == [b'{"items": 4}\n']
    assert heard(writes[0].decode(), "items") == {"items": 4}
    for other in ("joined\n", '{"step": 1}\n', '{"items": 4}{"items": 4}\n'):
        assert heard(other, "items") is None


def test_a_rank_that_sees_its_own_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed takes the GPU's number from LOCAL_RANK."""
    used = []
    for name, value in place({**SLURM, "SLURM_LOCALID": "1"}).variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    monkeypatch.setenv("ERASE_STALL_MINUTES", "90")
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda backend, timeout: used.extend([backend, timeout])
    )
    join()
    # Ranks wait for each other as long as they may be silent.
    assert used == [0, "nccl", timedelta(minutes=90)] and os.environ["LOCAL_RANK"] == "0"


def test_a_killed_process_is_told(tmp_path: Path) -> None:
    path = job(tmp_path, work="die")
    with pytest.raises(RanksFailed, match="was killed by SIGKILL"):
        run_ranks(MODULE, path, 1, lambda line: None)


def test_ranks_end_when_their_launcher_is_killed(tmp_path: Path) -> None:
    """A launching process that is killed leaves no rank behind."""
    path = job(tmp_path, work="sleep")
    code = (
        "from pathlib import Path; from erase_core.distributed.ranks import run_ranks\n"
        f"run_ranks({MODULE!r}, Path({str(path)!r}), 1, print)"
    )
    launcher = psutil.Popen([sys.executable, "-c", code])
    while len(ranks_alive(path)) < 1:
        time.sleep(0.1)
    launcher.kill()
    launcher.wait()
    assert gone(path)


def test_ranks_that_say_nothing_are_stopped(tmp_path: Path, monkeypatch) -> None:
    path = job(tmp_path, work="sleep")
    monkeypatch.setenv("ERASE_STALL_MINUTES", "0.03")
    with pytest.raises(RanksFailed, match="said nothing for 0.03 minutes and were stopped") as caught:
        run_ranks(MODULE, path, 1, lambda line: None)
    assert gone(path) and not caught.value.expected


def test_a_shared_folder_that_is_away_for_a_moment_ends_no_attempt(tmp_path: Path, monkeypatch) -> None:
    order = tmp_path / "order.json"
    assert superseded(order, "1")
    write_json(order, {"attempt": "1"})
    assert not superseded(order, "1") and superseded(order, "2")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ESTALE, "stale")))
    assert not superseded(order, "1")


@pytest.mark.parametrize("wrong", ["soon", "0", "-1", "nan", "inf", "1e12"])
def test_a_patience_that_cannot_be_read_is_named(wrong: str) -> None:
    with pytest.raises(ValueError, match=f"ERASE_STALL_MINUTES: '{wrong}' is no number of minutes above 0"):
        patience({"ERASE_STALL_MINUTES": wrong})
    assert patience({}) == 7200 and patience({"ERASE_STALL_MINUTES": "1.5"}) == 90


def test_a_long_piece_tells_that_it_goes_on(tmp_path: Path) -> None:
    lines: list[str] = []
    run_ranks(MODULE, job(tmp_path, work="piece"), 1, lines.append)
    assert 2 <= sum(heard(line, "at_work") is not None for line in lines) <= 6


def test_a_long_step_tells_that_it_goes_on(tmp_path: Path, tiny_pipeline, monkeypatch, capsys) -> None:
    """In a rank; elsewhere nobody listens."""
    monkeypatch.setattr(messages, "SECONDS_BETWEEN_SIGNS", 0.0)
    predict = noise_predictor(tiny_pipeline.unet, tiny_pipeline.scheduler)
    for told in (0, 2):
        for _ in range(2):
            with torch.no_grad():
                predict(torch.zeros(1, 4, 8, 8), torch.zeros(1, dtype=torch.long), torch.zeros(1, 77, 16))
        assert capsys.readouterr().out.count('{"at_work": true}\n') == told
        monkeypatch.setenv(FAILURES, str(tmp_path))


def test_who_waits_for_another_s_trajectories_tells_so(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(messages, "SECONDS_BETWEEN_SIGNS", 0.0)
    monkeypatch.setenv(FAILURES, str(tmp_path))
    path, parts = tmp_path / "word.arrow", {"z": np.zeros((1, 2), np.float32)}
    with alone(path.parent / "wo"):
        waiting = threading.Thread(target=trajectory_files.shared, args=(path, lambda: parts))
        waiting.start()
        time.sleep(0.3)
    waiting.join()
    assert path.exists() and '{"at_work": true}' in capsys.readouterr().out


def results(folder: Path) -> list[float]:
    return [read_json(folder / f"result-{rank}.json") for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("work", ["fail", "die"])
def test_a_rank_that_dies_ends_all_within_a_minute(tmp_path: Path, work: str, monkeypatch) -> None:
    """And leaves nothing among the system's temporary files."""
    path, began = job(tmp_path, work=work), []
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    told = "ZeroDivisionError" if work == "fail" else "was killed by SIGKILL"
    with pytest.raises(RanksFailed, match=rf"(?s)rank 1 of 2 on .*{told}"):
        run_ranks(MODULE, path, 2, lambda line: began.append(time.monotonic()) if "joined" in line else None)
    assert time.monotonic() - began[-1] < 60 and gone(path)
    assert not list((tmp_path / "tmp").glob("torchelastic_*"))
    assert "ZeroDivisionError" in (tmp_path / "log.txt").read_text() or work == "die"


@pytest.mark.slow
def test_a_killed_agent_leaves_no_rank(tmp_path: Path) -> None:
    path, killed = job(tmp_path, work="sleep"), []

    def kill(line: str) -> None:
        if "joined" in line and not killed:
            killed.extend({psutil.Process(pid).ppid() for pid in ranks_alive(path)} & set(ranks_alive(path)))
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(RanksFailed, match="was killed by SIGKILL"):
        run_ranks(MODULE, path, 2, kill)
    assert gone(path)


@pytest.mark.slow
def test_two_machines_launch_together(tmp_path: Path, monkeypatch) -> None:
    """Two agents with two nodes on the loopback: this process is the first machine, and a thread lends it a second."""
    port = free_port()
    group = {"PET_NNODES": "2:2", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port)}
    for name, value in {**group, "PET_NODE_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    over, lines = threading.Event(), []
    lent = threading.Thread(target=follow_orders, args=(NodeGroup(2, 1, "127.0.0.1", port), lines.append, over.is_set))
    lent.start()
    try:
        path = job(tmp_path)
        run_ranks(MODULE, path, 2, lines.append)
        assert results(tmp_path) == [3.0, 3.0]
        for work in ("fail", "add"):
            write_json(path, {"work": work, "seconds": 0})
            if work == "fail":
                with pytest.raises(RanksFailed, match="(?s)rank 1 of 2.*ZeroDivisionError"):
                    run_ranks(MODULE, path, 2, lines.append)
            else:
                run_ranks(MODULE, path, 2, lines.append)
    finally:
        over.set()
        lent.join()
    assert gone(path) and not ranks.order_path(node_group(os.environ)).exists()


def test_a_stale_order_ends_no_machine_that_joins(tmp_path: Path, monkeypatch) -> None:
    """What a killed run ordered, and another has done since."""
    monkeypatch.setenv("ERASE_HOME", str(tmp_path))
    group = NodeGroup(2, 1, "127.0.0.1", 1)
    order = {"attempt": "a", "module": MODULE, "job": str(tmp_path / "gone" / "job.json"), "processes": 2}
    write_json(ranks.order_path(group), order)
    looks = iter([False, False, True])
    follow_orders(group, lambda line: pytest.fail(line), lambda: next(looks))


SRUN = """#!/bin/bash
# Two tasks on this machine with the variables of a job step.
shift 3
export SLURM_JOB_ID=$$ SLURM_STEP_ID=1 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=localhost SLURM_LOCALID=0
SLURM_PROCID=0 "$@" <&0 & first=$!
SLURM_PROCID=1 "$@" <&0 & second=$!
wait $first && wait $second
"""
PDSH = """#!/bin/bash
# Runs the command for each host on this machine, as pdsh would over SSH.
while [ "$1" != -w ]; do shift; done
IFS=, read -ra hosts <<< "$2"
shift 2
for node in "${!hosts[@]}"; do bash -c "${*//%n/$node}" & done
for job in $(jobs -p); do wait $job || failed=1; done
exit ${failed:-0}
"""


def stand_in(folder: Path, name: str, script: str, monkeypatch) -> None:
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.slow
def test_slurm_s_ranks_find_each_other(tmp_path: Path, monkeypatch) -> None:
    stand_in(tmp_path, "srun", SRUN, monkeypatch)
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    command = launch_command(MODULE, tmp_path / "job.json", 2, None, None, "a", os.environ)
    assert command[:4] == ["srun", "--ntasks", "2", "--kill-on-bad-exit=1"]
    path = job(tmp_path)
    run_ranks(MODULE, path, 2, lambda line: None)
    assert results(tmp_path) == [3.0, 3.0] and gone(path)


def test_a_hostfile_counts_with_one_rank_too(tmp_path: Path) -> None:
    """That host is asked for, not this machine."""
    (tmp_path / "hosts").write_text("gpu7 slots=1\n")
    command = launch_command(MODULE, tmp_path / "job.json", 1, tmp_path / "hosts", None, "a", os.environ)
    assert command[3:6] == ["deepspeed.launcher.runner", "--hostfile", str(tmp_path / "hosts")]
    assert launch_command(MODULE, tmp_path / "job.json", 1, None, None, "a", os.environ)[3] == MODULE


def test_ranks_ask_no_hub(tmp_path: Path) -> None:
    """Their job names folders; also those on the hosts of a hostfile, which share no environment with this process."""
    write_json(tmp_path / "job.json", {})
    (tmp_path / "hosts").write_text("127.0.0.1 slots=1\n127.0.0.2 slots=1\n")
    for hostfile in (None, tmp_path / "hosts"):
        made = ranks.launch_environment({"HF_HUB_OFFLINE": "0"}, tmp_path / "job.json", "a", 2, hostfile)
        assert made["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE=1\n" in (tmp_path / "environment").read_text()


@pytest.mark.slow
def test_a_hostfile_s_ranks_find_each_other(tmp_path: Path, monkeypatch) -> None:
    """DeepSpeed's launcher for two hosts, both of them this machine."""
    stand_in(tmp_path, "pdsh", PDSH, monkeypatch)
    stand_in(tmp_path, "ssh", "#!/bin/bash\nhostname -I 2>/dev/null || echo 127.0.0.1\n", monkeypatch)
    (tmp_path / "hosts").write_text("127.0.0.1 slots=1\n127.0.0.2 slots=1\n")
    path = job(tmp_path)
    run_ranks(MODULE, path, 2, lambda line: None, tmp_path / "hosts")
    assert results(tmp_path) == [3.0, 3.0] and gone(path)


@pytest.mark.parametrize(("size", "threshold"), [(1, 2**25), (SMALL_MODEL + 1, 2**20)])
def test_a_small_model_s_ranks_keep_their_memory(tmp_path: Path, size: int, threshold: int) -> None:
    """What the user says of it counts before; a job without a model is a large one's."""
    job, model, part = tmp_path / "job.json", tmp_path / "model", tmp_path / "another's part"
    model.mkdir()
    part.mkdir()
    (model / "unet").symlink_to(part)
    with open(part / "weights", "wb") as file:
        file.truncate(size)
    write_json(job, {"model": str(model)})
    told = launch_environment({}, job, "a", 1, None)
    assert told["MALLOC_MMAP_THRESHOLD_"] == str(threshold)
    assert ("MALLOC_TRIM_THRESHOLD_" in told) == (size == 1)
    assert launch_environment({"MALLOC_MMAP_THRESHOLD_": "7"}, job, "a", 1, None)["MALLOC_MMAP_THRESHOLD_"] == "7"
    write_json(job, {})
    assert launch_environment({}, job, "a", 1, None)["MALLOC_MMAP_THRESHOLD_"] == str(2**20)
