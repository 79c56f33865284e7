"""What every process agrees on before it imports the servers' libraries."""

from __future__ import annotations

import gc
import os
import urllib.request

import pytest

from infra.environment import importing, reach_own_servers


def test_a_command_s_own_server_is_not_behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("http_proxy", raising=False)
    reach_own_servers()
    assert "NO_PROXY" not in os.environ
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "intern.example")
    assert not urllib.request.proxy_bypass("127.0.0.1:4200")
    reach_own_servers()
    assert urllib.request.proxy_bypass("127.0.0.1:4200") and urllib.request.proxy_bypass("intern.example")
    assert not urllib.request.proxy_bypass("huggingface.co")


def test_what_is_imported_is_no_garbage_to_look_for() -> None:
    """Not even later; and what is made after the first imports may be."""
    gc.unfreeze()
    try:
        with importing():
            assert not gc.isenabled()
        assert gc.isenabled() and (frozen := gc.get_freeze_count()) > 0
        made = [[] for _ in range(1000)]
        with importing():
            pass
        assert gc.get_freeze_count() <= frozen and len(made) == 1000
    finally:
        gc.unfreeze()
