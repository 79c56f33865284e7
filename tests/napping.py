"""A flow that takes a few seconds, served by `python -m tests.napping SECONDS` every so many seconds."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from prefect import flow

from flows.missed import catch_up_once

NAP = 3.0


@flow(name="nap", on_running=[catch_up_once])
def nap(seconds: float = NAP) -> None:
    """Sleep.

    Args:
        seconds: How long.
    """
    time.sleep(seconds)


if __name__ == "__main__":
    from infra import deployments
    from tests.napping import nap as served

    deployments.load_flow = lambda name: served
    every = deployments.Deployment(flow="erase", interval=float(sys.argv[1]))
    served_as, address = deployments.Deployments(deployments={"often": every}), os.environ["PREFECT_API_URL"]
    deployments.serve_deployments(served_as, Path("napping.yaml"), address, print)
