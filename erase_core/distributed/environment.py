"""What the environment says about ranks and hosts: torchrun's and Slurm's variables, and hostfiles. Needs no torch."""

from __future__ import annotations

import contextvars
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FIRST_PORT, PORTS = 20_000, 20_000
"""Slurm says nothing of ports: a job step's own number chooses one of these."""
PATIENCE = "ERASE_STALL_MINUTES"
"""Names how long ranks may say nothing before they are taken for hung."""
MINUTES = 120.0
LONGEST = 10_000_000
"""More minutes than that, torch cannot wait."""
gpus: contextvars.ContextVar[str | None] = contextvars.ContextVar("gpus", default=None)
"""The GPUs of this machine that ranks which are started here may see, as in CUDA_VISIBLE_DEVICES. None: all."""


@dataclass(frozen=True)
class Place:
    """A rank's place: its number among all ranks and on its host, and where rank 0 listens."""

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int

    def variables(self) -> dict[str, str]:
        """The same as torchrun's environment variables."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": str(self.local_rank),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def place(environment: Mapping[str, str]) -> Place | None:
    """This rank's place, or None for a process that is alone.

    RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, as torchrun, DeepSpeed's launcher or a person sets them; else
    the variables of a Slurm job step, where MASTER_ADDR and MASTER_PORT may still be given. ValueError names what is missing.
    """
    if "RANK" in environment:
        names = ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        missing = [name for name in names if name not in environment]
        if missing:
            raise ValueError(
                f"RANK is set, but not {', '.join(missing)}; set them all, or none for a process that is alone"
            )
        world, address, port = (environment[name] for name in names)
        return Place(int(environment["RANK"]), int(world), int(environment.get("LOCAL_RANK", 0)), address, int(port))
    # Not SLURM_NTASKS: a batch script has it too, and is no rank.
    if "SLURM_PROCID" in environment and int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        step = int(environment.get("SLURM_JOB_ID", 0)) * 100 + int(environment.get("SLURM_STEP_ID", 0))
        return Place(
            int(environment["SLURM_PROCID"]),
            int(environment["SLURM_STEP_NUM_TASKS"]),
            int(environment.get("SLURM_LOCALID", 0)),
            environment.get("MASTER_ADDR") or first_host(environment["SLURM_STEP_NODELIST"]),
            int(environment.get("MASTER_PORT") or FIRST_PORT + step % PORTS),
        )
    return None


def first_host(nodes: str) -> str:
    """The first host of a Slurm node list: "gpu[03-05,9],cpu1" → "gpu03"."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes).group()
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)


def patience(environment: Mapping[str, str]) -> float:
    """The seconds that ranks may say nothing; healthy ones tell about once a minute. ValueError names the variable."""
    try:
        minutes = float(environment.get(PATIENCE) or MINUTES)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes <= LONGEST:
        raise ValueError(
            f"{PATIENCE}: {environment[PATIENCE]!r} is no number of minutes above 0 and up to {LONGEST}; write one, or unset it"
        )
    return 60 * minutes


@dataclass(frozen=True)
class NodeGroup:
    """The machines that launch one run together, and this one's number among them."""

    nodes: int
    node: int
    address: str
    port: int


def nodes_of(environment: Mapping[str, str]) -> int:
    """How many machines torchrun's PET_NNODES asks for: N, or the least of an elastic N:M."""
    return int(environment.get("PET_NNODES", "1").split(":")[0])


def node_group(environment: Mapping[str, str]) -> NodeGroup | None:
    """The group that torchrun's own variables describe (PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR, PET_MASTER_PORT), as
    Kubeflow's trainer sets them; None on a single machine. ValueError names what is missing.
    """
    nodes = nodes_of(environment)
    if nodes == 1:
        return None
    names = ("PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT")
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise ValueError(f"PET_NNODES is {nodes}, but {', '.join(missing)} is not set; set it, or unset PET_NNODES")
    node, address, port = (environment[name] for name in names)
    return NodeGroup(nodes, int(node), address, int(port))


def read_hostfile(path: Path) -> dict[str, int]:
    """Host → slots of a DeepSpeed hostfile, a line "host slots=N" each. ValueError names the line that is not."""
    found: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        matched = re.fullmatch(r"(\S+)\s+slots=(\d+)", text)
        if matched is None or matched[1] in found:
            raise ValueError(f"{path}: line {number} must be 'host slots=N', each host once")
        found[matched[1]] = int(matched[2])
    return found
