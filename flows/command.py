"""The `erase` command. Heavy libraries are imported by the commands that need them, so that help and errors are instant."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.table import Table

import erase_core
from erase_core.metrics.labels import names_in
from infra.environment import DatabaseError, allow_hub, prepare

from .tables import complaints, console, show, show_attacks, show_gate

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown", add_completion=False
)
vocab = typer.Typer(no_args_is_help=True, help="Look at vocabularies.")
app.add_typer(vocab, name="vocab")
ATTACK_PROMPTS = ["a {concept}", "a photo of a {concept}", "a drawing of a {concept}"]
BASE_OF_STUDIES = Path(erase_core.__file__).parent / "studies" / "base.yaml"
GATE_FAILED = 3
IN_THE_SPEC = ("base", "attacks", "budget", "per_budget", "words", "images", "judge", "seed")
"""Options of `erase attack` that a spec says in their place."""


@app.callback()
def root() -> None:
    """Erase concepts from text-to-image models, and prove that they are gone and that nothing else was hurt."""


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
            default = f" [{field.get_default(call_default_factory=True)}]" if told else ""
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
                found.append(f"{indent}  ({choice}) {(own.__doc__ or '').strip()}")
                found += lines(own, indent + "      ")
        return found

    example = "name: no taxi\nconcepts: [taxi]\noutput: results/no-taxi"
    keys = "\n".join(lines(Spec, ""))
    return f"\b\nThe smallest spec that works:\n\n\b\n{example}\n\n\b\nAll keys, with their [defaults]:\n\n\b\n{keys}"


class SpecCommand(typer.core.TyperCommand):
    """A command whose help ends with the spec's keys."""

    def format_help(self, ctx, formatter) -> None:
        super().format_help(ctx, formatter)
        typer.echo("\n" + spec_help().replace("\b\n", ""))


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


@contextlib.contextmanager
def failing():
    """Say in a line why a flow failed, and end with 1."""
    try:
        yield
    except Exception as error:
        complaints.print(f"{type(error).__name__}: {error}", style="red", markup=False, soft_wrap=True)
        complaints.print("Mend that and run it again: finished stages are kept.", highlight=False)
        raise typer.Exit(1) from None


def read_spec(path: Path, several: bool = False):
    """Load and check a spec, or end with its errors, one a line, before anything heavy is imported or written."""
    from erase_core.preflight import check, uses_hub
    from erase_core.spec import SpecError, load_spec

    with refusing(SpecError):
        spec = load_spec(path)
        source = check(spec, several)
    prepare()
    if uses_hub(spec, source):
        allow_hub()
    return spec


def flow_of(name: str):
    """A flow by the name of its file, once there is a Prefect server: the one that is configured, or one of this process's own."""
    from infra.private_server import start

    ready = start()
    flow = getattr(importlib.import_module(f"flows.{name}"), name)
    # MLflow opens its store at the first call: now, while the server starts. What fails here, the flow tells.
    with contextlib.suppress(Exception):
        importlib.import_module("tasks.tracking").experiment_id()
        importlib.import_module("prefect.flow_engine")
    ready()
    return flow


ShowUnsafe = Annotated[bool, typer.Option("--show-unsafe", help="Blur no images in the report and in MLflow.")]


def shown(spec, show_unsafe: bool):
    """The spec, with nothing blurred where the command line says so."""
    part = spec.report.model_copy(update={"show_unsafe": spec.report.show_unsafe or show_unsafe})
    return spec.model_copy(update={"report": part})


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
    """Say which memory a run needs, before it starts: for each rank of the training, and for the images.

    Nothing is run, and no weights are read; of a hub model the configurations alone are downloaded.
    """
    checked = read_spec(spec)
    from erase_core.memory import forecasts

    # The images are drawn in the run's own process, which holds the flow's libraries too.
    found = forecasts(checked, lambda: importlib.import_module("flows.erase"))
    if as_json:
        sys.stdout.write(json.dumps({each.stage: each.summary for each in found}, indent=2) + "\n")
        return
    for each in found:
        table = Table("GiB", *(moment.name for moment in each.moments), title=each.title)
        for part in each.parts:
            table.add_row(part, *(f"{m.parts[part] / 2**30:.2f}" if part in m.parts else "" for m in each.moments))
        table.add_row("in all", *(f"{moment.total / 2**30:.2f}" for moment in each.moments), style="bold")
        console.print(table)
        console.print(each.told + "\n", highlight=False)


