"""What the command prints of a run: its figures, what the gate said, what attacks brought back, and where to look."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

console, complaints = Console(), Console(stderr=True)


def gib(size: int) -> str:
    """Bytes as a table shows them."""
    return f"{size / 2**30:.2f}"


def ends(metrics: dict[str, float], name: str, digits: int, scale: float = 1) -> str:
    """A figure's 95 % interval as a table shows it; empty where it has none."""
    found = (metrics.get(f"{name}_{end}") for end in ("low", "high"))
    return " – ".join(f"{scale * value:.{digits}f}" for value in found if value is not None)


def show(summary: dict, output: Path) -> None:
    """Print a run's figures, what was served from the cache, and where to look."""
    from erase_core.metrics.nudity import THRESHOLDS

    metrics = summary["metrics"]
    table = Table(
        "metric",
        "original",
        "erased model",
        "95 % interval",
        title=f"{summary['name']}: {', '.join(c['concept'] for c in summary['spec']['concepts'])} erased",
    )
    for name, label in (
        ("esr_1", "ESR-1 (erased concepts gone)"),
        ("esr_5", "ESR-5"),
        ("psr_1", "PSR-1 (all others kept)"),
        ("psr_5", "PSR-5"),
    ):
        if name in metrics:
            interval = f"{ends(metrics, name, 1, 100)} %"
            table.add_row(label, f"{100 * metrics[f'{name}_original']:.1f} %", f"{100 * metrics[name]:.1f} %", interval)
    roles = (("erased", "erased"), ("preserved", "others"), ("general", "general prompts"))
    for name, label in (("clip_score", "CLIP score"), ("clip_similarity", "CLIP similarity")):
        for role, of in roles:
            if (key := f"{name}_{role}") in metrics:
                table.add_row(
                    f"{label}, {of}",
                    f"{metrics[f'{name}_original_{role}']:.1f}",
                    f"{metrics[key]:.1f}",
                    ends(metrics, key, 1),
                )
    for threshold in THRESHOLDS:
        if (name := f"ner_{threshold}_erased") in metrics:
            interval = f"{ends(metrics, name, 1, 100)} %"
            before = f"{100 * metrics[f'ner_{threshold}_original_erased']:.1f} %"
            table.add_row(f"NER above {threshold}", before, f"{100 * metrics[name]:.1f} %", interval)
    for name, label, scale in (
        ("clip_distance", "image distance", 1),
        ("lpips", "LPIPS", 1),
        ("fid", "FID", 1),
        ("kid", "KID × 1000", 1000),
        ("cmmd", "CMMD", 1),
    ):
        for role, of in roles:
            if (key := f"{name}_{role}") in metrics:
                before = metrics.get(f"{name}_original_{role}")
                table.add_row(
                    f"{label}, {of}",
                    "" if before is None else f"{scale * before:.3f}",
                    f"{scale * metrics[key]:.3f}",
                    ends(metrics, key, 3, scale),
                )
    console.print(table)
    if left := summary["unjudged"]:
        console.print(f"Not in PSR, since the judge has no class for them: {', '.join(left)}", highlight=False)
    worked = [stage for stage in summary["seconds"] if stage not in summary["cached"]]
    if summary["cached"]:
        console.print(f"Served from the cache: {', '.join(summary['cached'])}.")
    if worked:
        console.print("Computed: " + ", ".join(f"{stage} {summary['seconds'][stage]:.0f} s" for stage in worked) + ".")
    if "attack_success" in metrics:
        show_attacks(metrics, ", ".join(c["concept"] for c in summary["spec"]["concepts"]))
    console.print("\nWhere to look:")
    for name, what in (
        ("report.html", "images before and after, plots, all scores"),
        ("model", "the erased model, a diffusers folder"),
        ("summary.json", "every figure"),
    ):
        console.print(f"  {output / name}  [dim]{what}[/dim]", highlight=False, soft_wrap=True)
    console.print("  erase up  [dim]all runs, in the MLflow and Prefect pages[/dim]", highlight=False)


def show_gate(summary: dict) -> None:
    """Print what the gate said, and under which name and version the model is registered."""
    model = "{name} version {version}".format(**summary["registered"])
    if not summary["gate"]:
        console.print(f"\nRegistered as {model}; the spec has no gate.", highlight=False)
        return
    if summary["gate"]["passed"]:
        console.print(
            f"\nGate passed: {model} [dim](erase models shows the champion)[/dim]", style="green", highlight=False
        )
    else:
        reason = summary["gate"]["reason"]
        console.print(f"\nGate failed: {model} is rejected: {reason}", style="red", highlight=False, soft_wrap=True)


def show_attacks(figures: dict[str, float], concept: str) -> None:
    """Print each attack's success, the original's and the control's, each at its best budget as `attacks.rates.headline` has it."""
    table = Table(
        "attack", "success", "95 % interval", "original", "control", title=f"Attempts to bring {concept} back"
    )
    for name in figures:
        if name.startswith("attack_success_") and f"{name}_low" in figures:
            span = f"{100 * figures[f'{name}_low']:.0f} – {100 * figures[f'{name}_high']:.0f} %"
            shown = [f"{100 * figures[f'{name}{end}']:.0f} %" for end in ("", "_original", "_control")]
            table.add_row(name.removeprefix("attack_success_"), shown[0], span, *shown[1:])
    console.print(table)
