"""What `erase serve` serves: the deployments of a YAML file, each a flow with its parameters and its schedule."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from zoneinfo import ZoneInfo

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from erase_core import benchmark
from erase_core.batch import read_specs
from erase_core.preflight import check
from erase_core.spec import make_spec
from erase_core.spec_errors import SpecError, describe
from erase_core.spec_paths import expand
from erase_core.spec_yaml import SafeLoader, load_spec, parse_mapping, read_text

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.deployments.runner import RunnerDeployment

FLOWS = ("erase", "batch", "benchmark", "pretrain")
SECONDS_TO_START = 10
"""How soon a run that is due is started, unless an interval is shorter."""
SHORTEST_POLL = 1
ANCHOR = datetime(2024, 1, 1, tzinfo=UTC)
"""What intervals are counted from: counted from when serving begins, a day would never pass on a machine that starts daily."""


class DeploymentsError(ValueError):
    """A deployments file that cannot be served. The message names the field and the fix, one line a problem."""


def cron_expression(text: str) -> str:
    from prefect.client.schemas.schedules import CronSchedule

    try:
        return CronSchedule(cron=text).cron
    except ValidationError:
        raise ValueError(
            f"{text!r} is not a cron expression; write minute, hour, day, month and weekday, as in '0 2 * * *'"
        ) from None


def time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        raise ValueError(f"{name!r} is not a time zone; write one like Europe/Berlin") from None
    return name


class Deployment(BaseModel):
    """One flow, ready to be run: by its schedule, or when somebody asks for it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    flow: Literal["erase", "batch", "benchmark", "pretrain"] = Field(description="The flow to run.")
    description: str | None = Field(None, description="Shown in the Prefect UI. Default: the flow's own.")
    cron: Annotated[str, AfterValidator(cron_expression)] | None = Field(
        None, description="When to run, as cron says it."
    )
    interval: float | None = Field(None, ge=1, description="Seconds between runs, in place of cron.")
    timezone: Annotated[str, AfterValidator(time_zone)] = Field("UTC", description="Of the cron expression.")
    paused: bool = Field(
        False,
        description="Whether its schedule waits, when it is served for the first time, until it is resumed in the Prefect UI; from "
        "then on that says so.",
    )
    parameters: dict[str, Any] = Field(
        {},
        description="The flow's parameters. A spec may be a mapping, or a file's path, which each run reads anew; paths are found "
        "from this file.",
    )
    tags: list[str] = Field([], description="Tags of its runs in Prefect.")

    @model_validator(mode="after")
    def one_schedule(self) -> Deployment:
        if self.cron and self.interval:
            raise ValueError("has cron and interval; keep one")
        return self

    @property
    def scheduled(self) -> bool:
        return bool(self.cron or self.interval)


class Deployments(BaseModel):
    """A deployments file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    deployments: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,99}$")], Deployment] = Field(
        min_length=1, description="Each deployment by its name."
    )


ON_DEMAND = Deployments(deployments={name: Deployment(flow=name) for name in FLOWS})
"""What is served without a file: every flow, for whoever starts it in the Prefect UI."""


def read_deployments(path: Path) -> Deployments:
    """Read and check a deployments file. DeploymentsError names what is wrong and how to mend it."""
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DeploymentsError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise DeploymentsError(f"{path}: must be a mapping with the key deployments")
    try:
        found = Deployments.model_validate(value)
    except ValidationError as error:
        raise DeploymentsError("\n".join(describe(problem, Deployments) for problem in error.errors())) from None
    complaints, ready, made_from = [], {}, {}
    for name, deployment in found.deployments.items():
        try:
            parameters = checked_parameters(deployment, path.parent)
            ready[name] = deployment.model_copy(update={"parameters": parameters})
            made_from[name] = source_of(ready[name])
        except ValueError as error:
            complaints += [f"deployments.{name}.parameters.{line}" for line in str(error).splitlines()]
    complaints += shared_outputs(made_from)
    if complaints:
        raise DeploymentsError("\n".join(complaints))
    return Deployments(deployments=ready)


def checked_parameters(deployment: Deployment, folder: Path) -> dict[str, Any]:
    """A deployment's parameters as JSON, with every spec checked, and paths of files in full. ValueError names the parameter and
    the fix.
    """
    from flows.parameters import SpecOrFile

    flow, given, complaints = load_flow(deployment.flow), dict(deployment.parameters), []
    signature = inspect.signature(flow.fn, eval_str=True).parameters
    for name in given:
        if name not in signature:
            complaints.append(f"{name}: is not a parameter of {deployment.flow}; it has {', '.join(signature)}")
    for name, parameter in signature.items():
        if name not in given and deployment.scheduled and parameter.default is inspect.Parameter.empty:
            complaints.append(f"{name}: is missing; a run that a schedule starts needs it")
        if given.get(name) is not None and parameter.annotation in (Path, Path | None):
            given[name] = str((folder / expand(str(given[name]))).resolve())
            if parameter.annotation is Path and not Path(given[name]).exists():
                complaints.append(f"{name}: {given[name]} is not there; write a path as seen from {folder}")
        if name in given and parameter.annotation is SpecOrFile:
            # A file's lines say where they are from; a mapping's begin with the field.
            in_file = isinstance(given[name], str)
            try:
                if in_file:
                    given[name] = str((folder / expand(given[name])).resolve())
                spec = load_spec(given[name]) if in_file else make_spec(given[name])
                check(spec, several=deployment.flow != "erase")
                if not in_file:
                    # What it leaves out its methods' own defaults may say.
                    given[name] = spec.model_dump(mode="json", exclude_unset=True)
            except SpecError as error:
                complaints += [f"{name}{': ' if in_file else '.'}{line}" for line in str(error).splitlines()]
    if deployment.flow == "benchmark":
        try:
            benchmark.known(given.get("methods") or [], given.get("tasks") or [], given.get("seeds", [0]))
        except ValueError as error:
            complaints.append(str(error))
        except TypeError:
            pass  # The signature tells of another type.
    if not complaints and deployment.flow == "batch" and {"spec", "lists"} <= set(given):
        read_specs(Path(given["spec"]), Path(given["lists"]), given.get("skip_wrong") is True)
    if complaints:
        raise ValueError("\n".join(complaints))
    try:
        signature_holds(flow, given)
    except ValidationError as error:
        raise ValueError("\n".join(describe(problem) for problem in error.errors())) from None
    return given


def source_of(deployment: Deployment) -> tuple[str, dict[str, Any]]:
    """The parameter that names a deployment's output, and what it holds, as far as the file says. Raises SpecError."""
    given = deployment.parameters
    if deployment.flow == "pretrain":
        return "output", given
    if deployment.flow == "batch" and "spec" in given:
        return "spec", parse_mapping(read_text(Path(given["spec"])), given["spec"])
    name = "base" if deployment.flow == "benchmark" else "spec"
    source = given.get(name, {})
    return f"{name}.output", load_spec(source).model_dump(mode="json", exclude_unset=True) if isinstance(
        source, str
    ) else source


