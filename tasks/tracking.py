"""The only door to MLflow, beside registry.py: runs, metrics, artifacts and datasets."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import pandas as pd
import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Experiment, InputTag, Metric, Param, Run
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_PARENT_RUN_ID
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH as LONGEST_PARAMETER

from erase_core.artifacts import Artifact
from erase_core.files import alone, digest, home, new_file, read_json
from erase_core.spec import Spec
from erase_core.unsafe import hides, write_blurred

EXPERIMENT = "erase"
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Opens the experiment on its runs, not on the pages for language models."""
HOME = "home"
"""The experiment's tag that says in which home the files of its runs lie."""
BEHIND_A_SERVER = "mlflow-artifacts:"
LONGEST_TAG = 5000
LONGEST_DESCRIPTION = 8000
METRICS_PER_CALL = 500
PARAMETERS_PER_CALL = 100
SECONDS_BETWEEN_CALLS = 2.0
NIGHTS = "nights"
"""Where a batch's run keeps its table of every night."""
RESOURCES = ("step_seconds", "latent_seconds", "peak_memory_gib")
"""What a summary tells of a training beside its stages' seconds."""


class StoreError(RuntimeError):
    """An MLflow store whose runs' files this process cannot write. The message names the variable or option, and the fix."""


def client() -> MlflowClient:
    return client_of(os.environ["MLFLOW_TRACKING_URI"])


@functools.cache
def client_of(uri: str) -> MlflowClient:
    """A client of the store, whose database it makes or brings to the installed version; two processes at once cannot do that."""
    with alone(home() / "mlflow"):
        return MlflowClient(uri)


def experiment_id() -> str:
    """The project's experiment, made when it is not there; its runs' files then lie where the MLflow server says, or without one in
    the project's home. Raises StoreError where this process could not write them to where they are kept.
    """
    served = os.environ["MLFLOW_TRACKING_URI"].startswith("http")
    found = experiment(None if served else own_place())
    if found.artifact_location.startswith(BEHIND_A_SERVER) and not served:
        raise StoreError(
            "MLFLOW_TRACKING_URI: the files of this store's runs are kept by its MLflow server; set it to that server's address"
        )
    # A folder of the same path may be there too, of which the store knows nothing.
    if found.artifact_location.startswith("file:") and found.tags.get(HOME) not in (None, home_id()):
        raise StoreError(
            f"MLFLOW_TRACKING_URI: the files of this store's runs lie in {found.artifact_location}, of a home that is not this "
            "process's; share that as ERASE_HOME, or use the store of an erase up --for-others"
        )
    return found.experiment_id


def make_experiment(for_others: bool = False) -> None:
    """Make the experiment where it is not there, in the store itself.

    for_others: its runs' files are to lie behind the MLflow server, so that those write them who do not see this home. Raises
    StoreError where they already lie elsewhere.
    """
    found = experiment(f"{BEHIND_A_SERVER}/{EXPERIMENT}" if for_others else own_place())
    if for_others and found.artifact_location.startswith("file:"):
        raise StoreError(
            f"--for-others: the files of this store's runs lie in {found.artifact_location}, and stay there; begin in another "
            "home, as ERASE_HOME says"
        )


def own_place() -> str:
    return (home() / "mlflow" / "artifacts").as_uri()


def experiment(place: str | None) -> Experiment:
    """The project's experiment, made where it is not there with its runs' files in a place; None is where the server says."""
    if (found := client().get_experiment_by_name(EXPERIMENT)) is None:
        tags = KIND | ({HOME: home_id()} if place == own_place() else {})
        # Another process may have made it since.
        with contextlib.suppress(mlflow.MlflowException):
            client().create_experiment(EXPERIMENT, artifact_location=place, tags=tags)
        found = client().get_experiment_by_name(EXPERIMENT)
    return found


def runs_page(server: str) -> str:
    """Where an MLflow server of this store shows the project's runs; its first page while there are none.

    In a browser that is new to it, MLflow opens an experiment on an overview that is not about runs like these.
    """
    found = client().get_experiment_by_name(EXPERIMENT)
    return server if found is None else f"{server}/#/experiments/{found.experiment_id}/runs"


