"""A Prefect server that the runs of a session share, as those of a user's machine may."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def address() -> str:
    """Where the session's server answers; no other test is pointed at it."""
    from infra.private_server import start

    start()()
    return os.environ.pop("PREFECT_API_URL")


@pytest.fixture(scope="module")
def server(address: str) -> Iterator[None]:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    os.environ["PREFECT_API_URL"] = address
    with temporary_settings({PREFECT_API_URL: address}):
        yield
    del os.environ["PREFECT_API_URL"]
