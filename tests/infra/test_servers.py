"""Finding a Prefect server behind a proxy that wants a login."""

from __future__ import annotations

import base64
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from infra.servers import find_prefect


class Proxy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = "Basic " + base64.b64encode(b"user:pass:word").decode()
        self.send_response(200 if self.headers["Authorization"] == known else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_the_login_is_sent(monkeypatch) -> None:
    proxy = HTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{proxy.server_port}/api"
    monkeypatch.setenv("PREFECT_API_URL", address)
    try:
        with pytest.raises(RuntimeError, match="no Prefect server answers"):
            find_prefect()
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", "user:pass:word")
        assert find_prefect() == address
    finally:
        proxy.shutdown()
        proxy.server_close()
