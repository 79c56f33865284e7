"""Start-up of the command, and what drawing the original's images beside the training saves."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median

from erase_core.files import read_json, write_json

from .list_growth import ROOT, prepared_home

PORT, PAGES = 4290, 4291
ADDRESS = f"http://127.0.0.1:{PORT}/api"
SERVER = f"from infra import environment, private_server; environment.prepare(); private_server.serve({PORT})"
SPEC = {
    "name": "start",
    "vocabulary": {"top_k": 4},
    "training": {"steps": 40, "trajectories": 1},
    "generation": {"seeds": [0, 1, 2, 3], "sampler": "dpm-solver++", "steps": 15},
    "scoring": {"preserved": ["bus", "police car", "car", "rose", "apple", "cat", "church"], "resamples": 100},
}


def ran(*arguments: str, **environment: str) -> float:
    """Seconds of the command."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "flows.command", *arguments]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=environment or None)
    return time.perf_counter() - began


def wait_for(server: subprocess.Popen, port: int, path: str) -> None:
    """Return when the server answers. RuntimeError when it ends before that."""
    while server.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).close()
            return
        time.sleep(0.02)
    raise RuntimeError(f"the server did not start; is port {port} taken?")


@contextlib.contextmanager
def prefect_server(own: dict[str, str]) -> Iterator[float]:
    """The server that a command starts for itself, by itself; yields the seconds until it answered."""
    began = time.perf_counter()
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, cwd=ROOT, env=own)
    try:
        wait_for(server, PORT, "/api/health")
        yield time.perf_counter() - began
    finally:
        server.stdin.close()
        server.wait()


@contextlib.contextmanager
def both_servers(own: dict[str, str]) -> Iterator[float]:
    """`erase up`; yields the seconds until both of its servers answered."""
    began = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "flows.command",
        "up",
        "--prefect-port",
        str(PORT),
        "--mlflow-port",
        str(PAGES),
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT, env=own)
    try:
        wait_for(server, PORT, "/api/health")
        wait_for(server, PAGES, "/health")
        yield time.perf_counter() - began
    finally:
        server.terminate()
        server.wait()


def to_first_stage(folder: Path, own: dict[str, str], concept: str = "taxi") -> tuple[float, float, float]:
    """Seconds of a run of the spec with a concept: to its first stage, which no run with another shares, to that which loads the
    model first, and in all.
    """
    output = folder / concept
    write_json(folder / f"{concept}.yaml", {**SPEC, "concepts": [concept], "output": str(output)})
    began = time.time()
    whole = ran("run", str(folder / f"{concept}.yaml"), **own)
    stages = read_json(output / "summary.json")["began"]
    return stages["vocabulary"] - began, stages["embeddings"] - began, whole


def runs_with(servers: Callable[[dict[str, str]], AbstractContextManager[float]], **environment: str) -> list[float]:
    """Seconds until the servers answer, and to the first stage of the first run they ever serve and of the next."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = {**prepared_home(folder), "OMP_NUM_THREADS": "2"}
        with servers(own) as answered:
            given = {**own, **environment}
            return [answered, *(to_first_stage(folder, given, concept)[0] for concept in ("taxi", "airplane"))]


def first_run(threads: int) -> tuple[float, float, float, float]:
    """As `to_first_stage`, in a home that has its databases and nothing else; and seconds of the same run once more."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = {**prepared_home(folder), "OMP_NUM_THREADS": str(threads)}
        return *to_first_stage(folder, own), ran("run", str(folder / "taxi.yaml"), **own)


def measure(rounds: int) -> list[dict]:
    """Rows (what, seconds, low, high): medians over the rounds, and the range."""
    found = {
        "`erase --help`": [],
        "Prefect's server, until it answers": [],
        "`erase run`, to its first stage, the first that this server serves": [],
        "`erase run`, to its first stage, the next": [],
        "`erase up`, until both of its servers answer": [],
        "`erase run`, to its first stage, the first that they serve": [],
        "`erase run`, to its first stage, the next that they serve": [],
        "`erase run`, to its first stage, with a server of its own": [],
        "`erase run`, to the first stage that loads a model, with a server of its own": [],
        "a run with two threads, one stage at a time": [],
        "a run with a thread for each of two stages": [],
        "the same run again, all of it from the cache": [],
    }
    for _ in range(rounds):
        served = runs_with(prefect_server, PREFECT_API_URL=ADDRESS)
        tracked = runs_with(both_servers, PREFECT_API_URL=ADDRESS, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{PAGES}")
        to_first, to_model, alone, again = first_run(2)
        seconds = (ran("--help"), *served, *tracked, to_first, to_model, alone, first_run(1)[2], again)
        for seen, each in zip(found.values(), seconds):
            seen.append(each)
    return [
        {"what": what, "seconds": median(seen), "low": min(seen), "high": max(seen)} for what, seen in found.items()
    ]