def shared_outputs(made_from: dict[str, tuple[str, dict[str, Any]]]) -> list[str]:
    """A line for each deployment that writes to an earlier one's output, or above or below it.

    The same spec may be run by several, such as one with a schedule and one without: its runs keep off each other.
    """
    complaints, folders = [], {}
    for name, (parameter, source) in made_from.items():
        if not isinstance(source.get("output"), str):
            continue
        folder = Path(source["output"]).resolve()
        for other, its in folders.items():
            nested = folder.is_relative_to(its) or its.is_relative_to(folder)
            if nested and made_from[other] != (parameter, source):
                complaints.append(
                    f"deployments.{name}.parameters.{parameter}: {source['output']!r} is where {other!r} writes; "
                    "choose another output"
                )
        folders[name] = folder
    return complaints


def signature_holds(flow: Flow, given: dict[str, Any]) -> None:
    """Raise pydantic's ValidationError where a parameter that is given has another type than the flow's."""
    from pydantic import create_model

    signature = inspect.signature(flow.fn, eval_str=True).parameters
    create_model("parameters", **{name: (signature[name].annotation, ...) for name in given}).model_validate(given)


def load_flow(name: str) -> Flow:
    """The flow of this name: the function that its module of `flows` is named after."""
    return getattr(importlib.import_module(f"flows.{name}"), name)


def build(found: Deployments, paused: dict[str, bool] | None = None) -> list[RunnerDeployment]:
    """Prefect's deployments. A scheduled one has at most one run at a time: a second is cancelled, and says so.

    Runs of a flow that can ask for this machine's slots do so. paused: whether those are that a server has already, by
    "flow/name".
    """
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.deployments.runner import EntrypointType
    from prefect.schedules import Cron, Interval

    alone = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    built = []
    for name, deployment in found.deployments.items():
        schedule = None
        if deployment.cron:
            schedule = Cron(deployment.cron, timezone=deployment.timezone)
        elif deployment.interval:
            schedule = Interval(timedelta(seconds=deployment.interval), anchor_date=ANCHOR)
        flow = load_flow(deployment.flow)
        slots = {"slots": True} if "slots" in inspect.signature(flow.fn).parameters else {}
        built.append(
            flow.to_deployment(
                name,
                schedule=schedule,
                paused=(paused or {}).get(f"{flow.name}/{name}", deployment.paused),
                parameters={**slots, **deployment.parameters},
                description=deployment.description,
                tags=deployment.tags,
                concurrency_limit=alone if deployment.scheduled else None,
                entrypoint_type=EntrypointType.MODULE_PATH,
            )
        )
    return built


def serve_deployments(
    found: Deployments, file: Path, server: str, say: Callable[[str], None], limit: int | None = None
) -> None:
    """Serve the deployments of a file on the Prefect server at this address until interrupted.

    limit: how many runs at once, in all; None for all that are due. Schedules stay active when this process ends, so that what was
    due in the meantime is caught up, once, by the next one.
    """
    from prefect import serve

    from .served import take_over

    names = [f"{load_flow(deployment.flow).name}/{name}" for name, deployment in found.deployments.items()]
    paused = take_over(names, file, server, say)
    intervals = [d.interval for d in found.deployments.values() if d.interval]
    poll = max(SHORTEST_POLL, min([SECONDS_TO_START, *(seconds / 2 for seconds in intervals)]))
    built = build(found, paused)
    serve(*built, pause_on_shutdown=False, print_starting_message=False, limit=limit, query_seconds=poll)