def flat(value: dict, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested parts of a spec as dotted parameter names and values."""
    for name, item in value.items():
        if isinstance(item, dict):
            yield from flat(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(item)[:LONGEST_PARAMETER]


def away(error: object) -> bool:
    """Whether an error says that MLflow's server or its database did not answer, or failed in itself."""
    return isinstance(error, mlflow.MlflowException) and error.error_code in (
        "INTERNAL_ERROR",
        "TEMPORARILY_UNAVAILABLE",
    )


def found_runs(**tags: str) -> list[Run]:
    """All runs of the project with these tags, the newest first."""
    wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    return list(client().search_runs([experiment_id()], wanted, order_by=["start_time DESC"], max_results=1000))


def home_id() -> str:
    """A random name that a home keeps, wherever it is moved and from whichever machine it is used, as its locks are the home's."""
    path = home() / "id"
    with alone(path):
        if not path.exists():
            with new_file(path) as partial:
                partial.write_text(uuid.uuid4().hex, encoding="utf-8")
    return path.read_text(encoding="utf-8")


def place_of(output: str) -> str:
    """The hash of a home and of where a folder of results lies, which tags may be searched by whatever a path holds.

    Another home's lock does not guard a folder: hosts that share an MLflow server may each have one of the same path.
    """
    return digest(home_id(), str(Path(output).resolve()))


def end_abandoned(output: str) -> None:
    """End the runs, and all below them, that a killed process left as running. Only for who holds the folder of results."""
    for main in found_runs(place=place_of(output)):
        end_with_all_below(main)


def end_with_all_below(run: Run) -> None:
    """End a run that is still running as killed, after those below it: broken off and done again, none is forgotten."""
    if run.info.status == "RUNNING":
        for below in found_runs(**{MLFLOW_PARENT_RUN_ID: run.info.run_id}):
            end_with_all_below(below)
        client().set_terminated(run.info.run_id, "KILLED")


def mark_whole(run_id: str, name: str, keys: dict[str, str]) -> None:
    """Mark a run as tracked to its end; see `whole_run`."""
    client().set_tag(run_id, "whole", digest(name, keys))


def whole_run(name: str, keys: dict[str, str]) -> str | None:
    """The id of the newest run of this name and keys that was tracked to its end, or None."""
    found = [run for run in found_runs(whole=digest(name, keys)) if run.info.status == "FINISHED"]
    return found[0].info.run_id if found else None


@contextlib.contextmanager
def run(
    name: str,
    parent: str | None = None,
    tags: dict[str, str] | None = None,
    output: str | None = None,
    same: str | None = None,
    alone: bool = True,
) -> Iterator[str]:
    """Start a run, yield its id, and end it as finished, or as failed with the error as a tag.

    output: the folder of its results, which this process holds; alone, or with others, whose runs may be under way. same: a tag
    by which an earlier run is found, to go on in it; one of the same output where there is one. Where MLflow cannot be told of an
    error, that error is raised all the same.
    """
    # SQLite keeps longer tags, PostgreSQL does not.
    told = {tag: value[:LONGEST_TAG] for tag, value in (tags or {}).items()}
    every = {"mlflow.source.name": "erase", **told} | ({MLFLOW_PARENT_RUN_ID: parent} if parent else {})
    if output is not None:
        every |= {"output": str(Path(output).resolve()), "place": place_of(output)}
        if alone:
            end_abandoned(output)
    known = found_runs(**{tag: every[tag] for tag in (same, "place") if tag in every}) if same else []
    if known:
        run_id = known[0].info.run_id
        client().update_run(run_id, status="RUNNING")
        if "error" in known[0].data.tags:
            client().delete_tag(run_id, "error")
    else:
        run_id = client().create_run(experiment_id(), run_name=name, tags=every).info.run_id
    try:
        yield run_id
    except BaseException as error:
        try:
            client().set_tag(run_id, "error", f"{type(error).__name__}: {error}"[:LONGEST_TAG])
            client().set_terminated(run_id, "FAILED")
        except Exception as untold:
            print(f"MLflow could not be told that {name} failed: {type(untold).__name__}: {untold}".splitlines()[0])
        raise
    client().set_terminated(run_id, "FINISHED")


def log_parameters(run_id: str, parameters: dict) -> None:
    found = [Param(name, value) for name, value in flat(parameters)]
    for start in range(0, len(found), PARAMETERS_PER_CALL):
        client().log_batch(run_id, params=found[start : start + PARAMETERS_PER_CALL])


def metric_name(text: str) -> str:
    """A name that MLflow takes for a metric: anything it does not allow becomes a dash."""
    return re.sub(r"[^A-Za-z0-9_./ -]+", "-", text)


def log_metrics(run_id: str, metrics: dict[str, float], step: int = 0) -> None:
    now = int(time.time() * 1000)
    found = [Metric(name, float(value), now, step) for name, value in metrics.items()]
    for start in range(0, len(found), METRICS_PER_CALL):
        client().log_batch(run_id, metrics=found[start : start + METRICS_PER_CALL])


class StepMetrics:
    """Per-step losses of a training, sent in batches while it runs; sends nothing when run_id is None.

    They are sent by a thread of its own, so a server that is away does not hold up the training; the end waits until all are sent.
    Where one cannot be, the others are not tried, and the end raises MlflowException, unless the block raised what ended it: the
    whole trace lies in the training's result, from which the next try logs it.
    """

    def __init__(self, run_id: str | None):
        self.run_id, self.waiting, self.sent, self.sending = run_id, [], time.monotonic(), []
        self.client, self.sender = client(), ThreadPoolExecutor(1)

    def __enter__(self) -> StepMetrics:
        return self

    def add(self, record: dict) -> None:
        now = int(time.time() * 1000)
        for name in ("search_loss", "erasing_loss", "preservation_loss", "probability", "distance"):
            value = record[name]
            if value is not None and not math.isnan(value):
                self.waiting.append(Metric(f"{record['phase']}/{name}", float(value), now, record["step"]))
        if time.monotonic() - self.sent > SECONDS_BETWEEN_CALLS:
            self.send()

    def send(self) -> None:
        for start in range(0, len(self.waiting) if self.run_id else 0, METRICS_PER_CALL):
            part = self.waiting[start : start + METRICS_PER_CALL]
            self.sending.append(self.sender.submit(self.client.log_batch, self.run_id, metrics=part))
        self.waiting, self.sent = [], time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.send()
        try:
            for batch in self.sending:
                batch.result()
        except Exception:
            if kind is None:
                raise
        finally:
            # Each call waits minutes for a server that is away, and there may be thousands.
            self.sender.shutdown(wait=False, cancel_futures=True)


def log_trace(run_id: str, trace: Path) -> None:
    """Log the per-step losses of a training that was served from the cache."""
    with StepMetrics(run_id) as metrics:
        for record in pd.read_parquet(trace).to_dict("records"):
            metrics.add(record)


def log_table(run_id: str, rows: list[dict], path: Path, text: str) -> None:
    """Log a table so that the run's page shows it: as rows, as the Parquet file that it lies in, and as the description.

    What the run has of an earlier time is replaced, where MLflow's own log_table would add to it.
    """
    name = f"{path.stem}.json"
    client().log_text(run_id, pd.DataFrame(rows).to_json(orient="split", index=False), name)
    client().set_tag(run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([{"path": name, "type": "table"}]))
    client().log_artifact(run_id, str(path))
    set_description(run_id, text, path.name)


def log_night(run_id: str, table: Path) -> int:
    """Keep a batch's table as that of a night, by its time in UTC, beside the others; returns the night's number: 1, 2, …"""
    with tempfile.TemporaryDirectory() as folder:
        night = Path(folder) / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}{table.suffix}"
        shutil.copyfile(table, night)
        client().log_artifact(run_id, str(night), NIGHTS)
    return len(client().list_artifacts(run_id, NIGHTS))


