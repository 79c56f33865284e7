"""Commands that run a flow, or say what one would take."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from erase_core.methods import MODULES
from erase_core.metrics.labels import names_in
from infra.environment import allow_hub, prepare

from ..tables import complaints, console, gib, show, show_gate
from .app import BASE_OF_STUDIES, ShowUnsafe, app, failing, flow_of, read_spec, refuse, refusing, shown
from .spec_help import SpecCommand

GATE_FAILED = 3


@app.command(cls=SpecCommand)
def run(spec: Annotated[Path, typer.Argument(help="The YAML spec.")], show_unsafe: ShowUnsafe = False) -> None:
    """Erase the concepts of a spec: vocabulary, training, images, scores, report.

    Ends with 0, or with 1 when the run failed, 2 when the spec is wrong, 3 when the model did not pass the spec's gate.
    """
    checked = shown(read_spec(spec), show_unsafe)
    erase = flow_of("erase")

    with failing():
        summary = erase(checked)
    show(summary, Path(checked.output))
    show_gate(summary)
    if summary["gate"] and not summary["gate"]["passed"]:
        raise typer.Exit(GATE_FAILED)


@app.command()
def plan(
    spec: Annotated[Path, typer.Argument(help="The YAML spec.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")] = False,
) -> None:
    """Say which memory a run's training needs, for each rank, and its images, before it starts.

    Judges, CLIPs and attacks are not counted. Nothing is run, and no weights are read; of a hub model the configurations alone are
    downloaded. Warns of an accelerator here that has less.
    """
    checked = read_spec(spec)
    from erase_core.memory import forecasts, shortage
    from erase_core.models.source import ModelError

    with refusing(ModelError):
        # The images are drawn in the run's own process, which holds the flow's libraries too.
        found = forecasts(checked, lambda: importlib.import_module("flows.erase"))
    for warning in filter(None, map(shortage, found)):
        complaints.print(warning, style="yellow", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        sys.stdout.write(json.dumps({each.stage: each.summary for each in found}, indent=2) + "\n")
        return
    for each in found:
        table = Table("GiB", *(moment.name for moment in each.moments), title=each.title)
        for part in each.parts:
            table.add_row(part, *(gib(m.parts[part]) if part in m.parts else "" for m in each.moments))
        table.add_row("in all", *(gib(moment.total) for moment in each.moments), style="bold")
        console.print(table)
        console.print(each.told + "\n", highlight=False)


@app.command()
def batch(
    spec: Annotated[Path, typer.Argument(help="A YAML spec without concepts.")],
    lists: Annotated[
        Path,
        typer.Option(
            help="A folder of NAME.txt, a concept a line, with a list's own settings in NAME.yaml; or a CSV or Parquet table."
        ),
    ],
    training_slots: Annotated[int, typer.Option(min=1, help="How many trainings this machine does at once.")] = 1,
    generation_slots: Annotated[
        int, typer.Option(min=1, help="How much other work on a model it does at once: images, scores, embeddings.")
    ] = 1,
) -> None:
    """Run a spec for many lists of concepts, and print what became of each. Goes on where it was interrupted.

    Ends with 0, or with 1 when a list failed, 2 when something is wrong with a list, 3 when a model did not pass its gate.
    """
    from erase_core.batch import REJECTED, ListsFailed, markdown, read_specs
    from erase_core.models.source import find_model
    from erase_core.preflight import check_hub, uses_hub
    from erase_core.spec_errors import SpecError

    with refusing(SpecError):
        base, specs = read_specs(spec, lists)
    prepare()
    if any(uses_hub(one, find_model(one.model)) for one in specs.values()):
        allow_hub()
        with refusing(SpecError):
            check_hub(*specs.values())
    flow = flow_of("batch")

    with failing():
        try:
            table, status = flow(spec, lists, training_slots, generation_slots), 0
        except ListsFailed as error:
            table, status = error.table, 1
    console.print(markdown(table), markup=False, highlight=False, soft_wrap=True)
    console.print(f"\nWhere to look: {Path(base['output']) / 'batch.parquet'}", highlight=False, soft_wrap=True)
    if status == 0 and any(row["gate"] == REJECTED for row in table):
        status = GATE_FAILED
    raise typer.Exit(status)


@app.command()
def study(
    name: Annotated[
        str,
        typer.Argument(
            help="sensitivity, spectrum, preserve-what, text-similarity, search-collapse, target-collapse, vocabulary or trade-off."
        ),
    ],
    spec: Annotated[
        Path | None, typer.Option(help="The spec every run starts from. Default: taxi on emoji-world.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The study's folder, in place of the spec's output.")] = None,
) -> None:
    """Run one of the studies: a plot, a table and an MLflow run. Goes on where it was interrupted."""
    from erase_core import studies

    if name not in studies.NAMES:
        refuse(f"name: {name!r} is not a study; choose one of {', '.join(studies.NAMES)}")
    base = read_spec(spec or BASE_OF_STUDIES, several=True)
    base = base.model_copy(update={"output": str(output or Path(base.output) / name)})
    flow = flow_of("study")

    with failing():
        figures = flow(name, base)
    for figure, value in figures.items():
        console.print(f"{figure}: {value:.4f}", highlight=False)
    console.print(
        f"\nWhere to look: {Path(base.output) / name}.png, .html and .parquet", highlight=False, soft_wrap=True
    )


@app.command()
def benchmark(
    methods: Annotated[str, typer.Option(help=f"Names, with commas between: {', '.join(MODULES)}. Default: all.")] = "",
    tasks: Annotated[
        str,
        typer.Option(help="Names, with commas between: objects-tuning, objects-held-out, style, unsafe. Default: all."),
    ] = "",
    seeds: Annotated[str, typer.Option(help="Whole numbers, with commas between.")] = "0,1,2",
    spec: Annotated[Path | None, typer.Option(help="The spec every run starts from.")] = None,
    output: Annotated[Path | None, typer.Option(help="The benchmark's folder, in place of the spec's output.")] = None,
    runs: Annotated[
        Path | None,
        typer.Option(help="A Parquet table of runs to take up and add to. Default: runs.parquet in the folder."),
    ] = None,
    attacks: Annotated[
        str, typer.Option(help="Attacks on every model, with commas between. Default: the spec's.")
    ] = "",
) -> None:
    """Run every method on every task with every seed, and print the table. Goes on where it was interrupted."""
    from erase_core import benchmark as core
    from erase_core.studies.variants import comparable

    names, wanted = names_in(methods) or comparable(), names_in(tasks) or list(core.TASKS)
    if not all(seed.isdecimal() for seed in names_in(seeds)):
        refuse(f"seeds: {seeds!r} should be whole numbers with commas between")
    numbers = [int(seed) for seed in names_in(seeds)]
    with refusing(ValueError):
        core.known(names, wanted, numbers)
    base = read_spec(spec or BASE_OF_STUDIES, several=True)
    if output is not None or spec is None:
        base = base.model_copy(update={"output": str(output or "results/benchmark"), "name": "benchmark"})
    if attacks:
        from erase_core.spec import make_spec
        from erase_core.spec_errors import SpecError

        given = base.model_dump(mode="json", exclude_unset=True)
        part = given.get("attacks") or {}
        own = {attack["name"]: attack for attack in part.get("run", [])}
        with refusing(SpecError):
            chosen = [own.get(name, name) for name in names_in(attacks)]
            base = make_spec({**given, "attacks": {**part, "run": chosen}})
    flow = flow_of("benchmark")

    with failing():
        text = flow(base, names, wanted, numbers, runs)
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@app.command()
def pretrain(
    output: Annotated[Path, typer.Option(help="Folder for the finished world.")] = Path("results/emoji-world"),
    scale: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of the full training steps, for a trial.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Every random choice comes from it.")] = 0,
) -> None:
    """Train the embedded model again, from the emoji packages: hours. Goes on where it was interrupted."""
    # The hub's library, which this imports, is to be kept off the network first.
    prepare()
    from erase_core.files import PlaceError
    from erase_core.models.places import check_world_place

    with refusing(PlaceError):
        check_world_place(output)
    flow = flow_of("pretrain")

    with failing():
        figures = flow(str(output), scale, seed)
    for name, value in figures.items():
        console.print(f"{name}: {value:.4f}")
