"""Commands on the registered models: what there is, and which version is the champion."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table

from infra.environment import prepare

from ..tables import console
from .app import app, refusing


@app.command()
def models(name: Annotated[str | None, typer.Argument(help="One registered model. Default: all.")] = None) -> None:
    """List the registered models: every version, its aliases, its scores, and what its gate said."""
    registry = registered()

    table = Table("model", "version", "aliases", "gate", "ESR-1", "PSR-1", "PSR-1 lost", "when", "spec")
    with refusing(registry.RegistryError):
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

    with refusing(registry.RegistryError):
        released = registry.promote(name, version, force)
        announce("erase.model.promoted", released)
    console.print(f"{name}: version {released.version} is the champion; before: {released.former or 'none'}")


@app.command()
def rollback(name: Annotated[str, typer.Argument(help="The registered model; erase models lists them.")]) -> None:
    """Make the former champion the champion again. What is rolled back is promoted again only by erase promote."""
    registry = registered()
    from tasks.release import announce

    with refusing(registry.RegistryError):
        released = registry.rollback(name)
        announce("erase.model.rolled-back", released)
    console.print(f"{name}: version {released.version} is the champion again; version {released.former} is not")


def registered():
    """The registry, once the stores' places are set."""
    prepare()
    from tasks import registry

    return registry
