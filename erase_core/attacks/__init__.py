"""The attacks by name. One file an attack: what the attacker knows and does, beside the equation of its objective.

An attack's module has

- `UNIT`: what its budget counts: "images" (the attacker draws so many and needs one), "steps", or "strength";
- `run(target, settings)`, which yields an `Attempt` for every image the attacker drew at each of the settings' budgets, and for
  every image of the control. The judge decides afterwards which of them show the concept.

The parameters of each are in `erase_core.attacks.settings`, which needs no torch.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from .settings import SETTINGS, AttackSettings

MODULES = {
    "seeds": "seeds",
    "words": "words",
    "sdedit": "sdedit",
    "inversion": "inversion",
    "soft-prompt": "soft_prompt",
    "discrete-prompt": "discrete_prompt",
    "fine-tuning-related": "fine_tuning_related",
    "fine-tuning-unrelated": "fine_tuning_unrelated",
}


def names() -> list[str]:
    """The names a spec's `attacks.run` may hold, the cheapest first."""
    return list(MODULES)


def settings_of(name: str) -> type[AttackSettings]:
    """The parameters of an attack; KeyError when there is none of that name."""
    return SETTINGS[name]


def load(name: str) -> ModuleType:
    """The module of an attack; KeyError when there is none of that name."""
    return importlib.import_module(f"{__name__}.{MODULES[name]}")