def nights_of(batch: str, output: str) -> tuple[str, list[str]]:
    """The id of a batch's run, by its tag and output, and its nights' tables as artifacts, the oldest first; "", [] without."""
    for run in found_runs(batch=batch, place=place_of(output)):
        return run.info.run_id, sorted(each.path for each in client().list_artifacts(run.info.run_id, NIGHTS))
    return "", []


def read_table(run_id: str, artifact: str) -> list[dict]:
    """The rows of a Parquet table that a run has."""
    with tempfile.TemporaryDirectory() as folder:
        return pq.read_table(client().download_artifacts(run_id, artifact, folder)).to_pylist()


def set_description(run_id: str, text: str, whole: str) -> None:
    """Make a Markdown table the run's description: as many of its lines as MLflow takes, and then which artifact has all."""
    lines, more = text.splitlines(), 0
    while len(text) > LONGEST_DESCRIPTION:
        more += 1
        text = "\n".join([*lines[:-more], "", f"{more} more lines: {whole}"])
    client().set_tag(run_id, "mlflow.note.content", text)


def log_stage(run_id: str, artifact: Artifact, hidden: bool) -> None:
    """Log a stage's key, seconds, tables and, for those that have them, counts. hidden: its images are blurred.

    Images that came from the cache, and that a finished run has already, are not stored again: the tag images_in is that run's id.
    """
    client().set_tag(run_id, "key", artifact.key)
    client().set_tag(run_id, "cached", str(artifact.cached).lower())
    log_metrics(run_id, {"seconds": artifact.seconds})
    if (counts := artifact.file("counts.json")).exists():
        log_metrics(run_id, {f"words/{reason}": count for reason, count in read_json(counts).items()})
    tables = sorted(artifact.folder.glob("*.parquet"))
    pictures = [table for table in tables if has_images(table)]
    if pictures:
        # By content, as two machines may draw one key a little differently; blurred and not are never taken for each other.
        hashes = artifact.record["files"]
        tags = {"key": artifact.key, "images": digest(hidden, [hashes[table.name] for table in pictures])}
        other = run_with(pictures, tags) if artifact.cached else None
        if other is not None:
            client().set_tag(run_id, "images_in", other)
            tables = [table for table in tables if table not in pictures]
        else:
            client().set_tag(run_id, "images", tags["images"])
    for table in tables:
        log_images(run_id, table, hidden)


