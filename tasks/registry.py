"""The model registry in MLflow: versions, the alias `champion`, and how it moves.

A registered model is named after its spec, so the runs of one spec, whatever their settings, compete for one champion. The
model's tag `champions` is the list of its champions, the present one last; a rollback takes the last one away.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import re
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import mlflow
from mlflow import MlflowException
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import AnyType
from mlflow.utils.validation import MAX_MODEL_REGISTRY_TAG_VALUE_LENGTH as LONGEST_TAG

from erase_core.artifacts import produce
from erase_core.cleaning import DAY
from erase_core.files import digest, home
from erase_core.spec import Spec

from .tracking import client, experiment_id

CHAMPION, REJECTED, PASSED = "champion", "rejected", "passed"
KEPT_CHAMPIONS = 100
LOGGED_MODEL = "models:/m-"
"""How a version's source begins when a logged model has its files."""
# A column of integers could not leave out the seeds of some rows.
PROMPTS_TO_IMAGES = ModelSignature(
    Schema([ColSpec("string", "prompt"), ColSpec(AnyType(), "seed", required=False)]),
    Schema([ColSpec("binary", "png")]),
)
SERVED_BY = ("torch", "diffusers", "transformers", "safetensors", "pandas")
"""The packages that `registered_model` needs."""
PIPELINE = "artifacts/model"
"""Where the erased model lies among a logged model's files."""
FOR = "registered_model"
"""The tag of a logged model that says of which registered model it is to be a version."""


class RegistryError(ValueError):
    """Something that the registry cannot do. The message says why and what to do."""


@dataclass(frozen=True)
class Release:
    """What became of a version."""

    name: str
    version: str
    passed: bool
    champion: bool
    former: str | None
    """The champion before."""
    reason: str
    scores: dict[str, str]


@dataclass(frozen=True)
class Removable:
    """A version that can be removed, or files that no version has."""

    name: str
    version: str
    state: str
    """What its gate said, or why no version has its files."""
    model: str
    """The logged model that has its files."""
    gone: bool = False
    """Whether only its files are left."""


def registered_name(spec: Spec) -> str:
    """The registered model that a spec's runs belong to: the spec's name, as far as MLflow allows its characters."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", spec.name)


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Keep other processes of this machine from moving the same model's champion."""
    folder = home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"registered-model-{name}", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def register(run_id: str, spec: Spec, summary: dict) -> str:
    """Log the erased model and register it under the spec's name, with its scores, spec and parent as tags.

    The same weights are not registered twice; those of a training that was made again may differ a little, and are another
    version. Returns the version.
    """
    name, model, metrics = registered_name(spec), summary["erased_model_hash"], summary["metrics"]
    with alone(name):
        tags = {
            "training": summary["training"],
            "erased_model_hash": model,
            "concepts": ", ".join(spec.concept_words),
            "method": spec.method.name,
            "license": summary["license"],
            "parent": f"{spec.model} {summary['base_model_hash']}",
            "spec": spec_tag(spec),
            **{score: f"{x:.4f}" for score, x in metrics.items() if not score.endswith(("_low", "_high"))},
        }
        known = client().search_model_versions(f"name = '{name}' and tags.erased_model_hash = '{model}'")
        if not known:
            return log_model(run_id, spec, name, tags)
        version = str(known[0].version)
        tag(name, version, tags)
    return version


def spec_tag(spec: Spec) -> str:
    """The spec as JSON; its name alone where MLflow has no room for more. The run's summary.json has it whole."""
    text = json.dumps(spec.model_dump(mode="json"))
    return text if len(text) <= LONGEST_TAG else json.dumps({"name": spec.name})


def log_model(run_id: str, spec: Spec, name: str, tags: dict[str, str]) -> str:
    """Log the erased model and make it a new version of a registered model; returns the version."""
    with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
        # An input example would be drawn on the spot, which takes minutes for a large model.
        warnings.filterwarnings("ignore", message=".*input example was not provided")
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).parent / "registered_model.py"),
            signature=PROMPTS_TO_IMAGES,
            artifacts={"pipeline": str(Path(spec.output) / "model")},
            pip_requirements=requirements(),
            tags={FOR: name},
        )
        version = str(mlflow.register_model(info.model_uri, name, tags=tags).version)
    # Its block ends the run, whose gate is yet to come.
    client().update_run(run_id, status="RUNNING")
    return version


