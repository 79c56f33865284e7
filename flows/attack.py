"""Attacks on an erased model: the stages of the main flow's attacks, and the flow behind `erase attack`."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger

from erase_core import attack_stages
from erase_core.artifacts import Artifact
from erase_core.attack_stages import Victim
from erase_core.cautions import of_attacks
from erase_core.preflight import check, check_hub
from erase_core.preflight_attacks import check_attacked
from erase_core.results import held
from erase_core.spec import Spec
from tasks import tracking
from tasks.attacking import attack_model, draw_references, publish_attacks

from .tracked import Stage, stages_of


def run_attacks(spec: Spec, stage: Stage, victim: Victim) -> dict[str, Artifact]:
    """Run every attack of a spec on the original model and on the victim; returns the stages' artifacts by name."""
    references = stage("references", draw_references, attack_stages.references_key(spec), spec)
    made = {"references": references}
    for name, attack, attacked in attack_stages.every_attack(spec, victim):
        inputs = (spec, attack, references, attacked)
        made[name] = stage(name, attack_model, attack_stages.attack_key(*inputs), *inputs)
    return made


@flow(name="attack", flow_run_name="{spec.name}", log_prints=True)
def attack(spec: Spec, model: str) -> dict[str, float]:
    """Attack `model`, which was erased from spec.model, and write what came back to spec.output; returns the figures."""
    check(spec, scored=False)
    check_hub(spec, scored=False)
    check_attacked(model)
    # The rest of a spec's cautions are of a training and a gate.
    for caution in of_attacks(spec):
        get_run_logger().warning(caution)
    tags = {"kind": "attack", "attacked": model, "concepts": ", ".join(spec.concept_words), "model": spec.model}
    with held(Path(spec.output)), tracking.run(spec.name, tags=tags, output=spec.output) as main:
        tracking.log_parameters(main, spec.model_dump(mode="json"))
        artifacts = run_attacks(spec, stages_of(spec, main), model)
        figures, plot = publish_attacks(spec, artifacts, model)
        tracking.log_metrics(main, {k: v for k, v in figures.items() if not k.startswith("attack_success_")})
        tracking.log_attacks(main, spec)
        tracking.log_figures(main, {"attacks": plot})
    return figures
