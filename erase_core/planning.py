"""What a run will take, told before it starts: memory, disk, and the time that it took before."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .disk import CACHES, MLFLOW, RESULTS, Kept, disk_forecast
from .files import read_json
from .memory import Forecast, configs_folder, images_forecast, import_model, resident_bytes, training_forecast
from .spec import Spec


@dataclass(frozen=True)
class Plan:
    """What a run will take. seconds: by stage, of an earlier run of the same name in its output; empty where there is none."""

    forecasts: list[Forecast]
    disk: list[Kept]
    seconds: dict[str, float]

    @property
    def disk_told(self) -> str:
        """The disk that is taken, in a sentence."""
        sums = {place: sum(kept.places.get(place, 0) for kept in self.disk) for place in (RESULTS, CACHES, MLFLOW)}
        told = ", ".join(f"{size / 2**30:.1f} GiB in {place}" for place, size in sums.items())
        half = self.disk[0].places[RESULTS] / 2**31
        return f"disk: {told}. Exported in fp16 the erased model takes {half:.2f} GiB."

    @property
    def time_told(self) -> str:
        """The time that an earlier run took, in a sentence; empty where there was none."""
        each = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in self.seconds.items())
        return f"time: {sum(self.seconds.values()):.0f} s, as the run in its output took: {each}." if each else ""

    @property
    def summary(self) -> dict:
        """The same for other programs, memory and disk in GiB."""
        disk = {kept.what: {place: size / 2**30 for place, size in kept.places.items()} for kept in self.disk}
        return {**{each.stage: each.summary for each in self.forecasts}, "disk": disk, "seconds": self.seconds}


def plan(spec: Spec, import_flow: Callable[[], object] = lambda: None) -> Plan:
    """What a run will take. import_flow imports what a process that draws images holds beside.

    No weights are read. Raises ModelError, and what `hub.fetched` does.
    """
    importlib.import_module("erase_core.training.worker")
    importlib.import_module("deepspeed")
    with configs_folder(spec.model) as folder:
        import_model(folder)
        ranks = resident_bytes()
        if spec.generation.processes == 1:
            import_flow()
        own = resident_bytes()
        forecasts = [training_forecast(spec, folder, ranks), images_forecast(spec, folder, own)]
        # Only here: what scores is imported when the training and the images are done.
        scoring = importlib.import_module("erase_core.memory_scoring")
        own = resident_bytes()
        forecasts.append(scoring.scores_forecast(spec, folder, own))
        if spec.attacks is not None:
            forecasts.append(scoring.attacks_forecast(spec, folder, own))
        return Plan(forecasts, disk_forecast(spec, folder), seconds_before(spec))


def seconds_before(spec: Spec) -> dict[str, float]:
    """The seconds of each stage of an earlier run of the same name in the spec's output; empty where there is none."""
    file = Path(spec.output) / "summary.json"
    summary = read_json(file) if file.is_file() else {}
    return summary.get("seconds", {}) if summary.get("name") == spec.name else {}


def alike(specs: dict[str, Spec]) -> list[list[str]]:
    """The names of the specs, those together whose plans are the same but for their outputs and the time they took."""
    found: dict[str, list[str]] = {}
    for name, spec in specs.items():
        told = spec.model_dump_json(exclude={"name", "output", "seed", "concepts", "gate", "report"})
        found.setdefault(f"{told} {[len(concept.prompts) for concept in spec.concepts]}", []).append(name)
    return list(found.values())
