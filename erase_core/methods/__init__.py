"""The methods by name. One file a method: its parameters, and its losses beside their equations.

A method's module has

- `Settings`: its parameters, a pydantic model;
- `CHOICE`: how c_a, the concept beside the erased one, is chosen in each step (see `erase_core.search.choosers`), or None;
- `EDITED` and `FROZEN`: the names of the predictions of θ' and θ that its losses are made of;
- where θ' is its own teacher, `TEACHER`: the names of its predictions that no gradient flows through;
- `erasing_loss(edited, frozen, settings, distance)`, and `preservation_loss` of the same shape where something is preserved;
- where c_a is searched, `SEARCHED`, the two lists of names for the search, and `search_loss`, which the search ascends;
- or, for a closed form, `solve(weight, source, destination, preserved, settings)` in place of all but the first two;
- where the method needs it, `TRAINING`: its own defaults for the spec's training part;
- once its results have changed, `VERSION`, a number to raise with every such change: what is kept of before is not used again.

A prediction's name is "condition@latents": "neutral@erased" is ε(z_t, t, c_n) at a latent z_t of c_e. At its own latents a
condition is named alone: "erased" is "erased@erased". `erase_core.training.step` lists the conditions and latents.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from types import ModuleType

from pydantic import BaseModel

GROUP = "erase.methods"
"""Entry-point group in which another package offers its methods."""
HERE = "erase_core.methods"
MODULES = {
    "adversarial": f"{HERE}.adversarial",
    "adversarial-pgd": f"{HERE}.adversarial_pgd",
    "naive": f"{HERE}.naive",
    "neutral": f"{HERE}.neutral",
    "fixed": f"{HERE}.fixed",
    "random": f"{HERE}.random",
    "nearest": f"{HERE}.nearest",
    "weight-decay": f"{HERE}.weight_decay",
    "esd": f"{HERE}.esd",
    "age": f"{HERE}.age",
    "kpop": f"{HERE}.kpop",
    "forget-me-not": f"{HERE}.forget_me_not",
    "concept-ablation": f"{HERE}.concept_ablation",
    "time": f"{HERE}.time",
    "uce": f"{HERE}.uce",
}
NEIGHBOURS = frozenset({"gumbel", "pgd", "random", "nearest", "anchor", "words"})
"""The kinds of choice that may read the erased concept's nearest words."""


@functools.cache
def modules() -> dict[str, str]:
    """Method name → dotted module: the project's own, and those that installed packages offer under GROUP."""
    offered = importlib.metadata.entry_points(group=GROUP)
    return MODULES | {entry.name: entry.value for entry in offered if entry.name not in MODULES}


def names() -> list[str]:
    """The names a spec's `method` may have."""
    return list(modules())


def settings_of(name: str) -> type[BaseModel]:
    """The parameters of a method; KeyError when there is none of that name."""
    return load(name).Settings


def load(name: str) -> ModuleType:
    """The module of a method; KeyError when there is none of that name."""
    return importlib.import_module(modules()[name])


def version_of(losses: ModuleType) -> dict[str, int]:
    """The part of a key that a method's `VERSION` is; nothing for a method without."""
    return {"version": losses.VERSION} if hasattr(losses, "VERSION") else {}


def solves(losses: ModuleType) -> bool:
    """Whether a method solves for the weights in place of training them."""
    return hasattr(losses, "solve")
