"""What the stages' keys depend on."""

from __future__ import annotations

from erase_core.artifacts import Artifact
from erase_core.spec import make_spec
from erase_core.stages import nearest_key, training_key

MADE = Artifact(stage="vocabulary", key="k", folder="/none", seconds=0)


def keys(method: str = "naive", **vocabulary) -> list[set[str]]:
    """The keys of the nearest words, and of the training, of two specs that differ in their seeds alone."""
    given = {"name": "x", "output": "o", "concepts": ["taxi"], "method": method, "vocabulary": vocabulary}
    specs = [make_spec({**given, "seed": seed}) for seed in (0, 1)]
    return [{key(spec, MADE, MADE) for spec in specs} for key in (nearest_key, training_key)]


def test_a_seed_that_nothing_is_drawn_with_is_in_no_key() -> None:
    near, trained = keys()
    assert len(near) == 1 and len(trained) == 2
    near, _ = keys(clusters=4)
    assert len(near) == 2
    for closed_form in ("uce", "time"):
        _, trained = keys(closed_form)
        assert len(trained) == 1
