"""One training step: against the published loop, and with all tokens to search among against a hundred words."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from diffusers import StableDiffusionPipeline

from erase_core.api import load, neighbours
from erase_core.concepts.embeddings import EmbeddingTable, write_embeddings
from erase_core.concepts.nearest import Neighbour, top_k
from erase_core.models.conditions import latent_shape
from erase_core.models.prompts import encode
from erase_core.models.trainable import CHOICES
from erase_core.spec import Spec, make_spec
from erase_core.training.candidates import conditions_of, erased_concepts
from erase_core.training.loop import train
from erase_core.training.worker import peak_memory

from . import reference_loop
from .pairs import Ratio, compared

FEW, STEPS = 100, 12


def spec_of(concepts: list[str], source: str, top_k: int, search: str = "measured", **training: object) -> Spec:
    """A spec for timing: nothing is drawn or scored."""
    return make_spec(
        {
            "name": "speed",
            "concepts": concepts,
            "method": {"name": "adversarial", "search": search},
            "vocabulary": {"source": source, "top_k": top_k},
            "training": {"steps": STEPS, "checkpoint_every": 10**6, **training},
            "output": "-",
        }
    )


def prepared(pipeline: StableDiffusionPipeline, spec: Spec, folder: Path) -> tuple:
    """What `train` is given for a spec: the concepts with their candidates, and the conditions."""
    return erased_concepts(spec, pipeline, *neighbours(spec, pipeline, folder)), conditions_of(spec, pipeline)


class Spent(NamedTuple):
    """Seconds of a training: of a step (search and update, and the latents that it reads or samples), of all latents, of what is
    done once, the first step but for its latents included, and of the whole.
    """

    step: float
    latents: float
    once: float
    whole: float


def step_seconds(pipeline: StableDiffusionPipeline, spec: Spec, given: tuple, trajectories: Path) -> Spent:
    records: list[dict] = []
    parts = (pipeline.unet, pipeline.scheduler, *given, spec.method, spec.training, spec.seed)
    began = time.perf_counter()
    train(*parts, on_record=records.append, trajectories=trajectories)
    whole = time.perf_counter() - began
    seconds, latents = ([0.0] * (records[-1]["step"] + 1) for _ in range(2))
    for record in records:
        seconds[record["step"]] += record["seconds"]
        latents[record["step"]] += record["latent_seconds"]
    return Spent(median(seconds[1:]), sum(latents), whole - sum(seconds[1:]) - latents[0], whole)


def published_seconds(pipeline: StableDiffusionPipeline, given: tuple, steps: int, seed: int) -> float:
    """Seconds of a step of the published loop, the mean over `steps`, since the length of a sampling is drawn anew."""
    (concept,), conditions = given
    times: list[float] = []

    def after_step(step: int, edited) -> bool:
        times.append(time.perf_counter())
        return False

    reference_loop.erase(
        pipeline.unet,
        pipeline.scheduler,
        [(concept.embeddings[0], concept.candidates)],
        conditions.unconditional,
        CHOICES["xattn"],
        reference_loop.Published(steps=steps + 1),
        seed,
        after_step,
    )
    return (times[-1] - times[0]) / steps


def against_published(pipeline: StableDiffusionPipeline, rounds: int) -> list[Ratio]:
    """A step of four samples against four of the published loop's steps of one, with 100 words to choose among."""
    spec = spec_of(["taxi"], "emoji-world", FEW)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = prepared(pipeline, spec, folder)
        step_seconds(pipeline, spec, given, folder)
        ours, theirs = [], []
        for seed in range(rounds):
            ours.append(step_seconds(pipeline, spec, given, folder).step)
            theirs.append(published_seconds(pipeline, given, STEPS, seed))
    batch = spec.training.batch_size
    ratios = [batch * b / a for a, b in zip(ours, theirs)]
    claim = f"a trained sample (erased and preserved, with a search step), {FEW} words, trajectories at hand"
    return [Ratio(claim, median(ours) / batch, median(theirs), median(ratios), min(ratios), max(ratios))]


