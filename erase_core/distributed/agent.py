"""One machine's elastic agent: starts its ranks of a job, watches them, and tells how a rank died.

Arguments: module, job, ranks on this machine, machines, this machine's number, host:port of the first, the attempt's name.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from .rank import FAILURES, write_death


def main(module: str, job: str, here: str, nodes: str, node: str, endpoint: str, attempt: str) -> int:
    several = int(nodes) > 1
    config = LaunchConfig(
        min_nodes=int(nodes),
        max_nodes=int(nodes),
        nproc_per_node=int(here),
        run_id=attempt,
        rdzv_backend="static" if several else "c10d",
        rdzv_endpoint=endpoint,
        rdzv_configs={"rank": int(node), "timeout": 600} if several else {},
        # A retry is the caller's, from the last checkpoint.
        max_restarts=0,
        shutdown_timeout=5,
        # Else each launch leaves a folder in the system's temporary one. This one goes with the job.
        logs_specs=DefaultLogsSpecs(log_dir=os.environ[FAILURES]),
    )
    try:
        elastic_launch(config, sys.executable)("-u", "-m", module, job)
    except ChildFailedError as error:
        ranks = int(here) * int(nodes)
        for rank, failure in error.failures.items():
            if failure.exitcode < 0 and -failure.exitcode != signal.SIGTERM:
                write_death(Path(os.environ[FAILURES]), rank, ranks, -failure.exitcode)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
