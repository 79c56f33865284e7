"""What both guidance halves have in common is computed once, and the images are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from erase_core.generation import before_text, sampler
from erase_core.models.pipeline import load_pipeline
from erase_core.models.source import find_model
from erase_core.spec import Generation
from tests.tiny import tiny_folder_of

GIVEN = ["a taxi", "a bus", "a rose"], [0, 1, 2]


def drawn(pipeline, **settings):
    return next(iter(sampler.sample(pipeline, *GIVEN, Generation(steps=3, **settings))))


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_layers_before_the_text_see_each_image_once(kind: str, tmp_path: Path, monkeypatch) -> None:
    """In Stable Diffusion XL a part of the text goes with the timestep, so all of its layers see it."""
    pipeline = load_pipeline(find_model(str(tiny_folder_of(kind, tmp_path / kind))))
    unet, seen = pipeline.unet, {}
    first = unet.down_blocks[0]
    attends = first.attentions[0].transformer_blocks[0] if kind != "sdxl" else None
    watched = {"first": first.resnets[0].conv1, "out": unet.conv_out}
    if attends is not None:
        watched |= {"own": attends.attn1.to_q, "text": attends.attn2.to_q}
    for name, layer in watched.items():
        layer.register_forward_pre_hook(lambda _, given, name=name: seen.setdefault(name, set()).add(len(given[0])))
    fast = drawn(pipeline)
    seen.clear()
    monkeypatch.setattr(sampler, "cpu_forwards", lambda unet: {})
    shared = drawn(pipeline)
    assert abs(fast.astype(int) - shared).max() <= 1
    assert seen["first"] == {6 if kind == "sdxl" else 3} and seen["out"] == {6}
    if attends is not None:
        assert seen["own"] == {3} and seen["text"] == {6}
    seen.clear()
    drawn(pipeline, guidance_scale=1.0)
    assert all(rows == {3} for rows in seen.values()), "there is one condition"
    monkeypatch.setattr(sampler, "shared_forwards", lambda unet, forwards: forwards)
    assert abs(shared.astype(int) - drawn(pipeline)).max() <= 1


def test_what_comes_before_the_text(tmp_path: Path) -> None:
    """Whole blocks without attention; and where a block's first attention is to the text alone, none of it."""
    folder = tiny_folder_of(
        "sd1", tmp_path / "sd1", down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], only_cross_attention=True,
    )  # fmt: skip
    unet = load_pipeline(find_model(str(folder))).unet
    plain, attending, _ = unet.down_blocks
    wanted = [unet.conv_in, *plain.resnets, *plain.downsamplers, attending.resnets[0]]
    assert before_text.before_text(unet) == wanted and len(wanted) >= 4
    attending.resnets[0].forward = attending.resnets[0].forward  # As hooks do.
    assert set(before_text.shared_forwards(unet, {})) == set(wanted[:-1])


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_timestep_s_embedding_of_something_else_is_in_all_layers(kind: str, tmp_path: Path) -> None:
    unet = load_pipeline(find_model(str(tiny_folder_of("sd1", tmp_path / "sd1")))).unet
    assert before_text.before_text(unet)
    unet.register_to_config(addition_embed_type=kind)
    assert not before_text.before_text(unet)


def test_blocks_of_another_kind_are_left_alone(tmp_path: Path) -> None:
    unet = load_pipeline(find_model(str(tiny_folder_of("sd1", tmp_path / "sd1")))).unet
    first = unet.down_blocks[0]
    assert before_text.before_text(unet)[:2] == [unet.conv_in, first.resnets[0]]
    first.attentions[0] = nn.Identity()
    assert before_text.before_text(unet) == [unet.conv_in]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_maps_stay_as_their_layer_lays_them_out(layout: torch.memory_format) -> None:
    rows = torch.randn(3, 4, 2, 5).to(memory_format=layout).repeat_interleave(2, dim=0)
    made = before_text.once(lambda part: part.contiguous(memory_format=layout), rows)
    assert torch.equal(made, rows) and made.is_contiguous(memory_format=layout)


def test_pairs_are_computed_once() -> None:
    rows, calls = torch.arange(3.0).repeat_interleave(2)[:, None], []
    layer = nn.Linear(1, 1)
    with torch.inference_mode():
        made = before_text.once(
            lambda part, other, scale: calls.append((len(part), len(other), scale)) or layer(part), rows, rows, 2
        )
        assert calls == [(3, 3, 2)] and torch.equal(made, layer(rows))
