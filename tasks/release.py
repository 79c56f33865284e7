"""The tasks that register a model, let it pass the gate, and tell whoever needs to know: a Prefect event, and a webhook."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from urllib.parse import urlsplit

import httpx
from prefect import task
from prefect.events import emit_event
from prefect.tasks import exponential_backoff

from erase_core.spec import Spec

from . import registry
from .tracking import log_metrics

ATTEMPTS = 3
SECONDS_PER_ATTEMPT = 10


@task(name="register", retries=2, retry_delay_seconds=2)
def register_model(run_id: str, spec: Spec, summary: dict) -> str:
    """Copy the erased model into MLflow's registry, as a version of the spec's registered model; returns the version.

    The run's metric seconds/register says how long that took.
    """
    began = time.perf_counter()
    version = registry.register(run_id, spec, summary)
    log_metrics(run_id, {"seconds/register": time.perf_counter() - began})
    return version


@task(name="gate", retries=2, retry_delay_seconds=2)
def release_model(spec: Spec, version: str, verdict: dict) -> registry.Release:
    """Make the registered version champion, or mark it as rejected with the reason."""
    return registry.release(registry.registered_name(spec), version, spec.gate.limits, verdict)


def announce(what: str, released: registry.Release, webhook: str | None = None, **more: object) -> None:
    """Emit the Prefect event erase.gate.passed, erase.gate.rejected, erase.model.promoted or erase.model.rolled-back, and send
    the same as JSON to the webhook, or to the one in ERASE_GATE_WEBHOOK. A webhook that fails is said in the log, no more.
    """
    message = {"event": what, "text": sentence(what, released), **asdict(released), **more}
    emit_event(
        event=what,
        resource={
            "prefect.resource.id": f"erase.model.{released.name}",
            "prefect.resource.name": released.name,
            "erase.version": released.version,
        },
        payload=message,
    )
    if address := webhook or os.environ.get("ERASE_GATE_WEBHOOK"):
        state = post(address, message, return_state=True)
        if state.is_failed():
            print(f"The webhook did not take the message: {state.message}")


def sentence(what: str, released: registry.Release) -> str:
    """What happened, for a chat's message."""
    model = f"{released.name} version {released.version}"
    if what == "erase.gate.rejected":
        return f"{model} was rejected: {released.reason}."
    if what == "erase.model.rolled-back":
        return f"{model} is champion again."
    return f"{model} {'is champion' if released.champion else 'passed its gate'}."


class WebhookFailed(RuntimeError):
    """A web address that did not take a message. The error names its host and no more: the rest of it is often a secret."""


@task(name="webhook", retries=ATTEMPTS - 1, retry_delay_seconds=exponential_backoff(1))
def post(address: str, message: dict) -> int:
    """POST a message as JSON; raises WebhookFailed for any answer but success."""
    try:
        answer = httpx.post(address, json=message, timeout=SECONDS_PER_ATTEMPT)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise WebhookFailed(f"{host_of(address)} did not answer ({type(error).__name__})") from None
    if not answer.is_success:
        raise WebhookFailed(f"{host_of(address)} answered {answer.status_code}")
    return answer.status_code


def host_of(address: str) -> str:
    try:
        return urlsplit(address).hostname or "the webhook"
    except ValueError:
        return "the webhook"
