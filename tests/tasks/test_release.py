"""Whoever needs to know is told: a Prefect event, and JSON to a web address that may be down."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prefect import flow
from prefect.events.clients import AssertingEventsClient
from prefect.events.worker import EventsWorker

from tasks import release
from tasks.registry import Release
from tests.servers import free_port

REJECTED = Release("no-taxi", "4", False, False, "3", "esr 1 is 0.5, required ≥ 0.9", {"esr_1": "0.5000"})


class Hook(ThreadingHTTPServer):
    """A web address that fails a number of times before it takes a message."""

    def __init__(self, failures: int):
        self.failures, self.attempts, self.taken = failures, 0, []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:
                self.attempts += 1
                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                down = self.attempts <= self.failures
                if not down:
                    self.taken.append(json.loads(body))
                handler.send_response(503 if down else 204)
                handler.end_headers()

            def log_message(handler, *text: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}/secret"


@pytest.fixture
def hook(request) -> Iterator[Hook]:
    server = Hook(request.param)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(release, "post", release.post.with_options(retry_delay_seconds=0.1))


@flow
def tells(address: str | None) -> str:
    release.announce("erase.gate.rejected", REJECTED, address, mlflow_run="abc")
    return "went on"


@pytest.mark.parametrize("hook", [2], indirect=True)
def test_a_message_arrives_though_the_first_attempts_fail(hook: Hook, quick, monkeypatch) -> None:
    AssertingEventsClient.reset()
    monkeypatch.setattr(EventsWorker, "_client_override", (AssertingEventsClient, ()))
    assert tells(hook.address) == "went on"
    EventsWorker.drain_all()
    (message,) = hook.taken
    assert hook.attempts == 3
    assert message["event"] == "erase.gate.rejected" and message["version"] == "4" and message["mlflow_run"] == "abc"
    assert message["text"] == "no-taxi version 4 was rejected: esr 1 is 0.5, required ≥ 0.9."
    sent = [event for client in AssertingEventsClient.all for event in client.events]
    (event,) = [event for event in sent if event.event == "erase.gate.rejected"]
    assert event.resource.id == "erase.model.no-taxi" and event.payload == message


@pytest.mark.parametrize("hook", [99], indirect=True)
def test_a_run_goes_on_though_the_address_stays_down(hook: Hook, quick, monkeypatch, capsys) -> None:
    monkeypatch.setenv("ERASE_GATE_WEBHOOK", hook.address)
    assert tells(None) == "went on"
    assert hook.attempts == release.ATTEMPTS and not hook.taken
    assert "The webhook did not take the message" in capsys.readouterr().out


@pytest.mark.parametrize("hook", [99], indirect=True)
def test_what_is_said_of_a_webhook_holds_its_host_alone(hook: Hook, caplog) -> None:
    """The rest of its address is often a secret."""
    once = release.post.with_options(retries=0)
    for address, told in {
        hook.address: "127.0.0.1 answered 503",
        f"http://127.0.0.1:{free_port()}/secret": "127.0.0.1 did not answer (ConnectError)",
        "sftp://127.0.0.1/secret": "127.0.0.1 did not answer (UnsupportedProtocol)",
        "http://[secret": "the webhook did not answer",
    }.items():
        with pytest.raises(release.WebhookFailed, match=re.escape(told)):
            once(address, {})
    assert caplog.text.count("Task run failed with exception") == 4 and "secret" not in caplog.text