@app.command()
def models(name: Annotated[str | None, typer.Argument(help="One registered model. Default: all.")] = None) -> None:
    """List the registered models: every version, its aliases, its scores, and what its gate said."""
    registry = registered()
    from datetime import datetime

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


@app.command()
def generate(
    model: Annotated[str, typer.Argument(help="emoji-world, a diffusers folder, a .safetensors file, or a hub id.")],
    prompts: Annotated[list[str], typer.Argument(help="One row of images each.")],
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("grid.png"),
    seeds: Annotated[int, typer.Option(min=1, help="Images per prompt, with seeds 0, 1, …")] = 4,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Sampling steps.")] = 30,
    guidance_scale: Annotated[float, typer.Option(min=0, help="Classifier-free guidance.")] = 5.0,
    sampler: Annotated[str, typer.Option(help="ddim, dpm-solver++ or unipc.")] = "ddim",
) -> None:
    """Draw a grid of images: a row a prompt, a column a seed."""
    from pydantic import ValidationError

    from erase_core.models.source import ModelError, find_model
    from erase_core.spec import Generation

    with refusing(ModelError, ValidationError):
        source = find_model(model)
        settings = Generation(steps=steps, guidance_scale=guidance_scale, sampler=sampler)
    prepare()
    if source.on_hub:
        allow_hub()
    import numpy as np
    from rich.progress import Progress

    from erase_core.files import new_file
    from erase_core.generation.sampler import sample
    from erase_core.models.pipeline import load_pipeline
    from erase_core.pictures import encode_png, grid

    pairs = [(prompt, seed) for prompt in prompts for seed in range(seeds)]
    images = []
    with Progress(console=complaints) as bars:
        bar = bars.add_task("images", total=len(pairs))
        for batch in sample(load_pipeline(source), [p for p, _ in pairs], [s for _, s in pairs], settings):
            images.append(batch)
            bars.advance(bar, len(batch))
    with new_file(out) as partial:
        partial.write_bytes(encode_png(grid(np.concatenate(images), columns=seeds)))
    console.print(f"{out}", highlight=False)


Precision = Annotated[Literal["fp32", "fp16", "bf16"], typer.Option(help="Of the weights that are written.")]


def write_model(model: str, out: Path, precision: str, delta: Path | None = None, any_base: bool = False) -> None:
    """Write a model to `out` in the format that its name asks for, or end with what is wrong."""
    from erase_core.models.source import ModelError, find_model

    with refusing(ValueError):
        source = find_model(model)
        if delta is not None and not delta.is_file():
            raise ModelError(f"delta: {delta} is no file; give a run's delta.safetensors")
        prepare()
        if source.on_hub:
            allow_hub()
        from erase_core.models.export import export as write

        write(source, out, precision, delta, any_base)
    console.print(f"{out}", highlight=False, soft_wrap=True)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="emoji-world, a diffusers folder, a .safetensors file, or a hub id.")],
    out: Annotated[Path, typer.Argument(help="A folder, or a name that ends in .safetensors for a single file.")],
    precision: Precision = "fp32",
) -> None:
    """Write a model in another format: a diffusers folder, or a single file that other programs read."""
    write_model(model, out, precision)


@app.command()
def convert(
    pickle: Annotated[Path, typer.Argument(help="A pickled checkpoint: .ckpt, .bin, .pt or .pth.")],
    out: Annotated[Path, typer.Argument(help="A name that ends in .safetensors.")],
) -> None:
    """Make safetensors of a pickle. Nothing that the pickle holds is run: all but tensors is left out."""
    with refusing(ValueError):
        if not pickle.is_file():
            raise ValueError(f"pickle: {pickle} is no file; give a checkpoint")
        if out.suffix != ".safetensors":
            raise ValueError(f"out: {out} should end in .safetensors")
        prepare()
        from erase_core.models.pickled import convert as write

        count = write(pickle, out)
    console.print(f"{out}: {count} tensors", highlight=False, soft_wrap=True)


