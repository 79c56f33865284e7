"""The command that scores verdicts which another program wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from erase_core.metrics.labels import names_in

from ..tables import console
from .app import app, refusing


@app.command()
def score(
    verdicts: Annotated[Path, typer.Argument(help="A CSV of per-image verdicts, plain or gzipped.")],
    erased: Annotated[str, typer.Option(help="The erased concepts as label_str names them, with commas between.")] = "",
    output: Annotated[Path | None, typer.Option(help="The JSON file to write.")] = None,
) -> None:
    """Score verdicts that any classifier (category_top1 … against label_str) or nudity detector (NudeNet_label) wrote."""
    from erase_core.files import PlaceError, check_file, write_json, writing
    from erase_core.metrics.verdicts import VerdictsError, read_verdicts, score_verdicts

    with refusing(PlaceError):
        if output is not None:
            check_file("output", output, ".json")
    with refusing(VerdictsError):
        result = score_verdicts(read_verdicts(verdicts), names_in(erased))
    table = Table("score", "value", "95 % interval", title=f"{verdicts.name}: {result['images']} images")
    for name in ("esr_1", "esr_5", "psr_1", "psr_5"):
        if name in result:
            table.add_row(name, f"{result[name]:.4f}", f"{result[f'{name}_low']:.4f} – {result[f'{name}_high']:.4f}")
    for name in ("ner", "ner_preserved"):
        for threshold, value in result.get(name, {}).items():
            low, high = result[f"{name}_interval"][threshold]
            table.add_row(f"{name} {threshold}", f"{value:.4f}", f"{low:.4f} – {high:.4f}")
    console.print(table)
    if output is not None:
        with refusing(PlaceError), writing("output", output):
            write_json(output, result)
        console.print(f"Written: {output}", highlight=False, soft_wrap=True)
