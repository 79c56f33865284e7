"""The flow behind `erase study`: the runs a study needs, then what it finds in them."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from erase_core import studies
from erase_core.preflight import check
from erase_core.results import held
from erase_core.spec import Spec
from tasks import tracking
from tasks.studying import find

from .erase import erase


@flow(name="study", flow_run_name="{name}", log_prints=True)
def study(name: str, base: Spec) -> dict[str, float]:
    """Run one of the studies on a base spec; returns its figures.

    name: sensitivity, spectrum, preserve-what, text-similarity, search-collapse, target-collapse, vocabulary or trade-off.
    base: the spec that every run starts from; its output is the study's folder. Runs that are there already are served from
    the cache, so a study goes on where it was stopped. Raises InUse while another process has the folder.
    """
    wanted = studies.runs(name, base)
    for spec in wanted.values():
        check(spec)
    tags = {"kind": "study", "study": name, "model": base.model}
    with held(Path(base.output)), tracking.run(f"study: {name}", tags=tags, output=base.output) as run_id:
        tracking.log_parameters(run_id, base.model_dump(mode="json"))
        outputs = {}
        for label, spec in wanted.items():
            print(f"{name}: {label} ({len(outputs) + 1} of {len(wanted)})")
            erase(spec, parent=run_id)
            outputs[label] = spec.output
        return find(name, outputs, base.output, run_id)
