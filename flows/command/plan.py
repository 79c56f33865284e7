"""The command that says what a run would take."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ..tables import console, gib
from .app import app, read_lists, read_spec, refusing, warn

SHOWN_MOMENTS = 6
"""As many fit beside each other in a terminal; of more only the sums are shown."""


@app.command()
def plan(
    spec: Annotated[Path, typer.Argument(help="The YAML spec.")],
    lists: Annotated[
        Path | None, typer.Option(help="Plan a batch: the lists that the spec is run for, as `erase batch` takes them.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")] = False,
) -> None:
    """Say which memory each stage of a run needs, for each rank, which disk it takes, and how long it took before.

    Nothing is run, and no weights are read; of what is on the hub the configurations alone are downloaded. Warns of an accelerator
    here that has less, and of what may be wrong with the spec.
    """
    specs = read_lists(spec, lists)[1] if lists else {"": read_spec(spec)}
    from erase_core.cautions import cautions
    from erase_core.hub import HubError
    from erase_core.memory import shortage
    from erase_core.models.source import ModelError
    from erase_core.planning import alike, plan, seconds_before

    found = []
    for names in alike(specs):
        with refusing(ModelError, HubError):
            # The images are drawn in the run's own process, which holds the flow's libraries too.
            found.append((names, plan(specs[names[0]], lambda: importlib.import_module("flows.erase"))))
    warn(line for one in specs.values() for line in cautions(one))
    warn(line for _, plan in found for each in plan.forecasts if (line := shortage(each)))
    if as_json:
        planned = [{"lists": names, **plan.summary} for names, plan in found] if lists else found[0][1].summary
        sys.stdout.write(json.dumps(planned, indent=2) + "\n")
    elif lists:
        show_lists(found)
        before = [seconds for one in specs.values() if (seconds := sum(seconds_before(one).values()))]
        if before:
            console.print(
                f"time: {len(before)} of {len(specs)} lists ran before, {sum(before):.0f} s in all.", highlight=False
            )
    else:
        show(found[0][1])


def show(plan) -> None:
    """Print a table for each stage and for the disk, and a sentence for each."""
    for each in plan.forecasts:
        console.print(totals(each) if len(each.moments) > SHOWN_MOMENTS else by_part(each))
        console.print(each.told + "\n", highlight=False)
    places = list(dict.fromkeys(place for kept in plan.disk for place in kept.places))
    table = Table("GiB", *places, title="disk")
    for kept in plan.disk:
        table.add_row(kept.what, *(gib(kept.places[place]) if place in kept.places else "" for place in places))
    console.print(table)
    console.print("\n".join(filter(None, (plan.disk_told, plan.time_told))), highlight=False, soft_wrap=True)


def by_part(forecast) -> Table:
    table = Table("GiB", *(moment.name for moment in forecast.moments), title=forecast.title)
    for part in forecast.parts:
        table.add_row(part, *(gib(m.parts[part]) if part in m.parts else "" for m in forecast.moments))
    table.add_row("in all", *(gib(moment.total) for moment in forecast.moments), style="bold")
    return table


def totals(forecast) -> Table:
    table = Table("GiB", "in all", title=forecast.title)
    for moment in forecast.moments:
        table.add_row(moment.name, gib(moment.total))
    return table


def show_lists(found: list) -> None:
    """Print which lists have which plan, a sentence a stage."""
    for names, plan in found:
        console.print(", ".join(names), style="bold", highlight=False, soft_wrap=True)
        for line in (*(each.told for each in plan.forecasts), plan.disk_told):
            console.print(f"  {line}", highlight=False, soft_wrap=True)