@app.command()
def apply(
    delta: Annotated[Path, typer.Argument(help="A run's delta.safetensors.")],
    base: Annotated[
        str, typer.Argument(help="A copy of the model it was made from: folder, .safetensors file or hub id.")
    ],
    out: Annotated[Path, typer.Argument(help="A folder, or a name that ends in .safetensors for a single file.")],
    precision: Precision = "fp32",
    force: Annotated[bool, typer.Option("--force", help="Apply it to another base of the same architecture.")] = False,
) -> None:
    """Put an erasure on a copy of its base model."""
    write_model(base, out, precision, delta, force)


@app.command()
def up(
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow pages.")] = 5000,
) -> None:
    """Serve the Prefect and MLflow pages until interrupted."""
    prepare()
    from infra.servers import serve

    with refusing(RuntimeError):
        serve(prefect_port, mlflow_port, lambda line: console.print(line, highlight=False, soft_wrap=True))


@app.command()
def join() -> None:
    """Lend this machine to a run on another: start its share of the ranks of every job there, until it is stopped.

    Both find each other by PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and PET_MASTER_PORT and share ERASE_HOME; see
    docs/distribution.md.
    """
    from erase_core.distributed.environment import node_group
    from erase_core.distributed.ranks import follow_orders

    with refusing(ValueError):
        group = node_group(os.environ)
    if group is None or group.node == 0:
        refuse("PET_NNODES must be 2 or more and PET_NODE_RANK 1 or more here; rank 0's machine runs erase run")
    follow_orders(group, lambda line: console.print(line, end="", markup=False, highlight=False))


@app.command()
def serve(
    file: Annotated[
        Path | None,
        typer.Argument(help="The deployments. Default: deployments.yaml; without it, every flow on demand."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="How many runs at once, in all. Default: 5.")] = None,
    only_check: Annotated[bool, typer.Option("--check", help="Check the file and end.")] = False,
) -> None:
    """Serve deployments: start their runs by their schedules, and when somebody asks in the Prefect UI, until interrupted."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")
    prepare()
    # Each run is a process of its own, for a spec that may name a hub model.
    allow_hub()
    from infra.servers import find_prefect

    with refusing(RuntimeError):
        # Prefect reads its settings when it is imported, which reading the deployments does.
        address = None if only_check else find_prefect()
        from infra.deployments import ON_DEMAND, DeploymentsError, read_deployments, serve_deployments
    if file is None and Path("deployments.yaml").is_file():
        file = Path("deployments.yaml")
    with refusing(DeploymentsError):
        found = read_deployments(file) if file else ON_DEMAND
    if only_check:
        console.print(f"{file or 'every flow'}: {len(found.deployments)} deployments, as they should be")
        return
    for name, deployment in found.deployments.items():
        when = deployment.cron or (f"every {deployment.interval:g} s" if deployment.interval else "on demand")
        console.print(f"{deployment.flow}/{name}  [dim]{when}[/dim]", highlight=False)
    console.print(f"Served for {address}. Ctrl-C ends it; what is due until it is served again is caught up once.")
    serve_deployments(found, limit)


@app.command()
def pretrain(
    output: Annotated[Path, typer.Option(help="Folder for the finished world.")] = Path("results/emoji-world"),
    scale: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of the full training steps, for a trial.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Train the embedded model again, from the emoji packages: hours. Goes on where it was interrupted."""
    prepare()
    flow = flow_of("pretrain")

    figures = flow(str(output), scale, seed)
    for name, value in figures.items():
        console.print(f"{name}: {value:.4f}")


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

    figures = flow(name, base)
    for figure, value in figures.items():
        console.print(f"{figure}: {value:.4f}", highlight=False)
    console.print(
        f"\nWhere to look: {Path(base.output) / name}.png, .html and .parquet", highlight=False, soft_wrap=True
    )


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
    """Run a spec for many lists of concepts, and print what became of each. Goes on where it was interrupted."""
    from erase_core.batch import markdown, read_specs
    from erase_core.models.source import find_model
    from erase_core.preflight import uses_hub
    from erase_core.spec import SpecError

    with refusing(SpecError):
        base, specs = read_specs(spec, lists)
    prepare()
    if any(uses_hub(one, find_model(one.model)) for one in specs.values()):
        allow_hub()
    flow = flow_of("batch")

    table = flow(spec, lists, training_slots, generation_slots)
    console.print(markdown(table), markup=False, highlight=False, soft_wrap=True)
    console.print(f"\nWhere to look: {Path(base['output']) / 'batch.parquet'}", highlight=False, soft_wrap=True)
    if any(row["status"] == "failed" for row in table):
        raise typer.Exit(1)


