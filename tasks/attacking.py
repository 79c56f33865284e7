"""Tasks that attack a model, and the one that writes what the attacks brought back."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.artifacts import create_table_artifact

from erase_core import attack_stages
from erase_core.artifacts import Artifact
from erase_core.attack_stages import Victim
from erase_core.results import UNFINISHED
from erase_core.spec import Attack, Spec

from .caching import keyed
from .progress import reporting, worth_retrying
from .slots import slot


@task(
    name="references",
    cache_key_fn=keyed("references", attack_stages.references_key),
    persist_result=True,
    retries=1,
    retry_delay_seconds=5,
    retry_condition_fn=worth_retrying,
)
def draw_references(spec: Spec, run_id: str | None = None, slots: bool = False) -> Artifact:
    """Draw what an attacker has at hand, from the original model: images of the concept, of near ones, and of far ones."""
    with reporting("references", "references") as report:
        return attack_stages.references(spec, report, slot("generation", slots))


@task(
    name="attack",
    task_run_name="attack-{attack.name}",
    cache_key_fn=keyed("attack", attack_stages.attack_key),
    persist_result=True,
    retries=1,
    retry_delay_seconds=5,
    retry_condition_fn=worth_retrying,
)
def attack_model(
    spec: Spec,
    attack: Attack,
    references: Artifact,
    victim: Victim = None,
    run_id: str | None = None,
    slots: bool = False,
) -> Artifact:
    """Try one way of bringing the concepts back from a model, and judge every image that it drew."""
    which = "original" if victim is None else "erased"
    with reporting(f"{attack.name}, {which}", f"attack-{attack.name}-{which}") as report:
        return attack_stages.attack(spec, attack, references, victim, report, slot("generation", slots))


@task(name="publish-attacks", retries=1, retry_delay_seconds=2, retry_condition_fn=worth_retrying)
def publish_attacks(spec: Spec, artifacts: dict[str, Artifact], model: str) -> tuple[dict[str, float], bytes]:
    """Write the attacks' tables and page to the output folder; returns their figures and the plot as PNG."""
    from erase_core.report.attacks import build_attack_page

    output = Path(spec.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / UNFINISHED).touch()
    figures = attack_stages.publish_attacks(spec, artifacts)
    plot = build_attack_page(output, model)
    (output / UNFINISHED).unlink()
    rows = [{"figure": name, "value": round(value, 4)} for name, value in figures.items()]
    create_table_artifact(table=rows, key="attacks", description=f"Attacks on {model}")
    return figures, plot
