"""Run the example batch under `erase up`, and picture the MLflow and Prefect pages that show it, for docs/pages.md.

    python -m benchmarks.screenshots

Needs Chromium. Everything but the pictures is left in a temporary folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
from PIL import Image

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "pages"
SECONDS_TO_DRAW = 60
WIDTH, HEIGHT = 1500, 950
TALL = {"mlflow-report": 2000, "mlflow-batch": 1300}
"""Pages that show what they are for further down."""
SHOWN = "car, tractor, bicycle, fox, rabbit, horse, banana, rose, guitar, church, hammer, penguin"
"""Preserved concepts that are scored: few, so that a page shows them."""


def picture(browser: str, url: str, name: str, profile: Path) -> None:
    """One page as it looks once its scripts have run, in a palette, which keeps text sharp and files small."""
    file = FOLDER / f"{name}.png"
    command = [
        *(
            browser,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
        ),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"),
        *(f"--window-size={WIDTH},{TALL.get(name, HEIGHT)}", f"--timeout={1000 * SECONDS_TO_DRAW}"),
        *(f"--virtual-time-budget={1000 * SECONDS_TO_DRAW}", f"--screenshot={file}", url),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=240)
    Image.open(file).convert("RGB").quantize(128).save(file, optimize=True)
    print(f"{name}: {url}", flush=True)


def erase(*arguments: str) -> list[str]:
    return [sys.executable, "-u", "-m", "flows.command", *arguments]


def main() -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("screenshots: no browser; apt-get install chromium")
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        os.environ["ERASE_HOME"] = str(work / "home")
        spec = (ROOT / "examples" / "batch.yaml").read_text(encoding="utf-8")
        spec = spec.replace("results/batch", str(work / "batch")) + f"scoring: {{preserved: [{SHOWN}]}}\n"
        (work / "batch.yaml").write_text(spec, encoding="utf-8")
        servers = subprocess.Popen(erase("up"), cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            prefect, mlflow = (servers.stdout.readline().split()[-1] for _ in range(2))
            given = {**os.environ, "PREFECT_API_URL": f"{prefect}/api"}
            batch = erase("batch", str(work / "batch.yaml"), "--lists", str(ROOT / "examples" / "lists"))
            subprocess.run(batch, cwd=ROOT, env=given, check=True)
            shoot(browser, prefect, mlflow, work)
        finally:
            servers.send_signal(signal.SIGINT)
            servers.wait(60)


def shoot(browser: str, prefect: str, mlflow: str, work: Path) -> None:
    api = f"{mlflow}/api/2.0/mlflow"
    of = httpx.get(f"{api}/experiments/get-by-name", params={"experiment_name": "erase"}).json()
    number = of["experiment"]["experiment_id"]
    found = httpx.post(f"{api}/runs/search", json={"experiment_ids": [number], "max_results": 1000}).json()["runs"]
    runs = {run["info"]["run_name"]: run["info"]["run_id"] for run in reversed(found)}
    parents = {run["info"]["run_id"]: {t["key"]: t["value"] for t in run["data"]["tags"]} for run in found}
    lion = runs["batch - lion"]
    training = next(
        run["info"]["run_id"]
        for run in found
        if run["info"]["run_name"] == "training" and parents[run["info"]["run_id"]]["mlflow.parentRunId"] == lion
    )
    flows = httpx.post(f"{prefect}/api/flow_runs/filter", json={}).json()
    flow = {run["name"]: run["id"] for run in flows if run["parent_task_run_id"] is None}
    at = f"{mlflow}/#/experiments/{number}/runs"
    pages = {
        "mlflow-runs": at,
        "mlflow-batch": f"{at}/{runs['batch']}",
        "mlflow-run": f"{at}/{lion}",
        "mlflow-losses": f"{at}/{training}/model-metrics",
        "mlflow-report": f"{at}/{lion}/artifacts/report.html",
        "prefect-runs": f"{prefect}/runs",
        "prefect-batch": f"{prefect}/runs/flow-run/{flow['batch']}",
    }
    for name, url in pages.items():
        picture(browser, url, name, work / "profile")


if __name__ == "__main__":
    main()
