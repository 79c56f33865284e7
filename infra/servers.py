"""Run the Prefect server and the MLflow pages side by side."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import httpx

from erase_core.files import home

SECONDS_TO_START = 90
SECONDS_TO_END = 20


def answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def log_of(name: str) -> Path:
    """Where the output of the server of this name lies."""
    return home() / name.lower() / "server.log"


def find_prefect() -> str:
    """The address of a Prefect server that answers: PREFECT_API_URL, or the one of `erase up` on this machine.

    Schedules need a server that outlives the runs. Raises RuntimeError when there is none.
    """
    address = os.environ.setdefault("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    user, _, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    try:
        httpx.get(f"{address}/health", timeout=10, auth=(user, password) if user else None).raise_for_status()
    except httpx.HTTPError:
        raise RuntimeError(
            f"PREFECT_API_URL: no Prefect server answers at {address}; start one with erase up, or set the address of yours"
        ) from None
    return address


def serve(prefect_port: int, mlflow_port: int, say: Callable[[str], None], for_others: bool = False) -> None:
    """Start both servers on loopback, say their addresses once they answer, and stop both when interrupted or hung up.

    What they print lies in server.log in their folders of the home, from the last start. Raises RuntimeError when a port is
    taken, a server does not start, MLflow's store is another server or cannot be used, or a server ends by itself, which stops the
    other. for_others: the files of runs lie behind the MLflow server, for machines that do not see this home.
    """
    store = os.environ["MLFLOW_TRACKING_URI"]
    if store.startswith("http"):
        raise RuntimeError(f"MLFLOW_TRACKING_URI: {store} is a server already; unset it where you start one")
    if prefect_port == mlflow_port:
        raise RuntimeError(f"mlflow_port: {mlflow_port} is the Prefect server's too; choose another with --mlflow-port")
    for name, port in (("prefect_port", prefect_port), ("mlflow_port", mlflow_port)):
        if answers(port):
            raise RuntimeError(f"{name}: port {port} is taken; choose another with --{name.replace('_', '-')}")
    commands = {
        "Prefect": (
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(prefect_port)],
            prefect_port,
        ),
        "MLflow": (
            [
                sys.executable,
                "-m",
                "mlflow",
                "server",
                "--host",
                "127.0.0.1",
                "--port",
                str(mlflow_port),
                "--workers",
                "1",
                "--artifacts-destination",
                str(home() / "mlflow" / "artifacts"),
            ],
            mlflow_port,
        ),
    }
    # Shells start background jobs with SIGINT ignored.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)
    # A terminal that is closed; nohup says that this does not matter.
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    running = {}
    try:
        for name, (command, _) in commands.items():
            if name == "MLflow":
                # Its server would have the files behind it, and this home's runs without a server could not write them then.
                make_store(for_others)
            with open(log_of(name), "wb") as log:
                running[name] = subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    # A store's address may hold a password, and everybody here can read a command.
                    env={**os.environ, "PYTHONUNBUFFERED": "1", "MLFLOW_BACKEND_STORE_URI": store},
                )
        from tasks.tracking import runs_page

        for name, (_, port) in commands.items():
            deadline = time.monotonic() + SECONDS_TO_START
            while not answers(port):
                if running[name].poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{name} did not start on port {port}; {log_of(name)} says why")
                time.sleep(0.2)
            address = f"http://127.0.0.1:{port}"
            say(f"{name:8} {runs_page(address) if name == 'MLflow' else address}")
        say(
            f"Runs started elsewhere appear here with PREFECT_API_URL=http://127.0.0.1:{prefect_port}/api. Ctrl-C stops both."
        )
        watch(running)
    except KeyboardInterrupt:
        pass
    finally:
        for process in running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in running.values():
            try:
                process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def make_store(for_others: bool) -> None:
    """Make MLflow's store where it is not there. Raises RuntimeError where it cannot be used."""
    # Takes no longer than the Prefect server to start.
    from mlflow import MlflowException

    from tasks.tracking import make_experiment

    try:
        make_experiment(for_others)
    except MlflowException as error:
        raise RuntimeError(f"MLflow's store cannot be used: {error}") from None


def watch(running: dict[str, subprocess.Popen]) -> NoReturn:
    """Wait until a server ends, and raise RuntimeError with how it did."""
    while True:
        for name, process in running.items():
            if (code := process.poll()) is not None:
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                raise RuntimeError(f"the {name} server {how}; both are stopped; {log_of(name)} has what it said")
        time.sleep(0.5)
