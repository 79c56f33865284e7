"""Registered models for tests, in the session's MLflow store."""

from __future__ import annotations

import uuid

from tasks import registry
from tasks.tracking import client

LIMITS = {"min_esr_1": 0.9}
PASSED = {"passed": True, "reason": "", "thresholds": []}
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


def aliases(name: str) -> dict[str, str]:
    return {alias: str(version) for alias, version in client().get_registered_model(name).aliases.items()}
