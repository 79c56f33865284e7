"""Batched sampling gives the stock pipeline's images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline, UniPCMultistepScheduler

from erase_core.emoji_world.catalogue import STYLES
from erase_core.generation.dataset import read_images
from erase_core.generation.images import generate
from erase_core.generation.plan import WORDS_PER_STYLE, Wanted, check_judged, roles, wanted_images
from erase_core.generation.sampler import sample
from erase_core.pictures import decode_png, encode_png, grid
from erase_core.spec import SCHEDULE, Generation, make_spec, require_reach
from erase_core.spec_yaml import parse_spec

STOCK = {"ddim": DDIMScheduler, "dpm-solver++": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}
PAIRS = [("a taxi", 0), ("a taxi", 1), ("a bus", 0), ("a rose", 7), ("", 3)]


def test_nothing_is_drawn_twice() -> None:
    """Neither for a word of the catalogue in another case, nor for a prompt of the concept's own that is the template's."""
    given = {"name": "x", "output": "o", "concepts": [{"concept": "Taxi", "prompts": ["a taxi"]}]}
    spec = make_spec({**given, "scoring": {"preserved": ["bus"]}, "generation": {"seeds": [0]}})
    assert roles(spec, []) == {"Taxi": "erased", "bus": "preserved"}
    assert [w.prompt for w in wanted_images(spec, roles(spec, []))] == ["a Taxi", "a taxi", "a bus"]
    again = make_spec({**given, "concepts": [{"concept": "taxi", "prompts": ["a taxi"]}], "generation": {"seeds": [0]}})
    assert [w.prompt for w in wanted_images(again, {"taxi": "erased"})] == ["a taxi"]


@pytest.mark.parametrize("guidance", [5.0, 1.0])
@pytest.mark.parametrize("sampler", STOCK)
def test_same_images_as_stock_calls(world, sampler: str, guidance: float) -> None:
    settings = Generation(sampler=sampler, steps=6, guidance_scale=guidance, batch_size=3)
    ours = np.concatenate(list(sample(world, [p for p, _ in PAIRS], [s for _, s in PAIRS], settings)))
    stock = StableDiffusionPipeline(**world.components, requires_safety_checker=False)
    stock.scheduler = STOCK[sampler].from_config(world.scheduler.config)
    stock.set_progress_bar_config(disable=True)
    for image, (prompt, seed) in zip(ours, PAIRS):
        theirs = stock(
            prompt,
            num_inference_steps=6,
            guidance_scale=guidance,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        ).images[0]
        # Both in whole levels of 255: what is left is rounding that falls the other way.
        assert np.abs(image - (255 * theirs).round()).mean() < 0.02


@pytest.mark.parametrize("sampler", STOCK)
def test_steps_that_are_let_through_begin_in_noise(sampler: str) -> None:
    """With `leading` spacing, at a timestep that there is, and but for a tenth no further from the end than one step takes."""
    model = DDIMScheduler(steps_offset=1, timestep_spacing="leading")
    scheduler, extra = STOCK[sampler].from_config(model.config), 0 if sampler == "ddim" else 1
    refused = set()
    for steps in range(1, SCHEDULE):
        scheduler.set_timesteps(steps)
        begin, stride = int(scheduler.timesteps[0]), SCHEDULE // (steps + extra)
        try:
            require_reach(steps, extra)
        except ValueError:
            refused.add(steps)
            assert begin < 0.9 * SCHEDULE or begin >= SCHEDULE
        else:
            assert SCHEDULE - stride - 0.1 * SCHEDULE <= begin < SCHEDULE
    assert {400, 600} <= refused and refused.isdisjoint(range(1, 101))


def test_other_dimensions(tiny_pipeline) -> None:
    (images,) = sample(tiny_pipeline, ["x"], [0], Generation(steps=2))
    assert images.shape == (1, 16, 16, 3)


def test_image_dataset_round_trip(tiny_pipeline, tmp_path: Path) -> None:
    wanted = [Wanted("a taxi", "taxi", 0), Wanted("a bus", "bus", 1), Wanted("a bus", "bus", 2)]
    seen = []
    settings = Generation(steps=2, batch_size=2)
    generate(
        tiny_pipeline, wanted, settings, "hash", tmp_path / "i.parquet", lambda done, total: seen.append((done, total))
    )
    ((read, images),) = read_images(tmp_path / "i.parquet")
    assert read == wanted and images.shape == (3, 16, 16, 3) and seen == [(2, 3), (3, 3)]
    direct = np.concatenate(list(sample(tiny_pipeline, [w.prompt for w in wanted], [w.seed for w in wanted], settings)))
    assert np.array_equal(images, direct)


def test_png_and_grid() -> None:
    images = np.random.default_rng(0).integers(0, 255, (5, 4, 6, 3), dtype=np.uint8)
    assert np.array_equal(decode_png(encode_png(images[0])), images[0])
    sheet = grid(images, columns=2, gap=1)
    assert sheet.shape == (3 * 5 - 1, 2 * 7 - 1, 3)
    assert np.array_equal(sheet[10:14, 0:6], images[4]) and (sheet[4] == 255).all()


def test_plan() -> None:
    text = "name: x\noutput: o\ngeneration: {seeds: [0, 1], prompts: ['a {concept}', 'the {concept}']}\n"
    spec = parse_spec(text + "concepts: [{concept: weapon, prompts: [a deadly thing]}]")
    role_of = roles(spec, [])
    assert role_of["bomb"] == role_of["weapon"] == "erased" and role_of["apple"] == "preserved"
    wanted = wanted_images(spec, role_of)
    assert Wanted("an apple", "apple", 1) in wanted and Wanted("a deadly thing", "weapon", 0) in wanted
    assert len(wanted) == 2 * (2 * len(role_of) + 1)


def test_plan_that_preserves_nothing() -> None:
    """An empty list is not a list left out."""
    text = "name: x\noutput: o\nmodel: ./else\nconcepts: [taxi]\n"
    assert roles(parse_spec(text), ["bus", "car"]) == {"taxi": "erased", "bus": "preserved", "car": "preserved"}
    assert roles(parse_spec(text + "scoring: {preserved: []}"), ["bus", "car"]) == {"taxi": "erased"}


def test_plan_of_a_style() -> None:
    """The other styles are preserved beside all concepts, each on things from all over the catalogue."""
    text = "name: x\noutput: o\nconcepts: [{concept: emojione, prompts: [a red car in emojione style]}]"
    spec = parse_spec(text)
    check_judged(spec)
    role_of = roles(spec, [])
    assert [style for style in STYLES if role_of[style] == "preserved"] == ["noto", "twemoji", "fluent"]
    assert role_of["emojione"] == "erased" and role_of["taxi"] == "preserved"
    wanted = wanted_images(spec, role_of)
    own = [w.prompt for w in wanted if w.concept == "emojione"]
    assert len(own) == WORDS_PER_STYLE + 4 and all("in emojione style" in prompt for prompt in own)
    assert len({w.prompt for w in wanted if w.concept == "noto"}) == WORDS_PER_STYLE


def test_runs_share_the_originals() -> None:
    """What is drawn does not depend on which of the world's concepts is erased."""
    plans = []
    for concept in ("taxi", "bus"):
        spec = parse_spec(f"name: x\noutput: o\nconcepts: [{concept}]")
        plans.append(wanted_images(spec, roles(spec, [])))
    assert plans[0] == plans[1]
