"""Commands that run a flow, or say what one would take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erase_core.methods import MODULES
from erase_core.metrics.labels import names_in
from infra.environment import prepare

from ..tables import console, show, show_gate
from .app import (
    BASE_OF_STUDIES,
    GenerationSlots,
    ShowUnsafe,
    TrainingSlots,
    app,
    expect_flow,
    failing,
    flow_of,
    read_lists,
    read_spec,
    refuse,
    refusing,
    shown,
    warn,
)
from .spec_help import SpecCommand

GATE_FAILED = 3


@app.command(cls=SpecCommand)
def run(spec: Annotated[Path, typer.Argument(help="The YAML spec.")], show_unsafe: ShowUnsafe = False) -> None:
    """Erase the concepts of a spec: vocabulary, training, images, scores, report.

    Ends with 0, or with 1 when the run failed, 2 when the spec is wrong, 3 when the model did not pass the spec's gate.
    """
    expect_flow()
    checked = shown(read_spec(spec), show_unsafe)
    erase = flow_of("erase")

    with failing():
        summary = erase(checked)
    show(summary, Path(checked.output))
    show_gate(summary)
    if summary["gate"] and not summary["gate"]["passed"]:
        raise typer.Exit(GATE_FAILED)


@app.command()
def batch(
    spec: Annotated[Path, typer.Argument(help="A YAML spec without concepts.")],
    lists: Annotated[
        Path,
        typer.Option(
            help="A folder of NAME.txt, a concept a line, with a list's own settings in NAME.yaml; or a CSV or Parquet table."
        ),
    ],
    training_slots: TrainingSlots = None,
    generation_slots: GenerationSlots = None,
    skip_wrong: Annotated[
        bool, typer.Option("--skip-wrong", help="Run the other lists where one cannot be used, which is then failed.")
    ] = False,
    only_check: Annotated[bool, typer.Option("--check", help="Check all lists and end.")] = False,
) -> None:
    """Run a spec for many lists of concepts, and print what became of each. Goes on where it was interrupted.

    Where slots are not given, those that others have open on this machine stay; without any, there is 1 of each kind.

    Ends with 0, or with 1 when a list failed, 2 when something is wrong with a list, 3 when a model did not pass its gate.
    """
    from erase_core.batch import REJECTED, ListsFailed, markdown
    from erase_core.cautions import cautions

    if not only_check:
        expect_flow()
    base, specs = read_lists(spec, lists, skip_wrong and not only_check)
    if only_check:
        warn(line for one in specs.values() for line in cautions(one))
        console.print(f"{lists}: {len(specs)} lists, as they should be", highlight=False, soft_wrap=True)
        return
    flow = flow_of("batch")

    with failing():
        try:
            table, status = flow(spec, lists, training_slots, generation_slots, skip_wrong), 0
        except ListsFailed as error:
            table, status = error.table, 1
    console.print(markdown(table), markup=False, highlight=False, soft_wrap=True)
    console.print(f"\nWhere to look: {Path(base['output']) / 'batch.parquet'}", highlight=False, soft_wrap=True)
    if status == 0 and any(row["gate"] == REJECTED for row in table):
        status = GATE_FAILED
    raise typer.Exit(status)


@app.command()
def nights(
    spec: Annotated[Path, typer.Argument(help="The YAML spec of a batch.")],
    back: Annotated[int, typer.Option(min=1, help="How many nights before the last one to compare it with.")] = 1,
) -> None:
    """Say which lists' gate, ESR-1 or PSR-1 changed between a batch's last night and one before it.

    A night is a run of the batch that came to its end.
    """
    from erase_core.batch import changes, read_base, tag_of
    from erase_core.spec_errors import SpecError

    with refusing(SpecError):
        base = read_base(spec)
    prepare()
    from tasks import tracking

    with failing():
        run_id, found = tracking.nights_of(tag_of(base), base["output"])
    if len(found) <= back:
        refuse(
            f"--back: MLflow has {len(found)} nights of {base['name']}, and this takes {back + 1}; run the batch first"
        )
    with failing():
        before, after = (tracking.read_table(run_id, found[-1 - number]) for number in (back, 0))
    console.print(f"{base['name']}: {Path(found[-1 - back]).stem} → {Path(found[-1]).stem}", highlight=False)
    console.print(changes(before, after), markup=False, highlight=False, soft_wrap=True)


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