def against_variants(pipeline: StableDiffusionPipeline, rounds: int) -> list[Ratio]:
    """The UNet's forward and backward pass for the eight samples of an update, done in other ways."""

    def passes(autocast: bool = False, last: bool = False, compiled: bool = False) -> Callable[[], None]:
        layout = torch.channels_last if last else torch.contiguous_format
        unet = copy.deepcopy(pipeline.unet).to(memory_format=layout)
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(CHOICES["xattn"](name))
        z = torch.randn(8, *latent_shape(unet)).to(memory_format=layout)
        t, c = torch.full((8,), 500), torch.randn(8, 32, unet.config.cross_attention_dim)
        called = torch.compile(unet) if compiled else unet

        def work() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                made = called(z, t, encoder_hidden_states=c).sample
            made.float().square().mean().backward()

        return work

    ways = {
        "bf16 autocast, fp32 weights": passes(autocast=True),
        "channels_last": passes(last=True),
    }
    plain, compiled = passes(), passes(compiled=True)
    began = time.perf_counter()
    compiled()
    ways[f"torch.compile, after {time.perf_counter() - began:.0f} s of compiling"] = compiled
    return [compared(name, way, plain, rounds) for name, way in ways.items()]


def growth_with_words(pipeline: StableDiffusionPipeline, sizes: list[int], rounds: int, search: str) -> Iterator[dict]:
    """Seconds of a step with trajectories at hand, and of a training by itself, for each number of words to choose among.

    The words are the tokenizer's tokens, all of them and unfiltered, nearest first. search: measured or gradient.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, given, alone = Path(name), {}, {}
        tokens = sorted(pipeline.tokenizer.get_vocab(), key=pipeline.tokenizer.get_vocab().get)
        write_embeddings(folder / "embeddings.arrow", pipeline, tokens, {})
        table = EmbeddingTable(folder / "embeddings.arrow")
        every = top_k(table, encode(pipeline, ["taxi"])[0], len(tokens), "cosine", set(tokens))
        for size in sizes:
            spec = spec_of(["taxi"], "clip-tokens", size, search=search)
            # A process each: what this one holds by now is no training's.
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                alone[size] = process.submit(by_itself, spec, every[:size], folder, torch.get_num_threads()).result()
            concepts = erased_concepts(spec, pipeline, table, {"taxi": every[:size]})
            given[size] = (spec, (concepts, conditions_of(spec, pipeline)))
            step_seconds(pipeline, *given[size], folder)
        found = {size: [] for size in sizes}
        for _ in range(rounds):
            for size in sizes:
                found[size].append(step_seconds(pipeline, *given[size], folder).step)
        for size in sizes:
            ratios = [a / b for a, b in zip(found[size], found[sizes[0]])]
            row = {"search": search, "words": size, "seconds": median(found[size]), **alone[size]}
            yield row | {"ratio": median(ratios), "low": min(ratios), "high": max(ratios)}


def by_itself(spec: Spec, near: list[Neighbour], folder: Path, threads: int) -> dict:
    """Seconds of what a training does once and of its trajectories, few of which are there yet, and the most memory of its process,
    among these words of the folder's embeddings.
    """
    torch.set_num_threads(threads)
    pipeline = load()
    concepts = erased_concepts(spec, pipeline, EmbeddingTable(folder / "embeddings.arrow"), {"taxi": near})
    spent = step_seconds(pipeline, spec, (concepts, conditions_of(spec, pipeline)), folder)
    return {"once": spent.once, "sampling": spent.latents, "peak_gib": peak_memory()}


def growth_with_concepts(pipeline: StableDiffusionPipeline, counts: list[int]) -> Iterator[dict]:
    """For each number of concepts erased at once, seconds of a step with trajectories at hand, of their sampling, and of a training
    with both.
    """
    from erase_core.emoji_world.catalogue import concepts

    words = [concept.word for concept in concepts()]
    for count in counts:
        spec = spec_of(words[:count], "emoji-world", 50)
        with tempfile.TemporaryDirectory() as name:
            given = prepared(pipeline, spec, Path(name))
            first, again = (step_seconds(pipeline, spec, given, Path(name)) for _ in range(2))
        yield {"concepts": count, "seconds": again.step, "sampling": first.latents, "training": first.whole}