def requirements() -> list[str]:
    """The packages that serve an erased model, in the installed versions; any build of them, with CUDA or without."""
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in SERVED_BY]


def tag(name: str, version: str, tags: dict[str, str]) -> None:
    for key, value in tags.items():
        client().set_model_version_tag(name, version, key, value)


def release(name: str, version: str, gate: dict, verdict: dict) -> Release:
    """Apply a gate's verdict to a version: the alias champion, or rejected with the reason.

    gate: the thresholds. verdict: as `erase_core.gate.Verdict.as_json` gives it. A version that was judged by the same
    thresholds on the same values before stays as it is, and one that was rolled back is promoted again only by hand; so a
    run that is repeated undoes nothing. A champion that fails gives way to the one before it.
    """
    with alone(name):
        tags, before = version_of(name, version).tags, version_with(name, CHAMPION)
        if tags.get("judged") != (judged := digest(gate, verdict)):
            state = PASSED if verdict["passed"] else REJECTED
            tag(name, version, {"gate": state, "gate.thresholds": json.dumps(gate), "reason": verdict["reason"] or "-"})
            if verdict["passed"]:
                if version_with(name, REJECTED) == version:
                    client().delete_registered_model_alias(name, REJECTED)
                if "rolled_back" not in tags:
                    crown(name, version)
            else:
                client().set_registered_model_alias(name, REJECTED, version)
                if before == version:
                    give_way(name, version)
            tag(name, version, {"judged": judged})
        return outcome(name, version, before)


def promote(name: str, version: str | None = None, force: bool = False) -> Release:
    """Make a version the champion: by default the newest that passed its gate. force: also one that was rejected."""
    known = versions(name)
    with alone(name):
        if version is None:
            passed = [v for v in known if v.tags.get("gate") == PASSED]
            if not passed:
                raise RegistryError(f"NAME: no version of {name} passed a gate; give VERSION to promote one by hand")
            version = str(passed[0].version)
        chosen = version_of(name, version)
        if chosen.tags.get("gate") == REJECTED and not force:
            raise RegistryError(
                f"VERSION: {version} of {name} was rejected ({chosen.tags.get('reason', '')}); --force promotes it all the same"
            )
        if (before := version_with(name, CHAMPION)) == version:
            raise RegistryError(f"VERSION: {version} is the champion of {name} already")
        with contextlib.suppress(MlflowException):
            client().delete_model_version_tag(name, version, "rolled_back")
        crown(name, version)
        return outcome(name, version, before)


def rollback(name: str) -> Release:
    """Give the alias champion back to the champion before this one."""
    versions(name)
    with alone(name):
        present = version_with(name, CHAMPION)
        if present is None:
            raise RegistryError(f"NAME: {name} has no champion; erase promote {name} makes one")
        if not (line := before_this_one(name, present)):
            raise RegistryError(f"NAME: version {present} is the first champion of {name}; there is none to go back to")
        tag(name, present, {"rolled_back": now()})
        give_way(name, present)
        return outcome(name, line[-1], present)


def crown(name: str, version: str) -> None:
    """Point champion to a version, and put that on record. The alias is what counts and so comes first: broken off and done
    again, it ends the same.
    """
    present = version_with(name, CHAMPION)
    line = [*line_to(name, present), *([version] if present != version else [])]
    if present == version and champions(name) == line:
        return
    client().set_registered_model_alias(name, CHAMPION, version)
    former = {"former_champion": line[-2]} if len(line) > 1 else {}
    tag(name, version, {"promoted": now(), **former})
    keep_champions(name, line)


def give_way(name: str, present: str) -> None:
    """Take champion from the present version and give it to the one before, if there is one."""
    line = before_this_one(name, present)
    if line:
        client().set_registered_model_alias(name, CHAMPION, line[-1])
    else:
        client().delete_registered_model_alias(name, CHAMPION)
    keep_champions(name, line)


def champions(name: str) -> list[str]:
    """Every version on record that has been champion and was not rolled back, the newest last."""
    return json.loads(client().get_registered_model(name).tags.get("champions", "[]"))


