"""What is tried again, and what would end the same."""

from __future__ import annotations

import errno

import pytest
from prefect import flow, task

from erase_core.distributed.ranks import RanksFailed
from tasks.attacking import attack_model, draw_references, publish_attacks
from tasks.generation import draw_images
from tasks.progress import Stopped, worth_retrying
from tasks.release import register_model, release_model
from tasks.reporting import publish_results
from tasks.scoring import score_images
from tasks.training import erase_concepts
from tasks.vocabulary import curate_vocabulary, embed_vocabulary, find_nearest

STAGES = (
    *(curate_vocabulary, embed_vocabulary, find_nearest, erase_concepts, draw_images, score_images, publish_results),
    *(draw_references, attack_model, publish_attacks),
)
ERRORS = {
    "a server that is away": (ConnectionError("away"), True),
    "another error of the system": (OSError(errno.EIO, "broken"), True),
    "a rank that was killed": (RanksFailed("was killed by SIGKILL"), True),
    "a rank that would fail again": (RanksFailed("a loss is not a number", expected=True), False),
    "a wrong input": (ValueError("wrong"), False),
    "a full disk": (OSError(errno.ENOSPC, "full"), False),
    "a full quota": (OSError(errno.EDQUOT, "full"), False),
    "what was stopped": (Stopped("stopped"), False),
}


@pytest.mark.parametrize(("error", "again"), ERRORS.values(), ids=ERRORS)
def test_what_is_tried_again(error: Exception, again: bool, server) -> None:
    tries = []

    @task(retries=1, retry_condition_fn=worth_retrying)
    def fail() -> None:
        tries.append(1)
        raise error

    @flow
    def failing() -> None:
        fail()

    with pytest.raises(type(error)):
        failing()
    assert len(tries) == (2 if again else 1)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_stage_is_tried_again(stage) -> None:
    assert stage.retries >= 1 and stage.retry_condition_fn is worth_retrying


@pytest.mark.parametrize("step", [register_model, release_model], ids=lambda step: step.name)
def test_what_talks_to_the_registry_is_tried_again(step) -> None:
    assert step.retries >= 1
