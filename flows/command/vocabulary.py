"""Commands that look at vocabularies."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from ..tables import console
from .app import app, refusing

vocab = typer.Typer(no_args_is_help=True, help="Look at vocabularies.")
app.add_typer(vocab, name="vocab")


@vocab.command("list")
def vocab_list() -> None:
    """The emoji world's concepts by group: what its judge can name."""
    from erase_core.emoji_world.catalogue import groups

    table = Table("group", "concepts")
    for group, members in groups().items():
        table.add_row(group, ", ".join(members))
    console.print(table)


@vocab.command("curate")
def vocab_curate(
    source: Annotated[str, typer.Argument(help="emoji-world, clip-tokens, english-3000, or a file.")],
    model: Annotated[str, typer.Option(help="Whose tokens, for clip-tokens.")] = "emoji-world",
    erased: Annotated[list[str] | None, typer.Option(help="A concept to erase; repeatable.")] = None,
    show_kept: Annotated[int, typer.Option("--show", help="How many kept words to print.")] = 20,
) -> None:
    """What the filters keep of a vocabulary, and what each of them drops."""
    from erase_core.concepts.vocabulary import candidates, counts, curate
    from erase_core.models.source import find_model
    from erase_core.preflight import tokenizer_vocabulary

    with refusing(ValueError):
        tokens = find_model(model).tokenizer
        rows = curate(candidates(source, tokens and (lambda: tokenizer_vocabulary(tokens))), erased or [], [])
    table = Table("after the filter", "words left")
    for name, left in counts(rows).items():
        table.add_row(name, str(left))
    console.print(table)
    console.print("Kept: " + ", ".join([row.word for row in rows if row.kept][:show_kept]), highlight=False)