@app.command()
def benchmark(
    methods: Annotated[str, typer.Option(help="Names, with commas between. Default: all.")] = "",
    tasks: Annotated[str, typer.Option(help="Names, with commas between. Default: all.")] = "",
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
    from erase_core import methods as known

    names, wanted = names_in(methods) or known.names(), names_in(tasks) or list(core.TASKS)
    with refusing(ValueError):
        core.known(names, wanted)
        numbers = [int(seed) for seed in names_in(seeds)]
    base = read_spec(spec or BASE_OF_STUDIES, several=True)
    if output is not None or spec is None:
        base = base.model_copy(update={"output": str(output or "results/benchmark"), "name": "benchmark"})
    if attacks:
        from erase_core.spec import SpecError, make_spec

        given = base.model_dump(mode="json", exclude_unset=True)
        with refusing(SpecError):
            base = make_spec({**given, "attacks": {"run": names_in(attacks)}})
    flow = flow_of("benchmark")

    console.print(flow(base, names, wanted, numbers, runs), markup=False, highlight=False, soft_wrap=True)


@app.command()
def score(
    verdicts: Annotated[Path, typer.Argument(help="A CSV of per-image verdicts, plain or gzipped.")],
    erased: Annotated[str, typer.Option(help="The erased concepts as label_str names them, with commas between.")] = "",
    output: Annotated[Path | None, typer.Option(help="The JSON file to write.")] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples behind the 95 % intervals.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="The resamples come from it.")] = 0,
) -> None:
    """Score verdicts that any classifier (category_top1 … against label_str) or nudity detector (NudeNet_label) wrote."""
    from erase_core.files import write_json
    from erase_core.metrics.verdicts import VerdictsError, read_verdicts, score_verdicts

    with refusing(VerdictsError):
        result = score_verdicts(read_verdicts(verdicts), names_in(erased), resamples, seed)
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
        write_json(output, result)
        console.print(f"Written: {output}", highlight=False, soft_wrap=True)


def attack_value(
    concept: str,
    synonyms: list[str],
    base: str,
    names: str,
    budgets: list[str],
    per_budget: int | None,
    words: str,
    images: Path | None,
    judge: str | None,
    seed: int,
    output: Path | None,
) -> dict:
    """The spec of `erase attack` as a mapping. ValueError names the option that cannot be read."""
    from erase_core import attacks

    chosen = names_in(names) or attacks.names()
    own: dict[str, dict] = {name: {} for name in chosen}
    for text in budgets:
        name, found, values = text.partition("=")
        if not found or name not in own:
            raise ValueError(f"--budget: {text!r} should be ATTACK=NUMBER,NUMBER,… for one of {', '.join(chosen)}")
        try:
            own[name]["budgets"] = [float(v) if "." in v else int(v) for v in names_in(values)]
        except ValueError:
            raise ValueError(f"--budget: {values!r} should be numbers with commas between") from None
    for name, parameters in own.items():
        if per_budget is not None and name in attacks.names() and "images" in attacks.settings_of(name).model_fields:
            parameters["images"] = per_budget
    if words and "words" in own:
        own["words"]["words"] = names_in(words)
    return {
        "name": f"attack on {re.sub(r'[^A-Za-z0-9 ]+', '-', concept)}",
        "seed": seed,
        "model": base,
        "concepts": [{"concept": concept, "synonyms": synonyms}],
        "generation": {"prompts": ATTACK_PROMPTS, "sampler": "dpm-solver++", "steps": 15},
        "scoring": {"metrics": ["erasure"], "judge": judge},
        "attacks": {
            "run": [{"name": name, **parameters} for name, parameters in own.items()],
            "images": str(images) if images else None,
        },
        "output": str(output or attack_folder(concept)),
    }


