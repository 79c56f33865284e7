"""What the stages' keys depend on."""

from __future__ import annotations

from pathlib import Path

from erase_core.artifacts import Artifact
from erase_core.concepts.neighbours import write_neighbours
from erase_core.spec import make_spec
from erase_core.stages import images_key, nearest_key, scores_key, training_key

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


def test_the_numbers_of_a_prompt_file_are_in_the_scores_key_alone(tmp_path: Path) -> None:
    """The verdicts have them, and the images do not."""
    nearest = Artifact(stage="nearest", key="k", folder=tmp_path, seconds=0)
    write_neighbours(nearest.file("preserved.parquet"), {})
    file, keys = tmp_path / "prompts.csv", []
    for number in (7, 7, 8):
        file.write_text(f"case_number,prompt,evaluation_seed,label_str\n{number},a taxi,1,taxi\n")
        given = {"name": "x", "concepts": ["taxi"], "output": "-", "generation": {"prompt_files": [str(file)]}}
        spec = make_spec(given)
        keys.append((images_key(spec, nearest, None), scores_key(spec, nearest, MADE, MADE)))
    assert keys[0] == keys[1] and keys[1][0] == keys[2][0] and keys[1][1] != keys[2][1]
