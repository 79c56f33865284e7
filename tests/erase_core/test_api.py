"""The library call: no server, no files, and the given pipeline stays as it is."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from huggingface_hub import constants

from erase_core import api, compare, erase
from erase_core.generation.sampler import sample
from erase_core.models.delta import DeltaError, apply_delta, save_delta
from erase_core.models.pipeline import with_unet
from erase_core.spec import Generation
from erase_core.spec_errors import SpecError
from erase_core.training.candidates import erased_concepts

SMALL = {"steps": 2, "batch_size": 2, "trajectories": 1, "latent_steps": 3}


def test_erase(tiny_pipeline) -> None:
    before = {name: value.clone() for name, value in tiny_pipeline.unet.state_dict().items()}
    records: list[dict] = []
    erased = erase(
        tiny_pipeline,
        concepts=["taxi", {"concept": "bus"}],
        vocabulary="emoji-world",
        top_k_words=6,
        training=SMALL,
        on_record=records.append,
    )
    after = erased.unet.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in tiny_pipeline.unet.state_dict().items())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(".attn2." in name for name in changed)
    assert {r["concept"] for r in records} == {"taxi", "bus"}
    assert erased("a bus", num_inference_steps=2).images[0].size == (16, 16)


@pytest.mark.parametrize(
    "method", [{"name": "fixed", "words": ["bus"]}, "neutral", {"name": "naive", "neutral": "a photo"}]
)
def test_other_methods(tiny_pipeline, method) -> None:
    records: list[dict] = []
    given = {"vocabulary": "emoji-world", "top_k_words": 6, "training": SMALL}
    erase(tiny_pipeline, ["taxi"], method=method, on_record=records.append, **given)
    drawn = {word for r in records for word in r["drawn"]}
    name = method if isinstance(method, str) else method["name"]
    assert drawn == {"fixed": {"bus"}, "neutral": {""}, "naive": set()}[name]


def test_a_word_alone_is_no_list(tiny_pipeline) -> None:
    """Its letters would be erased."""
    with pytest.raises(SpecError, match=r"concepts: 'taxi' should be a list; give \['taxi'\]"):
        erase(tiny_pipeline, "taxi")
    with pytest.raises(SpecError, match="concepts: 'taxi' should be a list"):
        compare("emoji-world", "taxi", ["naive"])


def test_what_is_given_can_be_trained_and_is_as_before(tiny_pipeline) -> None:
    """Neither its precision nor its device is changed, and its weights ask for gradients as they did."""
    given = {"method": "naive", "vocabulary": "emoji-world", "top_k_words": 6, "training": SMALL}
    asked = {name: parameter.requires_grad for name, parameter in tiny_pipeline.unet.named_parameters()}
    try:
        for number, parameter in enumerate(tiny_pipeline.unet.parameters()):
            parameter.requires_grad_(number % 2 == 0)
        erase(tiny_pipeline, ["taxi"], **given)
        found = [parameter.requires_grad for parameter in tiny_pipeline.unet.parameters()]
        assert found == [number % 2 == 0 for number in range(len(found))]
    finally:
        for name, parameter in tiny_pipeline.unet.named_parameters():
            parameter.requires_grad_(asked[name])
    for dtype, device in ((torch.float16, "cpu"), (torch.float32, "meta")):
        other = copy.deepcopy(tiny_pipeline.unet).to(device, dtype)
        with pytest.raises(
            SpecError, match=rf"^pipeline: its UNet is {dtype} on {device}, .*give pipeline.to\('cpu', torch.float32\)"
        ):
            erase(with_unet(tiny_pipeline, other), ["taxi"], **given)


def test_what_one_process_cannot_do_is_refused(tiny_pipeline) -> None:
    with pytest.raises(SpecError, match="^training.processes: a library call has one process"):
        erase(tiny_pipeline, ["taxi"], training={"processes": 2})
    with pytest.raises(SpecError, match="^scoring.processes: a library call has one process"):
        compare("emoji-world", ["taxi"], ["naive"], scoring={"processes": 2})


@pytest.mark.parametrize("method", ["naive", "uce"])
def test_records_say_how_far_it_is(tiny_pipeline, method: str) -> None:
    """A closed form's steps are its layers."""
    records: list[dict] = []
    given = {"vocabulary": "emoji-world", "top_k_words": 6, "training": SMALL}
    erase(tiny_pipeline, ["taxi", "bus"], method=method, on_record=records.append, **given)
    assert [record["step"] for record in records] == list(range(records[0]["steps"]))
    assert (len(records) == 2 * SMALL["steps"]) == (method == "naive")


def test_a_half_precision_training_leaves_the_pipeline_alone(tiny_pipeline) -> None:
    half = {**SMALL, "precision": "bf16", "frozen_precision": "bf16"}
    before = {name: value.clone() for name, value in tiny_pipeline.unet.state_dict().items()}
    erased = erase(tiny_pipeline, ["taxi"], method="naive", vocabulary="emoji-world", top_k_words=6, training=half)
    assert all(torch.equal(value, before[name]) for name, value in tiny_pipeline.unet.state_dict().items())
    after = erased.unet.state_dict()
    assert after["conv_in.weight"].dtype == torch.float32 and torch.equal(
        after["conv_in.weight"], before["conv_in.weight"]
    )


