"""Make Prefect's and MLflow's databases in the project's home, as a part of installing: a first run need not wait for them.

    python -m infra.databases

Prefect's database, when it is there, is brought to the installed version; MLflow says when its own needs `mlflow db upgrade`.
"""

from __future__ import annotations

from .environment import prepare


def make() -> None:
    prepare()
    from .private_server import start

    ready = start()
    from tasks.tracking import make_experiment

    make_experiment()
    ready()


if __name__ == "__main__":
    make()
