"""Each setting that saves memory: it changes how a step is computed, and not what is learnt."""

from __future__ import annotations

import pytest
import torch

from erase_core.generation.sampler import sample
from erase_core.models.attention import AttentionRecord
from erase_core.models.conditions import Layout
from erase_core.models.pipeline import load_pipeline, prepare_sampling
from erase_core.models.prompts import encode
from erase_core.models.source import find_model
from erase_core.spec import Generation, Method, Training, make_spec
from erase_core.spec_errors import SpecError
from erase_core.training.engine import config
from erase_core.training.loop import train
from erase_core.training.step import Conditions, ErasedConcept
from tests.tiny import tiny_folder_of

OFFLOAD = {"none": set(), "optimizer": {"offload_optimizer"}, "parameters": {"offload_optimizer", "offload_param"}}
SMALL = {"steps": 2, "batch_size": 1, "latent_steps": 2, "trajectories": 1, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder_of("sd1", tmp_path_factory.mktemp("memory") / "sd1")


def learnt(folder, method: str = "adversarial", **changes) -> dict[str, torch.Tensor]:
    pipeline = load_pipeline(find_model(str(folder)))
    prompts, words = ["taxi", "a taxi"], ["bus", "boat", "cat"]
    concept = ErasedConcept("taxi", prompts, encode(pipeline, prompts), words, encode(pipeline, words), [[1], [2]])
    empty = encode(pipeline, [""])[0]
    training = Training(**{**SMALL, **changes})
    conditions = Conditions(empty, empty, Layout())
    return train(pipeline.unet, pipeline.scheduler, [concept], conditions, Method(name=method), training, seed=0)


def apart(a: dict, b: dict) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient_checkpointing": True},
        {"attention_slicing": True},
        {"zero_stage": 1, "offload": "optimizer"},
        {"zero_stage": 3, "offload": "parameters"},
    ],
    ids=lambda changes: "-".join(map(str, changes)),
)
def test_the_same_is_learnt(changes: dict, folder) -> None:
    assert apart(learnt(folder), learnt(folder, **changes)) < 2e-4


def test_settings_are_the_training_s(folder) -> None:
    """What learns the same is also done the way that saves memory."""
    pipeline, seen = load_pipeline(find_model(str(folder))), []
    concept = ErasedConcept("taxi", ["taxi"], encode(pipeline, ["taxi"]), [], None)
    empty = encode(pipeline, [""])[0]

    def look(step: int, unet: torch.nn.Module) -> None:
        sliced = {type(processor).__name__ for processor in unet.attn_processors.values()}
        seen.append((unet.is_gradient_checkpointing, sliced == {"SlicedAttnProcessor"}))

    for on in (False, True):
        training = Training(**{**SMALL, "gradient_checkpointing": on, "attention_slicing": on})
        given = (pipeline.unet, pipeline.scheduler, [concept], Conditions(empty, empty), Method(name="naive"), training)
        train(*given, seed=0, on_update=look)
    assert set(seen) == {(False, False), (True, True)}


def test_what_is_offloaded() -> None:
    zero = {kind: config(Training(zero_stage=3, offload=kind))["zero_optimization"] for kind in OFFLOAD}
    parts = {kind: {part for part in found if part.startswith("offload_")} for kind, found in zero.items()}
    assert parts == OFFLOAD


def test_checkpointed_attention_is_still_read(folder) -> None:
    plain, again = (learnt(folder, "forget-me-not", gradient_checkpointing=on) for on in (False, True))
    assert apart(plain, again) < 1e-5


def test_gradient_checkpointing_keeps_less(folder) -> None:
    """Fewer bytes are saved for the backward pass."""
    unet = load_pipeline(find_model(str(folder))).unet.train().requires_grad_(True)

    def kept() -> int:
        found: dict[int, int] = {}
        pack = lambda tensor: found.setdefault(tensor.data_ptr(), tensor.nbytes) and tensor  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            unet(torch.randn(2, 4, 8, 8), torch.tensor([1, 2]), torch.randn(2, 77, 32))
        return sum(found.values())

    before = kept()
    unet.enable_gradient_checkpointing()
    assert kept() < before / 2


def test_frozen_weights_in_half(folder) -> None:
    """The trained ones stay in fp32 and learn nearly the same as with all in fp32, under bf16 arithmetic in both."""
    full, half = (learnt(folder, precision="bf16", frozen_precision=name) for name in ("fp32", "bf16"))
    assert all(value.dtype == torch.float32 for value in half.values())
    assert 0 < apart(full, half) < 2 * SMALL["steps"] * SMALL["learning_rate"] + 1e-6


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_images_in_half_precision(precision: str, folder) -> None:
    pipeline = load_pipeline(find_model(str(folder)))
    settings = Generation(steps=2, precision=precision, attention_slicing=True)
    (plain,) = next(sample(pipeline, ["a taxi"], [0], settings))
    prepare_sampling(pipeline, settings)
    assert pipeline.unet.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert pipeline.vae.dtype == torch.float32
    (half,) = next(sample(pipeline, ["a taxi"], [0], settings))
    assert 0 < abs(half.astype(float) - plain).mean() < 8


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"offload": "optimizer"}, "needs training.zero_stage 1, 2 or 3"),
        ({"offload": "parameters", "zero_stage": 2}, "needs training.zero_stage 3"),
        ({"frozen_precision": "bf16"}, "needs training.precision bf16"),
        ({"frozen_precision": "bf16", "precision": "bf16", "zero_stage": 3}, "use stage 0, 1 or 2"),
    ],
)
def test_settings_that_do_not_go_together(training: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_spec({"name": "x", "concepts": ["taxi"], "output": "-", "training": training})


def test_recording_does_not_touch_self_attention(folder) -> None:
    unet = load_pipeline(find_model(str(folder))).unet
    before = {name: processor for name, processor in unet.attn_processors.items() if ".attn1." in name}
    AttentionRecord(unet)
    assert all(unet.attn_processors[name] is processor for name, processor in before.items())
