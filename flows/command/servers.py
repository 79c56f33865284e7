"""Commands that stay: the pages, deployments, and a machine lent to a run on another."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from infra.environment import allow_hub, prepare

from ..tables import console
from .app import GenerationSlots, TrainingSlots, app, refuse, refusing

DEPLOYMENTS = Path("deployments.yaml")
"""What is served where no file is named."""


@app.command()
def up(
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Prefect server.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the MLflow pages.")] = 5000,
    for_others: Annotated[
        bool,
        typer.Option(
            "--for-others",
            help="Keep the files of runs behind the MLflow server, for machines that do not see this home: from its first run on.",
        ),
    ] = False,
) -> None:
    """Serve the Prefect and MLflow pages until interrupted."""
    prepare()
    from infra.servers import serve

    with refusing(RuntimeError):
        serve(prefect_port, mlflow_port, lambda line: console.print(line, highlight=False, soft_wrap=True), for_others)


@app.command()
def join() -> None:
    """Lend this machine to a run on another: start its share of the ranks of every job there, until it is stopped.

    Both find each other by PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and PET_MASTER_PORT and share ERASE_HOME; see
    docs/distribution.md.
    """
    from erase_core.distributed.environment import node_group
    from erase_core.distributed.ranks import follow_orders

    with refusing(ValueError):
        group = node_group(os.environ)
    if group is None or group.node == 0:
        refuse("PET_NNODES must be 2 or more and PET_NODE_RANK 1 or more here; rank 0's machine runs erase run")
    follow_orders(group, lambda line: console.print(line, end="", markup=False, highlight=False))


@app.command()
def serve(
    file: Annotated[
        Path | None,
        typer.Argument(help="The deployments. Default: deployments.yaml; without it, every flow on demand."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="How many runs at once, in all; those that wait for a slot count. Default: no limit."),
    ] = None,
    training_slots: TrainingSlots = None,
    generation_slots: GenerationSlots = None,
    only_check: Annotated[bool, typer.Option("--check", help="Check the file and end.")] = False,
) -> None:
    """Serve deployments: start their runs by their schedules, and when somebody asks in the Prefect UI, until interrupted.

    Their runs share this machine's slots. Where none are given, those that others have open here stay; without any, there are as
    many for trainings as GPUs, 1 without a GPU, and 1 for other work.
    """
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")
    prepare()
    # Each run is a process of its own, for a spec that may name a hub model.
    allow_hub()
    from infra.servers import find_prefect

    with refusing(RuntimeError):
        # Prefect reads its settings when it is imported, which reading the deployments does.
        address = None if only_check else find_prefect()
        from infra.deployments import ON_DEMAND, DeploymentsError, read_deployments, serve_deployments
    if file is None and DEPLOYMENTS.is_file():
        file = DEPLOYMENTS
    with refusing(DeploymentsError):
        found = read_deployments(file) if file else ON_DEMAND
    if only_check:
        console.print(f"{file or 'every flow'}: {len(found.deployments)} deployments, as they should be")
        return
    for name, deployment in found.deployments.items():
        when = deployment.cron or (f"every {deployment.interval:g} s" if deployment.interval else "on demand")
        console.print(f"{deployment.flow}/{name}  [dim]{when}[/dim]", highlight=False)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    from tasks.gpus import visible
    from tasks.slots import open_slots

    with open_slots(training_slots, generation_slots, len(visible()) or 1) as slots:
        told = "{training} trainings and {generation} other work on a model at once".format(**slots)
        console.print(f"Served for {address}, {told}.", highlight=False, soft_wrap=True)
        console.print("Ctrl-C ends it; what is due until it is served again is caught up once.")
        serve_deployments(found, file or DEPLOYMENTS, address, say, limit)