def test_a_group_covers_what_the_embedded_model_knows(world, tiny_pipeline) -> None:
    """Another model has no groups; what was made from the embedded one has."""

    def erased(pipeline, vocabulary):
        named.clear()
        return erase(pipeline, ["bird"], method="uce", vocabulary=vocabulary, top_k_words=6, on_record=lambda r: None)

    named: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            api, "erased_concepts", lambda spec, *rest: named.extend(spec.erased_names) or erased_concepts(spec, *rest)
        )
        once = erased(world, None)
        assert len(named) > 10
        erased(once, None)
        assert len(named) > 10
        erased(tiny_pipeline, "emoji-world")
        assert named == ["bird"]


def test_what_is_not_on_the_hub_is_said_before_any_work(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("erase_core.hub.resolved", {})
    monkeypatch.setattr(api, "load", lambda model: pytest.fail("the model is loaded"))
    with pytest.raises(SpecError, match=r"^scoring.judge: cannot fetch owner/judge from the hub"):
        compare("emoji-world", ["taxi"], ["naive", "uce"], scoring={"judge": "owner/judge"})


def test_bad_input(tiny_pipeline) -> None:
    with pytest.raises(SpecError, match="concepts: is empty"):
        erase(tiny_pipeline, [])
    with pytest.raises(SpecError, match="vocabulary.top_k"):
        erase(tiny_pipeline, ["taxi"], vocabulary="emoji-world", top_k_words=10_000)


@pytest.mark.slow
def test_compare(world) -> None:
    """Every method draws the same images, the ones that a pipeline erased by itself would draw."""
    told: list[str] = []
    found = compare(
        "emoji-world",
        ["taxi"],
        {"plain": "naive", "by words": {"name": "fixed", "words": ["bus"]}},
        vocabulary={"top_k": 6},
        training=SMALL,
        generation={"steps": 2, "seeds": [0, 1]},
        scoring={"preserved": ["bus", "rose"], "metrics": ["erasure", "clip_score", "kid"]},
        progress=told.append,
    )
    assert told == ["plain", "by words"] and list(found.table["method"]) == ["original", *told]
    assert sorted(found.prompts) == ["a bus"] * 2 + ["a rose"] * 2 + ["a taxi"] * 2
    assert found.table[["esr_1", "psr_1", "clip_score_preserved"]].notna().all(axis=None)
    assert found.table["kid_preserved"].notna().tolist() == [False, True, True]
    alone = erase(world, ["taxi"], method="naive", top_k_words=6, training=SMALL)
    (again,) = sample(alone, found.prompts, [0, 1] * 3, Generation(steps=2))
    assert (found.images["plain"] == again).all() and (found.images["plain"] != found.images["by words"]).any()
    assert found.picture(["a taxi", "a bus"]).size == (2 * 66 - 2, 3 * 66 - 2)
    with pytest.raises(SpecError, match=r"scoring\.preserved"):
        compare("emoji-world", ["taxi"], ["naive"], scoring={"preserved": ["happiness"]})


# Whoever connects to anything dies of it.
ALONE = """
import socket, sys
socket.socket.connect = socket.socket.connect_ex = None
import erase_core.api, erase_core.stages, erase_core.training.worker, erase_core.emoji_world.pretrain
from erase_core.metrics.scorers import scorers_of
from erase_core.spec import make_spec
from erase_core.training.engine import no_mlflow
with no_mlflow():
    import deepspeed
assert scorers_of(make_spec({"name": "n", "concepts": ["taxi"], "output": "o"})).clip
assert not {"prefect", "mlflow"} & set(sys.modules)
"""


def test_knows_no_orchestrator_no_tracker_and_no_network() -> None:
    """Nor does what it imports, though DeepSpeed would; and nothing keeps it off the hub but that there is nothing to ask for."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    subprocess.run([sys.executable, "-c", ALONE], check=True, env=kept)


def test_delta_round_trip(tiny_pipeline, tmp_path) -> None:
    erased = erase(tiny_pipeline, ["taxi"], top_k_words=6, training=SMALL)
    count = save_delta(tmp_path / "d.safetensors", tiny_pipeline.unet, erased.unet.state_dict(), {})
    fresh = type(tiny_pipeline.unet).from_config(tiny_pipeline.unet.config)
    fresh.load_state_dict(tiny_pipeline.unet.state_dict())
    apply_delta(fresh, tmp_path / "d.safetensors")
    assert count > 0 and all(torch.equal(v, fresh.state_dict()[n]) for n, v in erased.unet.state_dict().items())
    with pytest.raises(DeltaError, match="made from a UNet with the hash"):
        apply_delta(fresh, tmp_path / "d.safetensors")
    apply_delta(fresh, tmp_path / "d.safetensors", any_base=True)


def test_delta_of_another_architecture(tiny_pipeline, world, tmp_path) -> None:
    erased = erase(tiny_pipeline, ["taxi"], top_k_words=6, training=SMALL)
    save_delta(tmp_path / "d.safetensors", tiny_pipeline.unet, erased.unet.state_dict(), {})
    before = [p.clone() for p in world.unet.parameters()]
    with pytest.raises(DeltaError, match="does not fit"):
        apply_delta(world.unet, tmp_path / "d.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(before, world.unet.parameters()))
