"""The main flow: erase the concepts of one spec."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger

from erase_core import stages
from erase_core.cautions import cautions
from erase_core.files import read_json
from erase_core.preflight import check, check_hub, check_measurable
from erase_core.results import held
from tasks import registry, tracking
from tasks.generation import draw_images
from tasks.release import announce, register_model, release_model
from tasks.reporting import publish_results, show_summary
from tasks.scoring import score_images
from tasks.training import erase_concepts
from tasks.vocabulary import curate_vocabulary, embed_vocabulary, find_nearest

from .missed import catch_up_once
from .parameters import SpecOrFile
from .tracked import beside, stages_of


@flow(name="erase", flow_run_name="{spec.name}", log_prints=True, on_running=[catch_up_once])
def erase(spec: SpecOrFile, parent: str | None = None, slots: bool = False) -> dict:
    """Erase the concepts of a spec from its model, preserving the concept that is hurt most, and prove both.

    Stages: vocabulary → embeddings → nearest → training → images (original, erased) → scores → attacks, if the spec has some →
    publish → register. The original's images are drawn beside the training where there is room for both. Each is served from the
    cache when nothing it depends on has changed. Returns the run's summary. Raises InUse while another run has the output.

    Args:
        spec: What to erase, from which model, how, and what the result must reach; or the path of its file.
        parent: The MLflow run that this one belongs to.
        slots: Wait for a slot of this machine before each stage that works.
    """
    check(spec)
    check_hub(spec)
    for caution in cautions(spec):
        get_run_logger().warning(caution)
    tags = {
        "kind": "run",
        "method": spec.method.name,
        "concepts": ", ".join(spec.concept_words),
        "model": spec.model,
    }
    with held(Path(spec.output)), tracking.run(spec.name, parent, tags, spec.output) as main:
        tracking.log_parameters(main, spec.model_dump(mode="json"))
        stage = stages_of(spec, main, slots=slots)
        vocabulary = stage("vocabulary", curate_vocabulary, stages.vocabulary_key(spec), spec)
        embeddings = stage("embeddings", embed_vocabulary, stages.embeddings_key(spec, vocabulary), spec, vocabulary)
        nearest = stage(
            "nearest", find_nearest, stages.nearest_key(spec, vocabulary, embeddings), spec, vocabulary, embeddings
        )
        check_measurable(spec, stages.roles_of(spec, nearest))
        originals = ("images, original", draw_images, stages.images_key(spec, nearest, None), spec, nearest, None)
        with beside(spec, stage, *originals) as drawn:
            training = stage(
                "training", erase_concepts, stages.training_key(spec, nearest, embeddings), spec, nearest, embeddings
            )
            original = drawn()
        erased = stage(
            "images, erased", draw_images, stages.images_key(spec, nearest, training), spec, nearest, training
        )
        scores = stage(
            "scores", score_images, stages.scores_key(spec, nearest, original, erased), spec, nearest, original, erased
        )

        artifacts = {
            "vocabulary": vocabulary,
            "embeddings": embeddings,
            "nearest": nearest,
            "training": training,
            "original": original,
            "erased": erased,
            "scores": scores,
        }
        if spec.attacks is not None:
            # A flow of its own, and Prefect makes a schema of its parameters at import: a twentieth of the time to the first stage.
            from .attack import run_attacks

            artifacts |= run_attacks(spec, stage, training)
        figures = publish_results(spec, artifacts, slots)
        summary = read_json(Path(spec.output) / "summary.json")
        show_summary(spec.name, summary["metrics"])
        tracking.log_dataset(main, vocabulary.file("vocabulary.parquet"), "vocabulary", vocabulary.key, "preservation")
        tracking.log_dataset(main, original.file("images.parquet"), "original-images", original.key, "scoring")
        tracking.log_results(main, spec, figures)
        version = register_model(main, spec, summary)
        if summary["gate"]:
            released = release_model(spec, version, summary["gate"])
            verdict = "passed" if released.passed else "rejected"
            tracking.client().set_tag(main, "gate", verdict)
            announce(f"erase.gate.{verdict}", released, spec.gate.webhook, verdict=summary["gate"], mlflow_run=main)
            if released.champion and released.former != version:
                announce("erase.model.promoted", released, spec.gate.webhook, mlflow_run=main)
        tracking.mark_whole(main, spec.name, summary["keys"])
    return {**summary, "mlflow_run": main, "registered": {"name": registry.registered_name(spec), "version": version}}
