"""The command that makes room in the project's home."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from erase_core.files import home

from ..tables import console, gib
from .app import app, failing


@app.command()
def clean(
    unused_for: Annotated[float, typer.Option(min=1, help="Days since a run last made or used it.")] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and keep it.")] = False,
) -> None:
    """Remove from the project's home what runs made to save time and have not used for long.

    It is made again when it is asked for. Results, MLflow's runs and registered models, and Prefect's records stay.
    """
    from erase_core.cleaning import remove, unused

    found = unused(unused_for)
    sizes: dict[str, list[int]] = {}
    for each in found:
        sizes.setdefault(each.kind, []).append(each.size)
    table = Table("what", "how many", "GiB", title=f"{home()}: not used for {unused_for:g} days")
    for kind, every in sorted(sizes.items()):
        table.add_row(kind, str(len(every)), gib(sum(every)))
    table.add_row("in all", str(len(found)), gib(sum(each.size for each in found)))
    console.print(table)
    if dry_run:
        console.print("Nothing was removed.")
        return
    with failing():
        for each in found:
            remove(each)
    console.print("Removed.")