def line_to(name: str, present: str | None) -> list[str]:
    """The champions up to the present one, which the record may be behind or ahead of where it was broken off."""
    line = champions(name)
    while present in line and line[-1] != present:
        line.pop()
    return line if present in (None, *line) else [*line, present]


def before_this_one(name: str, present: str) -> list[str]:
    """The champions before the present one, as far as they are still there and not rejected."""
    fit = {str(v.version) for v in client().search_model_versions(f"name = '{name}'") if v.tags.get("gate") != REJECTED}
    return [version for version in line_to(name, present)[:-1] if version in fit]


def keep_champions(name: str, line: list[str]) -> None:
    client().set_registered_model_tag(name, "champions", json.dumps(line[-KEPT_CHAMPIONS:]))


def removable(name: str | None, keep: int, rejected: bool = False) -> list[Removable]:
    """The versions of a registered model, or of all of them, that can be removed, oldest first, after files that no version has.

    These are the superseded versions; rejected: and those that a gate rejected, but for the newest. Only those that `register`
    made, and whose files no other version uses. keep: how many champions before the present one stay.
    """
    names = sorted(registered_models(name))
    left = [each for each in left_over() if name in (None, each.name)]
    return left + [version for each in names for version in removable_versions(each, keep, rejected)]


def removable_versions(name: str, keep: int, rejected: bool) -> list[Removable]:
    """The versions of one registered model that can be removed; see `removable`."""
    known, found = versions(name), []
    fit = superseded(name, known, keep)
    fit += [v for v in refused(known) if v not in fit] if rejected else []
    for version in sorted(fit, key=lambda v: int(v.version)):
        made_here = "training" in version.tags and version.source.startswith(LOGGED_MODEL)
        if made_here and made_from(version.source) == 1 and not made_from(f"models:/{name}/{version.version}"):
            model = version.source.removeprefix("models:/")
            found.append(Removable(name, str(version.version), version.tags.get("gate", ""), model))
    return found


def made_from(source: str) -> int:
    """How many versions, of whatever registered model, have their files from a source."""
    return len(every(lambda **page: client().search_model_versions(f"source_path = '{source}'", **page)))


def superseded(name: str, known: list[ModelVersion], keep: int) -> list[ModelVersion]:
    """Of a model's versions, those older than the champion that have no alias and are none of the `keep` champions before it.

    None where there is no champion. One that was rolled back stays: its tag keeps a repeated run from making it champion again.
    """
    present = version_with(name, CHAMPION)
    if present is None:
        return []
    line = before_this_one(name, present)
    kept = line[max(0, len(line) - keep) :]
    older = [version for version in known if int(version.version) < int(present)]
    return [v for v in older if may_go(v) and str(v.version) not in kept]


def refused(known: list[ModelVersion]) -> list[ModelVersion]:
    """Of a model's versions, the newest first, those that its gate rejected, but for the newest of them and what is to stay."""
    return [v for v in [v for v in known if v.tags.get("gate") == REJECTED][1:] if may_go(v)]


def may_go(version: ModelVersion) -> bool:
    """Whether nothing says that a version is to stay."""
    return not version.aliases and "rolled_back" not in version.tags


def left_over() -> list[Removable]:
    """The project's logged models that no version uses: left by removals that were broken off, and by uploads that failed.

    The latter when they are a day old, as they are made before their version is.
    """
    used = {files_of(version) for version in versions()}
    logged = every(lambda **page: client().search_logged_models([experiment_id()], **page))
    unused = [model for model in logged if used.isdisjoint((model.model_uri, model.artifact_location))]
    return [left for model in unused if (left := left_of(model))]


def files_of(version: ModelVersion) -> str:
    """The logged model that has a version's files; where they lie for a copy, whose source is the version that was copied."""
    if version.source.startswith(LOGGED_MODEL):
        return version.source
    return client().get_model_version_download_uri(version.name, str(version.version))


def left_of(model: LoggedModel) -> Removable | None:
    """What a logged model without a version is; None while it may still become one."""
    if "removing" in model.tags:
        was = model.tags["removed_from"], model.tags["removed_version"]
        return Removable(*was, "gone but for its files", model.model_id, gone=True)
    if model.creation_timestamp / 1000 > time.time() - DAY:
        return None
    return Removable(model.tags.get(FOR, "-"), "-", "no version has it", model.model_id, gone=True)


