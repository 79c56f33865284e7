"""A run's results in its spec's output: written whole, and known again by the keys and hashes in its summary."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .artifacts import Artifact
from .attack_stages import attack_key, every_attack, publish_attacks, references_key
from .files import file_digest, new_file, read_json, write_json
from .gate import judge
from .generation.plan import PRESERVED
from .hub import HubAway
from .models.source import local_model, model_hash
from .results import UNFINISHED, digests
from .revisions import revisions
from .spec import Spec
from .stages import (
    VERDICTS,
    embeddings_key,
    images_key,
    nearest_key,
    roles_of,
    scores_key,
    training_key,
    vocabulary_key,
)
from .versions import versions

OPTIONAL = (*VERDICTS, "attempts.parquet", "attacks.parquet", "attacks.json", "attacks.html")
"""What not every run writes. Of a run that wrote to the same folder before, it would be taken for this one's."""


def publish(spec: Spec, artifacts: dict[str, Artifact]) -> dict[str, bytes]:
    """Write the results of a run to spec.output and return the report's figures (PNG) by name.

    artifacts: vocabulary, embeddings, nearest, training, original, erased and scores, and those of the attacks. Every file
    appears whole, and of an earlier run's in the folder none is left.
    """
    from .metrics.scores import headline
    from .models.origin import CARD, origin_of, read_card
    from .report.page import build_page

    output, began = Path(spec.output), time.time()
    output.mkdir(parents=True, exist_ok=True)
    (output / UNFINISHED).touch()
    source, base = local_model(spec.model)
    made, training = output / "model", artifacts["training"]
    if not is_model_of(training, output):
        from .models.delta import apply_delta
        from .models.pipeline import load_pipeline, save_pipeline

        pipeline = load_pipeline(source)
        own = apply_delta(pipeline.unet, training.file("delta.safetensors"))
        origin = origin_of(source.folder, spec.model, base, own)
        save_pipeline(pipeline, made, origin.without(", ".join(spec.concept_words), spec.method.name))

    tables = {
        "vocabulary.parquet": "vocabulary",
        "preserved.parquet": "nearest",
        "trace.parquet": "training",
        "delta.safetensors": "training",
        "scores.parquet": "scores",
        "verdicts.parquet": "scores",
    }
    for name, stage in tables.items():
        with new_file(output / name) as partial:
            shutil.copyfile(artifacts[stage].file(name), partial)
    for name in OPTIONAL:
        (output / name).unlink(missing_ok=True)
    for name in VERDICTS:
        if artifacts["scores"].file(name).exists():
            with new_file(output / name) as partial:
                shutil.copyfile(artifacts["scores"].file(name), partial)
    role_of = roles_of(spec, artifacts["nearest"])
    write_images(output / "images.parquet", artifacts, role_of)

    scores = pd.read_parquet(output / "scores.parquet")
    figures = headline(scores)
    if spec.attacks is not None:
        figures |= publish_attacks(spec, artifacts)
    summary = {
        "name": spec.name,
        **figures,
        "metrics": figures,
        "gate": judged(spec, figures, scores),
        "seed": spec.seed,
        "began": {stage: artifact.began for stage, artifact in artifacts.items()},
        "seconds": {stage: artifact.seconds for stage, artifact in artifacts.items()},
        "cached": [stage for stage, artifact in artifacts.items() if artifact.cached],
        **read_json(training.file("resources.json")),
        "vocabulary": read_json(artifacts["vocabulary"].file("counts.json")),
        "training": training.key,
        "license": read_card(made / CARD).license,
        "base_model_hash": base,
        "erased_model_hash": model_hash(made),
        "keys": {stage: artifact.key for stage, artifact in artifacts.items()},
        "roles": role_of,
        "unjudged": unjudged(scores, role_of) if "erasure" in spec.metrics else [],
        "versions": versions(),
        "revisions": revisions(spec),
        "versions_by_stage": other_versions(artifacts),
        "spec": spec.model_dump(mode="json"),
    }
    pages = (artifacts[stage].file("images.parquet") for stage in ("original", "erased"))
    page = build_page(output, summary, *pages)
    summary["began"]["publish"], summary["seconds"]["publish"] = began, time.time() - began
    write_json(output / "summary.json", summary | {"files": digests(output)})
    (output / UNFINISHED).unlink()
    return page


