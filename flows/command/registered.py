"""Commands on the registered models: what there is, and which version is the champion."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table

from infra.environment import prepare

from ..tables import console, gib
from .app import app, asking, failing


@app.command()
def models(name: Annotated[str | None, typer.Argument(help="One registered model. Default: all.")] = None) -> None:
    """List the registered models: every version, its aliases, its scores, and what its gate said."""
    registry = registered()

    table = Table("model", "version", "aliases", "gate", "ESR-1", "PSR-1", "PSR-1 lost", "when", "spec")
    with asking(registry.RegistryError):
        for version in registry.versions(name):
            score, before = version.tags.get("psr_1"), version.tags.get("psr_1_original")
            table.add_row(
                version.name,
                str(version.version),
                ", ".join(sorted(version.aliases)),
                version.tags.get("gate", ""),
                version.tags.get("esr_1", ""),
                score or "",
                f"{float(before) - float(score):.4f}" if score and before else "",
                f"{datetime.fromtimestamp(version.creation_timestamp / 1000):%Y-%m-%d %H:%M}",
                json.loads(version.tags.get("spec", "{}")).get("name", ""),
            )
    console.print(table)


@app.command()
def promote(
    name: Annotated[str, typer.Argument(help="The registered model; erase models lists them.")],
    version: Annotated[str | None, typer.Argument(help="Default: the newest that passed its gate.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Promote a rejected version all the same.")] = False,
) -> None:
    """Make a version of a registered model the champion."""
    registry = registered()
    from tasks.release import announce

    with asking(registry.RegistryError):
        released = registry.promote(name, version, force)
        announce("erase.model.promoted", released)
    console.print(f"{name}: version {released.version} is the champion; before: {released.former or 'none'}")


@app.command()
def rollback(name: Annotated[str, typer.Argument(help="The registered model; erase models lists them.")]) -> None:
    """Make the former champion the champion again. What is rolled back is promoted again only by erase promote."""
    registry = registered()
    from tasks.release import announce

    with asking(registry.RegistryError):
        released = registry.rollback(name)
        announce("erase.model.rolled-back", released)
    console.print(f"{name}: version {released.version} is the champion again; version {released.former} is not")


@app.command()
def prune(
    name: Annotated[str | None, typer.Argument(help="One registered model. Default: all.")] = None,
    keep: Annotated[int, typer.Option(min=0, help="Champions before this one that stay, for erase rollback.")] = 3,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Also what the gate rejected, but for the newest of each model.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and keep it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove versions of registered models that are older than the champion, with their files.

    What has an alias or was rolled back stays; of a model without a champion only --rejected removes any. Uploads that never
    became a version go when they are a day old. A run that is repeated registers its model anew, and its gate judges it anew.
    Their runs stay; MLflow keeps a record of each model until `mlflow gc`.
    """
    registry = registered()

    with asking(registry.RegistryError):
        found = registry.removable(name, keep, rejected)
    sizes = [registry.size_of(one.model) for one in found]
    table = Table("model", "version", "gate", "GiB")
    for one, size in zip(found, sizes):
        table.add_row(one.name, one.version, one.state, gib(size))
    table.add_row("in all", str(len(found)), "", gib(sum(sizes)))
    console.print(table)
    if dry_run:
        console.print("Nothing was removed.")
        return
    if found and not yes:
        typer.confirm("Remove them for good?", abort=True)
    freed = 0
    with failing():
        for one, size in zip(found, sizes):
            if registry.remove(one, keep, rejected):
                freed += size
            else:
                console.print(f"{one.name}: version {one.version} stays, as it is in use by now")
    console.print(f"Removed: {gib(freed)} GiB freed.")


def registered():
    """The registry, once the stores' places are set."""
    prepare()
    from tasks import registry

    return registry