def attack_folder(concept: str) -> Path:
    """Where an attack's results go when nothing else is said: not to a run's own folder, which is whole as it is."""
    return Path("results") / f"attack-{concept.replace(' ', '-')}"


def attack_spec(spec: Path, concept: str, synonyms: list[str], output: Path | None) -> dict:
    """A spec, as a mapping, with one of its concepts, or another, as what is attacked. SpecError for one that is wrong."""
    from erase_core.spec import load_spec

    given = load_spec(spec).model_dump(mode="json", exclude_unset=True)
    own = next((c for c in given["concepts"] if c["concept"] == concept), {"concept": concept})
    named = {**own, "synonyms": list(dict.fromkeys([*own.get("synonyms", []), *synonyms]))}
    return {"attacks": {}, **given, "concepts": [named], "output": str(output or attack_folder(concept))}


@app.command()
def attack(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="The erased model: a diffusers folder, a .safetensors file or a hub id.")
    ],
    concept: Annotated[str, typer.Option(help="What was erased from it.")],
    synonym: Annotated[list[str] | None, typer.Option(help="Another name of it; repeatable.")] = None,
    base: Annotated[
        str, typer.Option(help="The original model: the attacks' ceiling, and the source of their images.")
    ] = "emoji-world",
    attacks: Annotated[str, typer.Option(help="Names, with commas between. Default: all.")] = "",
    budget: Annotated[
        list[str] | None, typer.Option(help="An attack's budgets, as in inversion=0,50,200; repeatable.")
    ] = None,
    per_budget: Annotated[
        int | None, typer.Option(min=1, help="Images judged at each budget that counts steps or strength. Default: 8.")
    ] = None,
    words: Annotated[str, typer.Option(help="More words for the concept, in any language, with commas between.")] = "",
    images: Annotated[
        Path | None, typer.Option(help="Folder of images of the concept. Default: the base's own.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Folder or hub id of an image classifier. Default: the emoji world's own.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Every random choice comes from it.")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="The folder of the results. Default: results/attack-CONCEPT.")
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(
            help="A spec whose model, concept, generation, scoring and attacks are used in place of these options."
        ),
    ] = None,
    show_unsafe: ShowUnsafe = False,
) -> None:
    """Try to bring an erased concept back: other words, seeds, learnt prompts, fine-tuning, and images of it."""
    from erase_core.models.source import ModelError, find_model
    from erase_core.preflight import check, uses_hub
    from erase_core.spec import SpecError, make_spec

    with refusing(ModelError, SpecError, ValueError):
        source = find_model(model)
        if spec is None:
            checked = make_spec(
                attack_value(
                    concept, synonym or [], base, attacks, budget or [], per_budget, words, images, judge, seed, output
                )
            )
        else:
            both = [name for name in IN_THE_SPEC if context.get_parameter_source(name).name == "COMMANDLINE"]
            if both:
                options = ", ".join("--" + name.replace("_", "-") for name in both)
                raise ValueError(f"{options}: stands in the spec that --spec gives; change it there")
            checked = make_spec(attack_spec(spec, concept, synonym or [], output))
        checked = shown(checked, show_unsafe)
        original = check(checked)
    prepare()
    if source.on_hub or uses_hub(checked, original):
        allow_hub()
    flow = flow_of("attack")

    with failing():
        figures = flow(checked, model)
    show_attacks(figures, concept)
    console.print(f"\nWhere to look: {Path(checked.output) / 'attacks.html'}", highlight=False, soft_wrap=True)


@app.command()
def schema(out: Annotated[Path | None, typer.Option(help="Write to this file instead.")] = None) -> None:
    """Print the JSON schema of the spec, for editors."""
    from erase_core.files import new_file
    from erase_core.spec import json_schema

    text = json.dumps(json_schema(), indent=2) + "\n"
    if out is None:
        sys.stdout.write(text)
    else:
        with new_file(out) as partial:
            partial.write_text(text, encoding="utf-8")


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
    erased: Annotated[list[str] | None, typer.Option(help="A concept to erase.")] = None,
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


def main() -> None:
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")
    # Importing makes many objects and no garbage; looking for some takes a fifth of the time.
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


if __name__ == "__main__":
    main()