def is_model_of(training: Artifact, output: Path) -> bool:
    """Whether output/model is what this very training gave: another of the same key may have a little other weights."""
    try:
        known = read_json(output / "summary.json")
        same = known["training"] == training.key
        same = same and known["files"]["delta.safetensors"] == training.record["files"]["delta.safetensors"]
        return same and model_hash(output / "model") == known["erased_model_hash"]
    except (OSError, ValueError, KeyError):
        return False


def other_versions(artifacts: dict[str, Artifact]) -> dict[str, dict[str, str] | None]:
    """The packages of each stage that was made with other versions than this process has; None where they are not known."""
    own, found = versions(), {}
    for stage, artifact in artifacts.items():
        made_with = artifact.record.get("versions")
        other = made_with and {name: version for name, version in made_with.items() if own.get(name) != version}
        if other != {}:
            found[stage] = other
    return found


def unjudged(scores: pd.DataFrame, role_of: dict[str, str]) -> list[str]:
    """The preserved concepts that PSR leaves out, since the judge has no class for them."""
    counted = set(scores.loc[scores["metric"] == "psr_1", "concept"])
    return [concept for concept, role in role_of.items() if role == PRESERVED and concept not in counted]


def judged(spec: Spec, figures: dict[str, float], scores: pd.DataFrame) -> dict | None:
    """What the spec's gate says of a run's figures and of its scores by concept; None without one."""
    from .metrics.scores import by_concept

    return judge(spec.gate, figures, by_concept(scores)).as_json() if spec.gate.limits else None


def write_images(path: Path, artifacts: dict[str, Artifact], role_of: dict[str, str]) -> None:
    """Both models' images in one dataset: prompt, concept, role, seed, model (a hash), png."""
    with new_file(path) as partial:
        writer = None
        for stage in ("original", "erased"):
            for batch in pq.ParquetFile(artifacts[stage].file("images.parquet")).iter_batches(256):
                table = pa.Table.from_batches([batch])
                role = pa.array([role_of[concept] for concept in table["concept"].to_pylist()], pa.string())
                table = table.add_column(2, "role", role)
                writer = writer or pq.ParquetWriter(partial, table.schema)
                writer.write_table(table)
        writer.close()


def finished(spec: Spec) -> dict | None:
    """The summary of a run that is whole in spec.output and would come out the same again, by its files' hashes and its keys.

    None when it must be run. Nothing is computed, and the cache is not needed: the keys' inputs lie in the output.
    """
    output = Path(spec.output)
    try:
        summary = read_json(output / "summary.json")
        known = summary["keys"]

        def made(stage: str, key: str) -> Artifact:
            if known[stage] != key:
                raise ValueError(stage)
            return Artifact(stage=stage, key=key, folder=output, seconds=0, cached=True)

        whole = all(file_digest(output / name) == found for name, found in summary["files"].items())
        if summary["name"] != spec.name or not whole:
            return None
        words = made("vocabulary", vocabulary_key(spec))
        embedded = made("embeddings", embeddings_key(spec, words))
        near = made("nearest", nearest_key(spec, words, embedded))
        trained = made("training", training_key(spec, near, embedded))
        original = made("original", images_key(spec, near, None))
        erased = made("erased", images_key(spec, near, trained))
        made("scores", scores_key(spec, near, original, erased))
        if summary["spec"]["report"] != spec.report.model_dump():
            return None
        if (summary["spec"]["attacks"] is None) is not (spec.attacks is None):
            return None
        if spec.attacks is not None:
            at_hand = made("references", references_key(spec))
            for name, attack, attacked in every_attack(spec, trained):
                made(name, attack_key(spec, attack, at_hand, attacked))
        if summary["gate"] != judged(spec, summary["metrics"], pd.read_parquet(output / "scores.parquet")):
            return None
    except (OSError, ValueError, KeyError, HubAway):
        return None
    return summary
