"""Tasks of the first stages: curate the vocabulary, embed it, and find each concept's nearest words."""

from __future__ import annotations

from prefect import task

from erase_core import stages
from erase_core.artifacts import Artifact
from erase_core.spec import Spec

from .caching import keyed
from .progress import reporting, worth_retrying
from .slots import slot


@task(
    name="vocabulary",
    cache_key_fn=keyed("vocabulary", stages.vocabulary_key),
    persist_result=True,
    retries=1,
    retry_delay_seconds=2,
    retry_condition_fn=worth_retrying,
)
def curate_vocabulary(spec: Spec, run_id: str | None = None, slots: bool = False) -> Artifact:
    """Curate the concept space: which words of the source may be preserved, and why the others may not."""
    return stages.vocabulary(spec)


@task(
    name="embeddings",
    cache_key_fn=keyed("embeddings", stages.embeddings_key),
    persist_result=True,
    retries=1,
    retry_delay_seconds=2,
    retry_condition_fn=worth_retrying,
)
def embed_vocabulary(spec: Spec, vocabulary: Artifact, run_id: str | None = None, slots: bool = False) -> Artifact:
    """Encode every word of the vocabulary once, into a memory-mapped file that all runs on it share."""
    with reporting("embedding vocabulary", "embedding-vocabulary") as report:
        return stages.embeddings(spec, vocabulary, report, slot("generation", slots))


@task(
    name="nearest",
    cache_key_fn=keyed("nearest", stages.nearest_key),
    persist_result=True,
    retries=1,
    retry_delay_seconds=2,
    retry_condition_fn=worth_retrying,
)
def find_nearest(
    spec: Spec, vocabulary: Artifact, embeddings: Artifact, run_id: str | None = None, slots: bool = False
) -> Artifact:
    """Find the K words nearest to each erased concept, among which the search may choose."""
    return stages.nearest(spec, vocabulary, embeddings, slot("generation", slots))
