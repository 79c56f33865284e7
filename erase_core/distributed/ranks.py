"""Start the ranks of a job, follow what they print, and stop them all when one fails.

On one machine, and on several that a scheduler has started (see `environment.node_group`), torch's elastic agent starts them;
on the hosts of a hostfile, DeepSpeed's launcher; in a Slurm allocation of several nodes, srun. A job is a JSON file that all
machines can read, as they can the project's home.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..files import digest, home, read_json, write_json
from ..models.source import model_files
from .environment import FIRST_PORT, PATIENCE, PORTS, NodeGroup, gpus, node_group, nodes_of, patience, read_hostfile
from .rank import FAILURES, WATCHED, read_failures

LOG = "log.txt"
EXPORTED = (
    "ERASE_HOME", FAILURES, PATIENCE, "OMP_NUM_THREADS", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "HF_HUB_OFFLINE",
)  # fmt: skip
SMALL_MODEL = 2**28
"""Bytes of a model's files; the included one has a quarter."""
"""What ranks on the hosts of a hostfile must know of this process's environment."""
KEPT_LINES = 30
SECONDS_BETWEEN_LOOKS = 0.2
GRACE_SECONDS = 10.0
"""How long a launcher may take to stop the other ranks after a failure before it is stopped itself."""
GROUP_VARIABLES = {
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS"),
}


class RanksFailed(RuntimeError):
    """A rank ended with an error; the message is that rank's own. expected: every try would end with it."""

    def __init__(self, told: str, expected: bool = False):
        super().__init__(told)
        self.expected = expected


def run_ranks(
    module: str, job: Path, processes: int, on_line: Callable[[str], None], hostfile: Path | None = None
) -> None:
    """Run `python -m module job` in as many ranks as `processes`, and wait for them. on_line is called with what they print.

    The first failure ends all ranks, and so does a silence longer than `patience`, since a rank that hangs ends no process. Their
    output is kept in log.txt beside the job. Raises RanksFailed.
    """
    group = node_group(os.environ) if processes > 1 and hostfile is None else None
    for old in job.parent.glob("failures-*"):
        shutil.rmtree(old)
    with order(group, module, job, processes) as attempt:
        environment = launch_environment(os.environ, job, attempt, processes, hostfile)
        command = launch_command(module, job, processes, hostfile, group, attempt, environment)
        supervise(command, environment, job.parent / LOG, on_line)


def launch_command(
    module: str,
    job: Path,
    processes: int,
    hostfile: Path | None,
    group: NodeGroup | None,
    attempt: str,
    environment: Mapping[str, str],
) -> list[str]:
    """The command that starts a job's ranks from this machine."""
    python = [sys.executable, "-u", "-m"]
    if hostfile is not None:
        port = str(FIRST_PORT + int(digest(attempt), 16) % PORTS)
        runner = [
            *python,
            "deepspeed.launcher.runner",
            "--hostfile",
            str(hostfile),
            "--force_multi",
            "--master_port",
            port,
        ]
        return [*runner, "--no_local_rank", "--module", module, str(job)]
    if processes == 1:
        return [*python, module, str(job)]
    if int(environment.get("SLURM_JOB_NUM_NODES", 1)) > 1 and shutil.which("srun", path=environment.get("PATH")):
        return ["srun", "--ntasks", str(processes), "--kill-on-bad-exit=1", *python, module, str(job)]
    return agent_command(module, job, processes, group, attempt)


