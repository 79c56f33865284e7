"""The stages of the attacks, each with its key, as in `stages`, and the files that they leave together.

    references → attack on the original, attack on the erased model, for each attack → publish

The references and the attacks on the original are the same for every erasure of a concept, and are shared.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from . import attacks
from .artifacts import Artifact, produce
from .files import digest, file_digest, new_file, pictures_in, write_json
from .models.source import local_model
from .spec import Attack, Spec
from .stages import Progress, Slot, key, quiet, scorers_hash, source_content

Victim = Artifact | str | None
"""What is attacked: what a training left, a model by its name, or the original (None)."""


def pictures_hash(spec: Spec) -> str | None:
    """The hash of the user's own images of the concepts; None without any."""
    found = [[(p.name, file_digest(p)) for p in pictures_in(folder)] for folder in spec.picture_folders.values()]
    return digest(found) if found else None


def references_key(spec: Spec) -> str:
    from .attacks.references import plain_prompts

    part = spec.scoring.model_dump(include={"judge", "judge_classes", "description", "preserved"})
    judged = [part, scorers_hash(spec), spec.metrics]
    drawn = spec.generation.model_dump(exclude={"batch_size", "processes", "seeds", "prompts", "prompt_files"})
    prompts = [plain_prompts(spec, concept) for concept in spec.concepts]
    at_hand = [pictures_hash(spec), spec.attacks.references]
    return key(
        "references",
        local_model(spec.model)[1],
        spec.named_concepts,
        prompts,
        drawn,
        judged,
        at_hand,
        source_content(spec),
        spec.seed,
    )


def references(spec: Spec, progress: Progress = quiet, slot: Slot = None) -> Artifact:
    """Draw what attackers have at hand: references.parquet (concept, kind, prompt, png), by the original model."""

    def build(folder: Path) -> None:
        from .attacks.attempts import REFERENCES, write_rows
        from .attacks.references import attack_scorers
        from .attacks.references import references as draw
        from .models.pipeline import load_pipeline

        pipeline, scorers = load_pipeline(local_model(spec.model)[0]), attack_scorers(spec)
        rows = [row for concept in spec.concepts for row in draw(pipeline, spec, concept, scorers, progress)]
        write_rows(folder / "references.parquet", rows, REFERENCES)

    return produce("references", references_key(spec), build, slot)


def attack_key(spec: Spec, attack: Attack, references: Artifact, victim: Victim) -> str:
    attacked = victim.key if isinstance(victim, Artifact) else victim and local_model(victim)[1]
    return key("attack", attack.name, attack.settings.model_dump(), references.key, attacked or "original")


def attack(
    spec: Spec,
    attack: Attack,
    references: Artifact,
    victim: Victim = None,
    progress: Progress = quiet,
    slot: Slot = None,
) -> Artifact:
    """Run one attack: attempts.parquet, every image it drew with the judge's verdict."""

    def build(folder: Path) -> None:
        from .attacks.attempts import ERASED, ORIGINAL, run_attack
        from .attacks.references import attack_scorers
        from .models.delta import apply_delta
        from .models.pipeline import load_pipeline

        source, _ = local_model(victim if isinstance(victim, str) else spec.model)
        pipeline = load_pipeline(source)
        if isinstance(victim, Artifact):
            apply_delta(pipeline.unet, victim.file("delta.safetensors"))
        which = ORIGINAL if victim is None else ERASED
        at_hand, made = references.file("references.parquet"), folder / "attempts.parquet"
        run_attack(pipeline, which, spec, attack, at_hand, attack_scorers(spec), made, progress)

    inputs = references.content_of("references.parquet")
    if isinstance(victim, Artifact):
        inputs |= victim.content_of("delta.safetensors")
    return produce("attack", attack_key(spec, attack, references, victim), build, slot, inputs)


def every_attack(spec: Spec, victim: Victim) -> Iterator[tuple[str, Attack, Victim]]:
    """Each attack of a spec on the original and on the victim: the stage's name, the attack, and what is attacked.

    MLflow groups names by their slashes.
    """
    for attack in spec.attacks.run:
        yield f"attack/{attack.name}/original", attack, None
        yield f"attack/{attack.name}/erased", attack, victim


def publish_attacks(spec: Spec, artifacts: dict[str, Artifact]) -> dict[str, float]:
    """Write attempts.parquet, attacks.parquet and attacks.json to spec.output and return the attacks' figures.

    artifacts: by the stage's name, of every attack on both models.
    """
    from .attacks.rates import SCHEMA, headline, rates

    output = Path(spec.output)
    output.mkdir(parents=True, exist_ok=True)
    own = [name for name, *_ in every_attack(spec, None)]
    frames = [pq.read_table(artifacts[name].file("attempts.parquet")) for name in own]
    with new_file(output / "attempts.parquet") as partial:
        pq.write_table(pa.concat_tables(frames), partial)
    attempts = pa.concat_tables(frame.drop_columns("png") for frame in frames).to_pandas()
    table = rates(attempts, spec)
    with new_file(output / "attacks.parquet") as partial:
        pq.write_table(pa.Table.from_pandas(table, SCHEMA, preserve_index=False), partial)
    figures = headline(table)
    write_json(
        output / "attacks.json",
        {
            "concepts": spec.concept_words,
            "metrics": figures,
            "attacks": {attack.name: attack_summary(attack, attempts, table) for attack in spec.attacks.run},
            "seconds": {name: artifacts[name].seconds for name in own},
            "keys": {name: artifacts[name].key for name in own},
            "seed": spec.seed,
            "spec": spec.model_dump(mode="json"),
        },
    )
    return figures


def attack_summary(attack: Attack, attempts: pd.DataFrame, table: pd.DataFrame) -> dict:
    """An attack's settings, its rates, and the prompts that brought the concept back from the erased model."""
    from .attacks.attempts import ERASED
    from .attacks.target import ATTACK

    own = attempts[(attempts["attack"] == attack.name) & (attempts["model"] == ERASED) & (attempts["role"] == ATTACK)]
    won = own[own["success"]].groupby(["concept", "budget", "prompt"], sort=False).size().rename("images")
    rows = table[table["attack"] == attack.name].drop(columns=["attack", "unit"])
    return {
        "what": (attacks.settings_of(attack.name).__doc__ or "").strip(),
        "unit": attacks.load(attack.name).UNIT,
        "settings": attack.settings.model_dump(),
        "rates": rows.to_dict("records"),
        "recovered_by": won.reset_index().to_dict("records"),
    }
