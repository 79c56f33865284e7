"""What every command shares: the application, how a command ends with what is wrong, and how it comes to a spec and a flow."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import erase_core
from erase_core.hub import HubAway
from infra.environment import DatabaseError, allow_hub, importing, prepare

from ..tables import complaints

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown", add_completion=False
)
BASE_OF_STUDIES = Path(erase_core.__file__).parent / "studies" / "base.yaml"
TrainingSlots = Annotated[int | None, typer.Option(min=1, help="How many trainings this machine does at once.")]
GenerationSlots = Annotated[
    int | None,
    typer.Option(min=1, help="How much other work on a model it does at once: images, scores, embeddings."),
]
MODEL = "emoji-world, a diffusers folder, a .safetensors file, a hub id, or a registered model (models:/NAME@champion)."
ShowUnsafe = Annotated[bool, typer.Option("--show-unsafe", help="Blur no images in the report and in MLflow.")]


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"erase {importlib.metadata.version('erase')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Erase concepts from text-to-image models, and prove that they are gone and that nothing else was hurt."""


def refuse(problem: Exception | str) -> NoReturn:
    """End the command with what is wrong, a problem a line."""
    for line in str(problem).splitlines():
        complaints.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(2) from None


@contextlib.contextmanager
def refusing(*kinds: type[Exception]):
    """End the command with an error of these kinds."""
    try:
        yield
    except kinds as error:
        refuse(error)
    except HubAway as error:
        fail(error)


def fail(error: Exception) -> NoReturn:
    """Say in a line what failed, which may not fail again, and end with 1."""
    complaints.print(f"{type(error).__name__}: {error}", style="red", markup=False, soft_wrap=True)
    complaints.print("Mend that and run it again: finished stages are kept.", highlight=False)
    raise typer.Exit(1) from None


@contextlib.contextmanager
def failing():
    """Say in a line why a flow failed, and end with 1."""
    try:
        yield
    except Exception as error:
        fail(error)


def read_spec(path: Path, several: bool = False):
    """Load and check a spec, or end with its errors, one a line, before anything heavy is imported or written."""
    from erase_core.preflight import check, check_hub, uses_hub
    from erase_core.spec_errors import SpecError
    from erase_core.spec_yaml import load_spec

    with refusing(SpecError):
        spec = load_spec(path)
        source = check(spec, several)
    prepare()
    if uses_hub(spec, source):
        allow_hub()
        with refusing(SpecError):
            check_hub(spec)
    return spec


def read_lists(path: Path, lists: Path, skip_wrong: bool = False) -> tuple[dict, dict]:
    """Load and check a batch: its spec's own keys, and each list's spec by the list's name; or end with what is wrong.

    skip_wrong: lists that are wrong are left out, and each list's own run asks the hub for what it names.
    """
    from erase_core.batch import read_specs
    from erase_core.models.source import find_model
    from erase_core.preflight import check_hub, uses_hub
    from erase_core.spec_errors import SpecError

    with refusing(SpecError):
        base, specs, _ = read_specs(path, lists, skip_wrong)
    prepare()
    if any(uses_hub(one, find_model(one.model)) for one in specs.values()):
        allow_hub()
        if not skip_wrong:
            with refusing(SpecError):
                check_hub(*specs.values())
    return base, specs


def warn(lines: Iterable[str]) -> None:
    """Print what somebody may regret, each line once."""
    for line in dict.fromkeys(lines):
        complaints.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)


def expect_flow() -> None:
    """Have the Prefect server that `flow_of` may start import while the command checks what it is to run; nothing is written."""
    from infra.private_server import warm

    warm()


def flow_of(name: str):
    """A flow by the name of its file, once there is a Prefect server: the one that is configured, or one of this process's own."""
    from infra.private_server import start

    ready = start()
    with importing():
        flow = getattr(importlib.import_module(f"flows.{name}"), name)
        # MLflow opens its store at the first call: now, while the server starts. What fails here, the flow tells.
        with contextlib.suppress(Exception):
            importlib.import_module("tasks.tracking").experiment_id()
            importlib.import_module("prefect.flow_engine")
    with failing():
        ready()
    return flow


@contextlib.contextmanager
def asking(kind: type[Exception]):
    """End the command with an error of this kind, which names the fix, or in a line with any other, as when MLflow is away."""
    try:
        yield
    except kind as error:
        refuse(error)
    except Exception as error:
        fail(error)


def place_of(model: str) -> str:
    """Where a model lies, as `find_model` takes it: of a registered one (models:/NAME@ALIAS, models:/NAME/VERSION) its folder."""
    if not model.startswith("models:/"):
        return model
    prepare()
    from tasks import registry

    with asking(registry.RegistryError):
        return str(registry.folder_of(model))


def shown(spec, show_unsafe: bool):
    """The spec, with nothing blurred where the command line says so."""
    part = spec.report.model_copy(update={"show_unsafe": spec.report.show_unsafe or show_unsafe})
    return spec.model_copy(update={"report": part})


def main() -> None:
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")
    # Commands that run no flow import a lot too.
    gc.set_threshold(100_000, 50, 50)
    status: int | str | None = 1

    def end() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else int(status is not None))

    # Registered first and so run last: taking down torch's modules one by one would add seconds to every command.
    atexit.register(end)
    try:
        app()
    except DatabaseError as error:
        complaints.print(str(error), style="red", markup=False, soft_wrap=True)
        status = 2
    except SystemExit as leaving:
        status = leaving.code
        raise
