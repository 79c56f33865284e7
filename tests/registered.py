"""Registered models for tests, in the session's MLflow store."""

from __future__ import annotations

import uuid
from pathlib import Path

from erase_core.spec import Spec
from tasks import registry, tracking
from tasks.tracking import client

LIMITS = {"min_esr_1": 0.9}
PASSED = {"passed": True, "reason": "", "thresholds": []}
SIZE = 100_000
"""Bytes of a registered model's weights."""
FAILED = {"passed": False, "reason": "esr 1 is 0.5, required ≥ 0.9", "thresholds": []}


def registered(*verdicts: dict) -> str:
    """The name of a new registered model with three versions, the first of which are released with these verdicts."""
    name = f"model-{uuid.uuid4().hex[:8]}"
    client().create_registered_model(name)
    for _ in range(3):
        client().create_model_version(name, source="-")
    for number, verdict in enumerate(verdicts, 1):
        registry.release(name, str(number), LIMITS, verdict)
    return name


def registered_with_files(folder: Path, *verdicts: dict | None) -> str:
    """The name of a new registered model with a version for each verdict, made as a run makes them; None: not released."""
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "weights.safetensors").write_bytes(bytes(SIZE))
    spec = Spec(name=f"model-{uuid.uuid4().hex[:8]}", concepts=["taxi"], output=str(folder))
    for number, verdict in enumerate(verdicts, 1):
        register_again(spec, number)
        if verdict is not None:
            registry.release(spec.name, str(number), LIMITS, verdict)
    return spec.name


def register_again(spec: Spec, number: int, training: str = "training") -> str:
    """The version of a spec's model number so and so."""
    summary = {"training": training, "metrics": {}, "license": "-", "base_model_hash": "-"}
    summary["erased_model_hash"] = f"model-{number}"
    with tracking.run(spec.name) as run_id:
        return registry.register(run_id, spec, summary)


def aliases(name: str) -> dict[str, str]:
    return {alias: str(version) for alias, version in client().get_registered_model(name).aliases.items()}
