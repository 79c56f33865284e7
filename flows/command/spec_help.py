"""The spec's keys, for the help of `erase run`."""

from __future__ import annotations

import typer

EMPTY = '""'
"""An empty text, which would be read as an empty list without its quotes."""


def spec_help() -> str:
    """What a spec may hold, for `erase run --help`."""
    from pydantic import BaseModel

    from erase_core import attacks, methods
    from erase_core.spec import Attacks, Concept, PromptFile, Spec

    def lines(model: type[BaseModel], indent: str) -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            annotation = Attacks if field.annotation == Attacks | None else field.annotation
            part = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
            told = not part and not field.is_required() and name != "run"
            value = field.get_default(call_default_factory=True)
            default = f" [{value if value != '' else EMPTY}]" if told else ""
            found.append(
                f"{indent}{name}{': REQUIRED.' if field.is_required() else ':'} {field.description or ''}{default}"
            )
            if part is not None:
                found += lines(part, indent + "  ")
            if name in ("concepts", "prompt_files"):
                found += lines(Concept if name == "concepts" else PromptFile, indent + "  ")
            of_each = {
                "method": {method: methods.settings_of(method) for method in methods.names()},
                "run": {attack: attacks.settings_of(attack) for attack in attacks.names()},
            }
            for choice, own in of_each.get(name, {}).items():
                found.append(
                    f"{indent}  ({choice}) {(own.__doc__ or '').strip()}{trains_by(choice) if name == 'method' else ''}"
                )
                found += lines(own, indent + "      ")
        return found

    example = "name: no taxi\nconcepts: [taxi]\noutput: results/no-taxi"
    keys = "\n".join(lines(Spec, ""))
    return f"\b\nThe smallest spec that works:\n\n\b\n{example}\n\n\b\nAll keys, with their [defaults]:\n\n\b\n{keys}"


def trains_by(method: str) -> str:
    """A method's own defaults of the spec's training part, where it has some."""
    from erase_core import methods

    own = getattr(methods.load(method), "TRAINING", {})
    return (
        f" Its own defaults of training: {', '.join(f'{name} {value}' for name, value in own.items())}." if own else ""
    )


class SpecCommand(typer.core.TyperCommand):
    """A command whose help ends with the spec's keys."""

    def format_help(self, ctx, formatter) -> None:
        super().format_help(ctx, formatter)
        typer.echo("\n" + spec_help().replace("\b\n", ""))