def folder_of(place: str) -> Path:
    """The diffusers folder of a version, given as MLflow names it: models:/NAME@ALIAS or models:/NAME/VERSION.

    Where the store's files are behind a server they are fetched, once. Raises RegistryError for what is not there.
    """
    found = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", place)
    if found is None:
        raise RegistryError(f"model: {place!r} is no version; write models:/NAME@{CHAMPION} or models:/NAME/VERSION")
    name, alias, version = found.groups()
    versions(name)
    if alias is not None and (version := version_with(name, alias)) is None:
        raise RegistryError(f"model: no version of {name} has the alias {alias}; erase models {name} lists them")
    source = files_of(version_of(name, version))
    if not source.startswith(LOGGED_MODEL):
        raise RegistryError(f"model: version {version} of {name} is none that a run registered; name another")
    logged = source.removeprefix("models:/")
    files = get_artifact_repository(client().get_logged_model(logged).artifact_location)
    if isinstance(files, LocalArtifactRepository):
        return Path(files.download_artifacts(PIPELINE))
    return produce("models", digest(logged), lambda folder: files.download_artifacts(PIPELINE, str(folder))).file(
        PIPELINE
    )


def size_of(model: str, path: str | None = None) -> int:
    """The bytes of a logged model's files."""
    found = client().list_logged_model_artifacts(model, path)
    return sum(size_of(model, each.path) if each.is_dir else each.file_size for each in found)


def remove(one: Removable, keep: int, rejected: bool = False) -> bool:
    """Remove a version and its files, by the same choice as `removable`; returns whether that could still be done.

    The version goes first: one without files must never be promoted, or be found by `register`.
    """
    with alone(one.name):
        if one not in (left_over() if one.gone else removable_versions(one.name, keep, rejected)):
            return False
        if not one.gone:
            marks = {"removing": "true", "removed_from": one.name, "removed_version": one.version}
            client().set_logged_model_tags(one.model, marks)
            client().delete_model_version(one.name, one.version)
        # MLflow's own deletion leaves the files to `mlflow gc`, which takes every deleted run with them.
        get_artifact_repository(client().get_logged_model(one.model).artifact_location).delete_artifacts()
        client().delete_logged_model(one.model)
    return True


def outcome(name: str, version: str, before: str | None) -> Release:
    """How a version stands, given the champion before."""
    tags = version_of(name, version).tags
    return Release(
        name,
        version,
        passed=tags.get("gate") != REJECTED,
        champion=version_with(name, CHAMPION) == version,
        former=before,
        reason=tags.get("reason", "-").removeprefix("-"),
        scores={score: tags[score] for score in ("esr_1", "esr_5", "psr_1", "psr_5") if score in tags},
    )


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def version_of(name: str, version: str) -> ModelVersion:
    try:
        found = client().get_model_version(name, version)
    except MlflowException:
        raise RegistryError(f"VERSION: {name} has no version {version}; erase models {name} lists them") from None
    return found


def version_with(name: str, alias: str) -> str | None:
    """The version that has an alias, or None."""
    found = client().get_registered_model(name).aliases.get(alias)
    return None if found is None else str(found)


def versions(name: str | None = None) -> list[ModelVersion]:
    """Every version of a registered model, or of all of them, newest first, with its aliases."""
    models = registered_models(name)
    found = every(lambda **page: client().search_model_versions(f"name = '{name}'" if name else None, **page))
    for version in found:
        version.aliases = [a for a, v in models[version.name].aliases.items() if str(v) == str(version.version)]
    return sorted(found, key=lambda v: (v.name, -int(v.version)))


def registered_models(name: str | None = None) -> dict[str, RegisteredModel]:
    """A registered model, or all of them, by name. RegistryError when there is none of the name."""
    try:
        found = every(client().search_registered_models) if name is None else [client().get_registered_model(name)]
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        models = ", ".join(sorted(registered_models()))
        known = f"there are {models}" if models else "erase run makes one"
        raise RegistryError(f"NAME: {name} is not a registered model; {known}") from None
    return {model.name: model for model in found}


def every(search) -> list:
    """All pages of a search."""
    found, token = [], None
    while True:
        page = search(page_token=token)
        found += page
        if not (token := page.token):
            return found
