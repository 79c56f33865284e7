"""Where servers keep their data, and what every process of this project agrees on before it imports them."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import logging
import os
from collections.abc import Iterator

from erase_core.files import disk_full, home


class DatabaseError(ValueError):
    """A database that cannot be used. The message names the variable and the fix."""


HUB_CLOSED = "HUB_CLOSED_BY_ERASE"
"""Set where prepare keeps off the hub, and inherited with HF_HUB_OFFLINE: what the user has set himself is not undone."""


RUNS = {
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # A server that is away for minutes is waited for.
    "PREFECT_CLIENT_MAX_RETRIES": "8",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
}
"""What every run is told, also one that a work pool starts, which is no command of ours: prefect.yaml has the same."""


def prepare() -> None:
    """Point Prefect and MLflow at the project's home, unless the user chose other places, and keep off the network.

    Must run before prefect, mlflow or a model library is imported. Raises DatabaseError.
    """
    root = home()
    defaults = RUNS | {
        "PREFECT_HOME": str(root / "prefect"),
        "PREFECT_LOCAL_STORAGE_PATH": str(root / "prefect" / "storage"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        # Who holds which slot outlives a restart of the server.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "MLFLOW_TRACKING_URI": database("MLFLOW", "psycopg2") or f"sqlite:///{root / 'mlflow' / 'mlflow.db'}",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
        "MPLCONFIGDIR": str(root / "matplotlib"),
    }
    if (url := database("PREFECT", "asyncpg")) is not None:
        defaults["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = url
    if "HF_HUB_OFFLINE" not in os.environ:
        os.environ[HUB_CLOSED] = "1"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    reach_own_servers()
    # A machine without an accelerator is a supported place to run, not worth DeepSpeed's warning in every run.
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
    for name in ("prefect.task_runs", "prefect.flow_runs"):
        logging.getLogger(name).addFilter(told_alone)
    for folder in ("prefect", "mlflow", "matplotlib"):
        (root / folder).mkdir(parents=True, exist_ok=True)


def reach_own_servers() -> None:
    """Keep servers on this machine, as a command's own is, from being looked for behind a proxy."""
    if not any(name.lower() in ("http_proxy", "all_proxy") for name in os.environ):
        return
    for name in ("no_proxy", "NO_PROXY"):
        given = [place for place in os.environ.get(name, "").split(",") if place]
        os.environ[name] = ",".join(dict.fromkeys([*given, "127.0.0.1", "localhost"]))


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Look for no garbage while the block imports, which makes many objects and none: that is a fifth of its time.

    Nor among these objects later, the first time: they last as long as the process.
    """
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
        gc.enable()


def told_alone(record: logging.LogRecord) -> bool:
    """Leave out where in the code an error was met that says all there is to know. Lets every record pass.

    A full disk is one, and a rank's failure, whose message has the rank's own traceback where there is need of one.
    """
    from erase_core.distributed.ranks import RanksFailed

    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if isinstance(error, RanksFailed) or disk_full(error):
        record.exc_info = None
    return True


def database(service: str, driver: str) -> str | None:
    """The PostgreSQL database that ERASE_PREFECT_DATABASE or ERASE_MLFLOW_DATABASE names, with the driver its server needs.

    None when the variable is not set: then the service keeps a SQLite file in the project's home. Raises DatabaseError for
    anything but a PostgreSQL address, and when the driver is not installed.
    """
    variable = f"ERASE_{service}_DATABASE"
    if not (url := os.environ.get(variable)):
        return None
    scheme, _, rest = url.partition("://")
    if scheme.partition("+")[0] not in ("postgresql", "postgres") or not rest:
        raise DatabaseError(
            f"{variable}: is not the address of a PostgreSQL database; write postgresql://user:password@host:5432/name"
        )
    if importlib.util.find_spec(driver) is None:
        raise DatabaseError(f"{variable}: PostgreSQL needs the package {driver}; pip install 'erase[postgresql]'")
    return f"postgresql+{driver}://{rest}"


def allow_hub() -> None:
    """Let this process fetch from the model hub, unless the user has set HF_HUB_OFFLINE: only for a spec that names a hub model."""
    if HUB_CLOSED in os.environ:
        os.environ["HF_HUB_OFFLINE"] = "0"
