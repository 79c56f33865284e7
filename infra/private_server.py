"""A Prefect server of a command's own: it starts while the command imports, and ends with it, however that ends.

Run as a module, it is the server itself, which imports what is not Prefect's and waits to be told to serve.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import importlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from erase_core.files import alone, home

from .environment import importing, prepare

UNUSED = ("SCHEDULER", "LATE_RUNS", "TRIGGERS", "FOREMAN", "PAUSE_EXPIRATIONS", "CANCELLATION_CLEANUP", "DB_VACUUM")
"""Services of Prefect's that belong to deployments, which a command's own server has none of."""
IMPORTED_BY_PREFECT = ("docket", "fastapi", "sqlalchemy.ext.asyncio", "uvicorn")
"""Half of what the server imports: other libraries, which neither read the home nor write to it."""
ROOT = Path(__file__).parent.parent
SECONDS_TO_START = 180
SECONDS_TO_END = 10


waiting: list[subprocess.Popen] = []
"""The server that has not been told its port yet, if any."""


def configured() -> bool:
    """Whether the user has a Prefect server, by environment or by Prefect's profile."""
    profiles = Path(os.environ.get("PREFECT_HOME") or home() / "prefect") / "profiles.toml"
    return "PREFECT_API_URL" in os.environ or (profiles.is_file() and "PREFECT_API_URL" in profiles.read_text())


def warm() -> None:
    """Have the server's process import, unless one is configured or does. It writes nothing before `start`, and ends with this
    process.
    """
    if not configured() and not any(server.poll() is None for server in waiting):
        # This very module, whatever lies in the folder that the command runs in.
        command, places = [sys.executable, "-P", "-m", __name__], [str(ROOT), os.environ.get("PYTHONPATH", "")]
        own = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
        # It prints nothing, and must not hold what reads the command's output. A session of its own: Ctrl-C must not reach it, for
        # the run has yet to say that it was stopped.
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
        waiting.append(subprocess.Popen(command, **pipes, env=own, start_new_session=True))
        atexit.register(end_untold)


def end(server: subprocess.Popen) -> None:
    with contextlib.suppress(BrokenPipeError):  # What it was not there to be told.
        server.stdin.close()


def end_untold() -> None:
    for server in waiting:
        server.kill()


def start() -> Callable[[], None]:
    """Start a server unless one is configured, point Prefect at it, and return what waits until it answers.

    Must be called before prefect is imported. Waiting raises RuntimeError when the server ends or stays silent.
    """
    if configured():
        return lambda: None
    warm()
    server = waiting.pop()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = json.dumps({"port": port, "environment": dict(os.environ)})
    with contextlib.suppress(BrokenPipeError):  # A server that has died is told of by who waits for it.
        server.stdin.write(f"{told}\n".encode())
        server.stdin.flush()
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    # Registered before prefect is imported, and so run after Prefect has sent its last events. The server stores them and ends.
    atexit.register(end, server)

    def wait() -> None:
        deadline = time.monotonic() + SECONDS_TO_START
        while server.poll() is None and time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5).close()
            except OSError:
                time.sleep(0.02)
                continue
            from prefect.settings import get_current_settings

            # The server ends with the run, so nobody is left who could miss its heartbeats, and their thread ends slowly.
            get_current_settings().flows.heartbeat_frequency = None
            return
        raise RuntimeError("the Prefect server of this run did not start; is the disk full?")

    return wait


def serve(port: int) -> None:
    """Serve until standard input ends, which it does when the process that started this ends."""
    os.environ.update({"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1", "PREFECT_UI_ENABLED": "0"})
    # The database is made here, under a lock, and nothing here needs Prefect's blocks for other services.
    os.environ.update(
        {"PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false", "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false"}
    )
    os.environ.update({f"PREFECT_SERVER_SERVICES_{service}_ENABLED": "false" for service in UNUSED})
    os.environ.pop("PREFECT_API_URL", None)
    with importing():
        import uvicorn
        from prefect.server.api.server import create_app
        from prefect.server.database import provide_database_interface

        # Two first servers at once cannot both make the database.
        with alone(home() / "prefect"):
            asyncio.run(provide_database_interface().create_db())
        app = create_app()
    gc.freeze()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="on"))

    def end_with_parent() -> None:
        while os.read(0, 4096):
            pass
        server.should_exit = True
        time.sleep(SECONDS_TO_END)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    server.run()
    # All is stored; taking the modules down would only make the command's end later.
    os._exit(0)


def main() -> None:
    """Import, wait to be told port and environment in a line of standard input, and serve; end where that ends untold."""
    with importing():
        for name in IMPORTED_BY_PREFECT:
            importlib.import_module(name)
    line = b""
    # Byte by byte: what follows the line is for who serves to see.
    while not line.endswith(b"\n"):
        if not (read := os.read(0, 1)):
            os._exit(0)
        line += read
    told = json.loads(line)
    os.environ.clear()
    os.environ.update(told["environment"])
    prepare()
    serve(told["port"])


if __name__ == "__main__":
    main()
