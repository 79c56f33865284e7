"""A Prefect server that the runs of a file share, as those of a user's machine may."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    from infra.private_server import start

    ready = start()
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: os.environ["PREFECT_API_URL"]}):
        ready()
        yield
    del os.environ["PREFECT_API_URL"]