def agent_command(module: str, job: Path, processes: int, group: NodeGroup | None, attempt: str) -> list[str]:
    """The command of this machine's elastic agent; with a group, one of several that start the job together."""
    nodes, node, endpoint = (
        (1, 0, "localhost:0")
        if group is None
        else (
            group.nodes,
            group.node,
            f"{group.address}:{group.port}",
        )
    )
    numbers = [str(processes // nodes), str(nodes), str(node), endpoint, attempt]
    return [sys.executable, "-u", "-m", "erase_core.distributed.agent", module, str(job), *numbers]


def launch_environment(
    environment: Mapping[str, str], job: Path, attempt: str, processes: int, hostfile: Path | None
) -> dict[str, str]:
    """The environment of a launch: no group that this process itself belongs to, and each rank's share of the cores."""
    kept = {name: value for name, value in environment.items() if name not in GROUP_VARIABLES}
    nodes = int(kept.get("SLURM_JOB_NUM_NODES", 1)) if shutil.which("srun") else nodes_of(kept)
    here = max(read_hostfile(hostfile).values()) if hostfile else max(1, processes // nodes)
    threads = int(kept.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    kept |= {"OMP_NUM_THREADS": str(max(1, threads // here)), "PYTHONUNBUFFERED": "1"}
    # What a job needs of the hub lies in folders that it names: ranks that asked again could be told of another commit.
    kept["HF_HUB_OFFLINE"] = "1"
    for name, value in allocation(job).items():
        kept.setdefault(name, value)
    failures = job.parent / f"failures-{attempt}"
    failures.mkdir(exist_ok=True)
    kept[FAILURES] = str(failures)
    if hostfile is None:
        if (own := gpus.get()) is not None:
            kept["CUDA_VISIBLE_DEVICES"] = own
        return kept | {WATCHED: "1"}
    # What DeepSpeed starts on another host is not this process's child: it shares no pipe with it, and no environment.
    exported = job.parent / "environment"
    exported.write_text("".join(f"{name}={kept[name]}\n" for name in EXPORTED if name in kept))
    return kept | {"DS_ENV_FILE": str(exported)}


def allocation(job: Path) -> dict[str, str]:
    """What a job's ranks tell glibc of the memory that they free.

    Large tensors go back to the system, of which glibc would keep a third more than is alive, in pieces. With a small model that is
    little, and having every tensor's pages made anew would take a third of its time.
    """
    model = read_json(job).get("model")
    if model and sum(file.stat().st_size for file in model_files(Path(model))) <= SMALL_MODEL:
        return {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**28)}
    return {"MALLOC_MMAP_THRESHOLD_": str(2**20)}


@contextlib.contextmanager
def order(group: NodeGroup | None, module: str, job: Path, processes: int) -> Iterator[str]:
    """Tell the other machines of a group to start their ranks of a job, one job at a time; yields the attempt's name."""
    attempt = uuid.uuid4().hex
    if group is None:
        yield attempt
        return
    path = order_path(group)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_json(path, {"attempt": attempt, "module": module, "job": str(job), "processes": processes})
        try:
            yield attempt
        finally:
            path.unlink(missing_ok=True)


def order_path(group: NodeGroup) -> Path:
    return home() / "nodes" / f"{digest(group.address, group.port)}.json"


def follow_orders(group: NodeGroup, on_line: Callable[[str], None], ended: Callable[[], bool] = lambda: False) -> None:
    """Lend this machine to the group's first one: start its ranks of every job that is launched there, until `ended`."""
    path, last = order_path(group), None
    while not ended():
        current = read_order(path)
        if current is None or current["attempt"] == last:
            time.sleep(0.5)
            continue
        last, job = current["attempt"], Path(current["job"])
        if not job.exists():
            # What a killed run ordered, and another has done since.
            continue
        command = agent_command(current["module"], job, current["processes"], group, last)
        environment = launch_environment(os.environ, job, last, current["processes"], None)
        log = job.parent / f"log-{group.node}.txt"
        try:
            supervise(command, environment, log, on_line, stopped=functools.partial(superseded, path, last))
        except RanksFailed as error:
            on_line(f"{error}\n")


def superseded(path: Path, attempt: str) -> bool:
    """Whether an attempt is over on the group's first machine."""
    try:
        return read_json(path)["attempt"] != attempt
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        # A shared folder that is away for a moment is looked at again.
        return False


def read_order(path: Path) -> dict | None:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def supervise(
    command: list[str],
    environment: dict[str, str],
    log_file: Path,
    on_line: Callable[[str], None],
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Run a launcher and pass its lines on. RanksFailed when it or any rank fails, or all say nothing for longer than `patience`;
    no process is left however this ends. ValueError when its environment cannot be read.

    stopped: whether the launch was ended elsewhere, on a machine that follows another.
    """
    failures, seconds = Path(environment[FAILURES]), patience(environment)
    kept: list[str] = []
    said = Said()
    with (
        open(log_file, "a", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process,
    ):
        over = functools.partial(is_over, failures, stopped)
        watcher = threading.Thread(target=stop_when_over, args=(process, over, said, seconds))
        watcher.start()
        try:
            for line in process.stdout:
                said.lines += 1
                log.write(line)
                log.flush()
                if line.strip():
                    kept = [*kept, line.rstrip()][-KEPT_LINES:]
                on_line(line)
        except BaseException:
            stop(process)
            raise
        finally:
            watcher.join()
    if said.too_little:
        raise RanksFailed(
            f"the ranks said nothing for {seconds / 60:g} minutes and were stopped; where they are only slow, set {PATIENCE} higher"
        )
    own = read_failures(failures)
    if process.returncode != 0 or own:
        if own:
            raise RanksFailed(*own[0])
        if process.returncode < 0:
            raise RanksFailed(f"the ranks' process was killed by {signal.Signals(-process.returncode).name}")
        raise RanksFailed("the ranks failed:\n" + "\n".join(kept))


@dataclass
class Said:
    """How many lines a launch has said, and whether it was stopped for saying nothing."""

    lines: int = 0
    too_little: bool = False


def is_over(failures: Path, stopped: Callable[[], bool]) -> bool:
    """Whether a launch has failed, or was ended elsewhere."""
    return any(failures.glob("*.json")) or stopped()


def stop_when_over(process: subprocess.Popen, over: Callable[[], bool], said: Said, patient: float) -> None:
    """Wait for a launcher; stop it when the job is over elsewhere, when it does not end by itself after a failure, or when it has
    said nothing for so many seconds (patient).
    """
    seen, lines, quiet = None, 0, 0.0
    while process.poll() is None:
        # Looks are counted and not the time, in which this process itself may have been suspended.
        quiet = quiet + SECONDS_BETWEEN_LOOKS if said.lines == lines else 0.0
        lines = said.lines
        if quiet > patient:
            said.too_little = True
            stop(process)
        if seen is None and over():
            seen = time.monotonic()
        if seen is not None and time.monotonic() - seen > GRACE_SECONDS:
            stop(process)
        time.sleep(SECONDS_BETWEEN_LOOKS)
    # Ranks whose launcher was killed still hold the pipe's other end: at its end they end too.
    process.stdin.close()


def stop(process: subprocess.Popen) -> None:
    """End a launcher, by force if it takes long."""
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