def run_with(tables: list[Path], tags: dict[str, str]) -> str | None:
    """The id of the newest finished run with these tags that has the tables, or None."""
    names = {table.name for table in tables}
    for run_id in (run.info.run_id for run in found_runs(**tags) if run.info.status == "FINISHED"):
        if names <= {each.path for each in client().list_artifacts(run_id)}:
            return run_id
    return None


def has_images(table: Path) -> bool:
    return "png" in pq.read_schema(table).names


def log_images(run_id: str, table: Path, hidden: bool) -> None:
    """Log a Parquet table, with its images blurred where they are hidden and it has some."""
    if not hidden or not has_images(table):
        client().log_artifact(run_id, str(table))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_blurred(table, Path(folder) / table.name)
        client().log_artifact(run_id, str(Path(folder) / table.name))


def log_dataset(run_id: str, path: Path, name: str, key: str, context: str) -> None:
    """Log a Parquet table as an input dataset of a run, under the key of the stage that made it."""
    table = pq.ParquetFile(path)
    dataset = Dataset(
        name=name,
        digest=key,
        source_type="local",
        source=json.dumps({"uri": path.as_uri()}),
        schema=json.dumps({"columns": table.schema_arrow.names}),
        profile=json.dumps({"rows": table.metadata.num_rows}),
    )
    client().log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])


def describe(spec: Spec, summary: dict) -> str:
    """A run's description, as Markdown."""
    metrics = summary["metrics"]
    erased = ", ".join(spec.concept_words)
    lines = [
        f"## {spec.name}",
        f"Erased **{erased}** from `{spec.model}` with `{spec.method.name}`.",
        "",
        "| metric | original | erased model | 95 % interval |",
        "|---|---|---|---|",
    ]
    for name in ("esr_1", "esr_5", "psr_1", "psr_5"):
        if name in metrics:
            low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
            lines.append(
                f"| {name} | {metrics[f'{name}_original']:.3f} | **{metrics[name]:.3f}** | {low:.3f} – {high:.3f} |"
            )
    return "\n".join([*lines, "", "Open *Artifacts* → `report.html` for the images, and `figures/` for the plots."])


def log_results(run_id: str, spec: Spec, figures: dict[str, bytes]) -> None:
    """Log a finished run's figures, tables, report and plots, and describe it."""
    output = Path(spec.output)
    summary = read_json(output / "summary.json")
    # The attacks' own figures are logged by budget.
    log_metrics(run_id, {k: v for k, v in summary["metrics"].items() if not k.startswith("attack_success_")})
    log_metrics(run_id, {f"seconds/{stage}": seconds for stage, seconds in summary["seconds"].items()})
    log_metrics(run_id, {name: summary[name] for name in RESOURCES})
    client().set_tag(run_id, "mlflow.note.content", describe(spec, summary))
    client().set_tag(run_id, "base_model_hash", summary["base_model_hash"])
    client().set_tag(
        run_id, "versions", ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    )
    if summary["versions_by_stage"]:
        client().set_tag(run_id, "versions_by_stage", json.dumps(summary["versions_by_stage"])[:LONGEST_TAG])
    for name in ("report.html", "summary.json", "scores.parquet", "trace.parquet", "preserved.parquet"):
        client().log_artifact(run_id, str(output / name))
    log_figures(run_id, figures)
    if spec.attacks is not None:
        log_attacks(run_id, spec)


def log_attacks(run_id: str, spec: Spec) -> None:
    """Log each attack's success by its budget as the step (a strength in per cent), its tables, and its summary.

    attack_success_<attack> is the erased model's; the same with _original and _control are what it is compared with.
    """
    output = Path(spec.output)
    table = pd.read_parquet(output / "attacks.parquet")
    for row in table[table["concept"] == table["concept"].iloc[0]].itertuples():
        name = f"attack_success_{row.attack}" + ("" if row.model == "erased" else f"_{row.model}")
        log_metrics(run_id, {name: row.success}, round(100 * row.budget if row.unit == "strength" else row.budget))
    log_images(run_id, output / "attempts.parquet", hides(spec))
    for name in ("attacks.parquet", "attacks.json", "attacks.html"):
        if (output / name).exists():
            client().log_artifact(run_id, str(output / name))


def log_figures(run_id: str, figures: dict[str, bytes]) -> None:
    """Log plots (PNG by name) under figures/."""
    with tempfile.TemporaryDirectory() as name:
        for figure, png in figures.items():
            (Path(name) / f"{figure}.png").write_bytes(png)
        client().log_artifacts(run_id, name, "figures")
