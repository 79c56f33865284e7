"""Stable Diffusion 1.x, 2.x and XL: what they read of a prompt, and every format they come in and go out as."""

from __future__ import annotations

import copy
import fnmatch
import json
import os
import shlex
import shutil
import socket
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from erase_core import methods
from erase_core.concepts.embeddings import EmbeddingTable, write_embeddings
from erase_core.files import read_json, write_json
from erase_core.generation.sampler import SAMPLERS, make_scheduler, sample
from erase_core.models.checkpoint_layout import UNET, configs_of, unet_sizes
from erase_core.models.conditions import Layout, latent_shape, layout_of
from erase_core.models.delta import DeltaError, apply_delta, save_delta, weights_hash
from erase_core.models.export import export
from erase_core.models.origin import Origin, origin_of, read_header
from erase_core.models.pickled import convert
from erase_core.models.pipeline import HUB_FILES, load_pipeline, resolve_folder
from erase_core.models.prompts import embed, encode, encode_pooled
from erase_core.models.published import KINDS, configs
from erase_core.models.single_file import unet_weights, write_checkpoint
from erase_core.models.source import ModelError, find_model, model_hash
from erase_core.models.trainable import CHOICES, trainable_names
from erase_core.randomness import Streams, generator
from erase_core.search.gumbel import GumbelSearch
from erase_core.spec import Generation, Method, Training, make_spec
from erase_core.training.candidates import conditions_of
from erase_core.training.loop import train
from erase_core.training.predictions import alphas_cumprod, distance_at, loss_weights, noise_predictor
from erase_core.training.step import ErasedConcept
from tests.tiny import tiny_folder_of

WORDS = ["bus", "boat", "cat"]
FAST_FOR_XL = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind != "sdxl" else []) for kind in KINDS]
)
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    made = tmp_path_factory.mktemp("formats")
    return {kind: tiny_folder_of(kind, made / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def pipelines(folders) -> dict:
    return {kind: load_pipeline(find_model(str(folder))) for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def files(pipelines, tmp_path_factory) -> dict[str, Path]:
    made = {kind: tmp_path_factory.mktemp("files") / f"{kind}.safetensors" for kind in KINDS}
    for kind, file in made.items():
        write_checkpoint(pipelines[kind], file, Origin())
    return made


def same_weights(a, b) -> bool:
    for part in (p for p in PARTS if getattr(a, p, None) is not None):
        first, second = getattr(a, part).state_dict(), getattr(b, part).state_dict()
        if first.keys() != second.keys() or not all(torch.equal(first[name], second[name]) for name in first):
            return False
    return type(a) is type(b)


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_and_images_are_the_stock_pipeline_s(kind: str, pipelines) -> None:
    pipeline = pipelines[kind]
    layout = layout_of(pipeline)
    (own,) = encode(pipeline, ["a taxi"])
    stock = pipeline.encode_prompt("a taxi", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    assert torch.allclose(layout.tokens(own), stock[0][0], atol=1e-5)
    if kind == "sdxl":
        pooled = layout.arguments(own[None])["added_cond_kwargs"]["text_embeds"]
        assert torch.allclose(pooled, stock[2], atol=1e-5)
    (image,) = next(sample(pipeline, ["a taxi"], [3], Generation(steps=3)))
    other = type(pipeline).from_pipe(pipeline, scheduler=DDIMScheduler.from_config(pipeline.scheduler.config))
    drawn = other(
        "a taxi",
        num_inference_steps=3,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    )
    assert np.abs(image - np.round(drawn.images[0] * 255)).max() <= 1


def test_empty_prompt_is_zeros_where_the_model_was_trained_so(pipelines) -> None:
    pipeline = pipelines["sdxl"]
    assert not encode(pipeline, ["", "a taxi"])[0].any() and encode(pipeline, [""], empty_as_text=True).any()
    pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    assert encode(pipeline, [""]).any()
    pipeline.register_to_config(force_zeros_for_empty_prompt=True)


def test_conditions_hold_the_pooled_embedding_first() -> None:
    layout = Layout(5, (1, 2, 0, 0, 1, 2))
    tokens, pooled = torch.randn(3, 7, 4), torch.randn(3, 5)
    packed = layout.pack(tokens, pooled)
    assert packed.shape == (3, 9, 4) and torch.equal(layout.tokens(packed), tokens) and not packed[:, 1, 1:].any()
    read = layout.arguments(packed)
    assert torch.equal(read["added_cond_kwargs"]["text_embeds"], pooled)
    assert read["added_cond_kwargs"]["time_ids"].tolist() == [[1, 2, 0, 0, 1, 2]] * 3


def test_embedding_file_gives_the_conditions_back(pipelines, tmp_path) -> None:
    pipeline = pipelines["sdxl"]
    write_embeddings(tmp_path / "e.arrow", pipeline, WORDS, {})
    table = EmbeddingTable(tmp_path / "e.arrow")
    packed = layout_of(pipeline).pack(table.rows([2, 0]), table.rows([2, 0], "pooled"))
    assert torch.allclose(packed, encode(pipeline, ["cat", "bus"]), atol=2e-2)


@FAST_FOR_XL
def test_pooled_embeddings_need_no_padding(pipelines, kind: str) -> None:
    """Those of texts at their own length are those that `embed` gives of the padded ones, in the texts' order."""
    texts = ["a photo of a red bus", "cat", "", "a bus " * 60, "boat", "two cats"]
    with torch.no_grad():
        _, pooled = embed(pipelines[kind], texts)
    assert torch.allclose(encode_pooled(pipelines[kind], texts, batch_size=2), pooled, atol=1e-5)


def test_gradient_to_the_words_includes_the_pooled_embedding(pipelines) -> None:
    """Against central differences in π, for a loss that reads the pooled embedding alone."""
    pipeline = pipelines["sdxl"]
    layout, candidates = layout_of(pipeline), encode(pipeline, WORDS).double()

    def loss(drawn: torch.Tensor) -> torch.Tensor:
        return layout.arguments(drawn)["added_cond_kwargs"]["text_embeds"].sin().square().sum()

    def search() -> GumbelSearch:
        made = GumbelSearch(WORDS, candidates, temperature=2.0, learning_rate=0.1, mixed=len(WORDS))
        made.logits = made.logits.detach().double()
        return made

    choice = search().choose(Streams(0, samples=range(2)))
    drawn = choice.embeddings.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(drawn), drawn)
    found = search().gradient(choice, gradient)
    assert found.abs().max() > 1e-4
    for i in range(len(WORDS)):
        ends = []
        for sign in (1, -1):
            moved = search()
            moved.logits[i] += sign * 1e-4
            ends.append(loss(moved.choose(Streams(0, samples=range(2))).embeddings))
        assert float(found[i]) == pytest.approx(float(ends[0] - ends[1]) / 2e-4, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("carried", [True, False], ids=["with its configs", "weights alone"])
@FAST_FOR_XL
def test_single_file_is_read_back_without_a_network(kind: str, carried: bool, pipelines, files, tmp_path, monkeypatch):
    file = files[kind]
    if not carried:
        file = tmp_path / "bare.safetensors"
        save_file(load_file(files[kind]), file, {"modelspec.resolution": "16x16"})

    def refused(*_: object) -> None:
        raise AssertionError("the network was reached for")

    monkeypatch.setattr(socket.socket, "connect", refused)
    found = load_pipeline(find_model(str(file)))
    assert same_weights(found, pipelines[kind])
    assert latent_shape(found.unet) == latent_shape(pipelines[kind].unet)
    assert found.scheduler.config.prediction_type == pipelines[kind].scheduler.config.prediction_type
    assert torch.equal(encode(found, ["a taxi"]), encode(pipelines[kind], ["a taxi"]))


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_derived_for_the_published_models(kind: str) -> None:
    """From the shapes of the published UNet alone, its published configuration."""
    parts = configs(kind)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(parts["unet"])
    fake = type("Pipeline", (), {"unet": unet})
    shapes = {UNET + name: list(value.shape) for name, value in unet_weights(fake)}
    found = unet_sizes(shapes, kind, parts)
    assert {name: parts["unet"][name] for name in found} == found


def test_prediction_type_beside_a_file(files, tmp_path) -> None:
    bare = tmp_path / "m.safetensors"
    save_file(load_file(files["sd2"]), bare)
    assert configs_of(bare)["scheduler"]["prediction_type"] == "v_prediction"
    bare.with_suffix(".yaml").write_text("model: {params: {parameterization: eps}}")
    assert configs_of(bare)["scheduler"]["prediction_type"] == "epsilon"
    save_file(load_file(files["sd1"]), bare, {"modelspec.prediction_type": "v"})
    assert configs_of(bare)["scheduler"]["prediction_type"] == "v_prediction"


def test_other_yaml_beside_a_file(files, tmp_path) -> None:
    """A spec of the same name, an empty file, another mapping: a bare 2.x file still predicts v. Without a word LDM's says ε."""
    bare = tmp_path / "m.safetensors"
    save_file(load_file(files["sd2"]), bare)
    for text in ("model:", "model: m.safetensors", "", "name: x", "- model", "model: {params: {steps: 3}}"):
        bare.with_suffix(".yaml").write_text(text)
        assert configs_of(bare)["scheduler"]["prediction_type"] == "v_prediction", text
    bare.with_suffix(".yaml").write_text("model: {params: {unet_config: {}}}")
    assert configs_of(bare)["scheduler"]["prediction_type"] == "epsilon"
    bare.with_suffix(".yaml").write_text("model: [")
    with pytest.raises(ModelError, match=r"^model: .*m\.yaml beside the checkpoint is not YAML"):
        configs_of(bare)


def test_header_is_read_before_a_file_is_converted(files, tmp_path, monkeypatch) -> None:
    """Of its licence files those alone are written that are licences."""
    texts = {"model_index.json": "{}", "unet/LICENSE": "x", "../LICENSE": "x", "LICENSE/../x": "x", "NOTICE": 3}
    hostile, weights = tmp_path / "m.safetensors", load_file(files["sd1"])
    save_file(weights, hostile, {"license_files": json.dumps({**texts, "LICENSE.md": "Mine."})})
    assert read_header(hostile).license_files == {"LICENSE.md": "Mine."}
    folder = resolve_folder(find_model(str(hostile)))
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"
    assert (folder / "LICENSE.md").read_text() == "Mine."
    monkeypatch.setattr("erase_core.models.single_file.produce", lambda *_: pytest.fail("the file was converted"))
    for entry, text in (
        ("license_files", "{"),
        ("license_files", "[1]"),
        ("erase.configs", "{"),
        ("erase.configs", "[]"),
    ):
        save_file(weights, hostile, {entry: text})
        with pytest.raises(ModelError, match=f"{entry}.*take the entry out"):
            resolve_folder(find_model(str(hostile)))


def test_marks_of_a_file(files, pipelines, tmp_path) -> None:
    """An XL file of other programs says by tensors what its shapes do not; ours is marked for them the same way."""
    bare = tmp_path / "m.safetensors"
    save_file(load_file(files["sdxl"]) | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, bare)
    found = configs_of(bare)["scheduler"]
    assert found["prediction_type"] == "v_prediction" and found["rescale_betas_zero_snr"]
    pipeline = copy.copy(pipelines["sdxl"])
    pipeline.scheduler = type(pipeline.scheduler).from_config(found)
    assert float(alphas_cumprod(pipeline.scheduler)[-1]) < 1e-6 < float(alphas_cumprod(pipelines["sdxl"].scheduler)[-1])
    write_checkpoint(pipeline, bare, Origin())
    assert {"v_pred", "ztsnr"} <= set(load_file(bare)) and configs_of(bare)["scheduler"]["rescale_betas_zero_snr"]
    assert not {"v_pred", "ztsnr"} & set(load_file(files["sdxl"]))


def test_what_is_no_model_is_refused(files, folders, tmp_path) -> None:
    weights = load_file(files["sd1"])
    without_vae = {name: value for name, value in weights.items() if not name.startswith("first_stage_model")}
    without_text = {name: value for name, value in weights.items() if not name.startswith("cond_stage_model")}
    inpainting = {**weights, f"{UNET}input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)}
    cases = {
        "LoRA": {"lora_unet_down_blocks_0.lora_up.weight": torch.zeros(1)},
        "no UNet": {"x": torch.zeros(1)},
        "no autoencoder": without_vae,
        "no text encoder": without_text,
        "inpainting": inpainting,
    }
    for message, tensors in cases.items():
        save_file(tensors, tmp_path / "m.safetensors")
        with pytest.raises(ModelError, match=message):
            find_model(str(tmp_path / "m.safetensors"))
    (tmp_path / "m.safetensors").write_bytes(b"\x80\x04 not at all")
    with pytest.raises(ModelError, match="not a safetensors file"):
        find_model(str(tmp_path / "m.safetensors"))
    save_file(weights, tmp_path / "m.safetensors")
    whole = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(whole[:-1])
    with pytest.raises(ModelError, match="^model: .* is not a whole safetensors file; give"):
        find_model(str(tmp_path / "m.safetensors"))
    with pytest.raises(ModelError, match="is a pickle.*convert it once: erase convert"):
        find_model(str(tmp_path / "v1-5.ckpt"))
    broken = tmp_path / "broken"
    (broken / "unet").mkdir(parents=True)
    (broken / "model_index.json").write_text((folders["sdxl"] / "model_index.json").read_text())
    with pytest.raises(ModelError, match="no safetensors in unet/"):
        find_model(str(broken))
    (broken / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(ModelError, match="is a FluxPipeline"):
        find_model(str(broken))
    for text in ("{", "[]", '{"_class_name": []}'):
        (broken / "model_index.json").write_text(text)
        with pytest.raises(ModelError, match="^model: .*; give a "):
            find_model(str(broken))
    for name in ("~nosuchuser/x", "m" * 300):
        with pytest.raises(ModelError, match="^model: .* cannot be looked up .*; check the path"):
            find_model(name)
    (tmp_path / "m.safetensors").write_bytes((2).to_bytes(8, "little") + b"[]")
    with pytest.raises(ModelError, match="not a safetensors file"):
        find_model(str(tmp_path / "m.safetensors"))


def test_a_model_is_known_by_what_is_loaded_of_it(tiny_folder: Path, tmp_path: Path) -> None:
    """The hub's cache, where other programs put what they need of it, is shared."""
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    own = model_hash(folder)
    assert own == model_hash(tiny_folder)
    (folder / "safety_checker").mkdir()
    for file in (
        "safety_checker/config.json",
        "README.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/x.non_ema.safetensors",
    ):
        (folder / file).write_text("{}")
    assert model_hash(folder) == own
    for file in ("scheduler/scheduler_config.json", "model_index.json", "text_encoder/config.json"):
        before = (folder / file).read_text()
        (folder / file).write_text(before + " ")
        assert model_hash(folder) != own
        (folder / file).write_text(before)
    half = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    first = model_hash(folder)
    half.write_text("{ }")
    assert model_hash(folder) != first, "of one that has half precision alone"


def test_a_part_that_is_a_link_counts(tiny_folder: Path, tmp_path: Path) -> None:
    """A folder may be put together from the parts of others."""
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    own = model_hash(folder)
    (folder / "unet").rename(tmp_path / "tuned")
    (folder / "unet").symlink_to(tmp_path / "tuned")
    assert model_hash(folder) == own
    weights = tmp_path / "tuned" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert model_hash(folder) != own


@pytest.mark.parametrize("way", ["folder", "file"])
def test_a_saved_model_is_sampled_as_its_base(way: str, folders, tmp_path: Path) -> None:
    """A scheduler is told no more than its base's was: another sampler has its own defaults for the rest."""
    base = shutil.copytree(folders["sd1"], tmp_path / "base")
    place = base / "scheduler" / "scheduler_config.json"
    bare = {name: value for name, value in read_json(place).items() if name not in ("timestep_spacing", "steps_offset")}
    write_json(place, {**bare, "_class_name": "PNDMScheduler"})
    saved = tmp_path / ("saved" if way == "folder" else "saved.safetensors")
    export(find_model(str(base)), saved)
    first, second = (load_pipeline(find_model(str(each))) for each in (base, saved))
    for sampler in SAMPLERS:
        made = [
            make_scheduler(each, Generation(sampler=sampler, steps=10)).timesteps.tolist() for each in (first, second)
        ]
        assert made[0] == made[1], sampler
    assert "timestep_spacing" not in read_json(place)


def test_parts_of_which_half_precision_alone_is_there(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "text_encoder" / "model.safetensors").rename(folder / "text_encoder" / "model.fp16.safetensors")
    with pytest.raises(ModelError, match="has text_encoder/ in half precision alone .model.fp16.safetensors"):
        find_model(str(folder))


@pytest.mark.parametrize(
    ("pickle", "told"),
    {
        "pytorch_model.fp16.bin": "model.fp16.safetensors",
        "pytorch_model-00001-of-00002.bin": "it is one of several parts",
    }.items(),
)
def test_the_command_that_converts_makes_what_is_looked_for(
    pickle: str, told: str, tiny_folder: Path, tmp_path
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "text_encoder" / "model.safetensors").rename(folder / "text_encoder" / pickle)
    with pytest.raises(ModelError) as refused:
        find_model(str(folder))
    assert told in str(refused.value) and "pytorch_model.fp16.safetensors" not in str(refused.value)


def test_a_single_file_with_other_layers(files, tmp_path: Path) -> None:
    weights = {name: value for name, value in load_file(files["sd1"]).items() if "attn2" not in name}
    save_file(weights, tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match="has other layers than Stable Diffusion"):
        configs_of(tmp_path / "m.safetensors")


def test_weights_that_are_cut_short_are_the_model_s(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelError, match=f"^model: '{folder}' cannot be loaded: .*; copy or download it again"):
        load_pipeline(find_model(str(folder)))


class Callback:
    """As a training framework leaves beside the weights. Making one again would leave a trace."""

    made = 0

    def __init__(self):
        self.best = {"loss": 0.5}

    def __setstate__(self, state):
        Callback.made += 1


class Trap:
    def __reduce__(self):
        return os.system, ("touch " + os.environ["TRAPPED"],)


def converted(refused: pytest.ExceptionInfo) -> None:
    """Do what the message of a refusal says."""
    command = shlex.split(str(refused.value).split("convert it once: ")[1])
    assert command[:2] == ["erase", "convert"]
    convert(*map(Path, command[2:]))


def test_text_encoders_are_saved_under_their_published_names(folders, tmp_path) -> None:
    for kind, parts in (("sd1", ["text_encoder"]), ("sdxl", ["text_encoder", "text_encoder_2"])):
        for _ in range(2):
            # What was written before is replaced.
            export(find_model(str(folders[kind])), tmp_path / kind)
        for part in parts:
            names = set(load_file(tmp_path / kind / part / "model.safetensors"))
            assert "text_model.embeddings.token_embedding.weight" in names
            assert {name.split(".")[0] for name in names} <= {"text_model", "text_projection"}
        assert ("text_projection.weight" in names) == (kind == "sdxl")
        before, after = (load_pipeline(find_model(str(folder))) for folder in (folders[kind], tmp_path / kind))
        assert same_weights(before, after)


def test_conversion_of_a_pickle_works(files, tmp_path) -> None:
    callbacks = {Callback: Callback(), "trap": [1, {"a": Callback()}]}
    torch.save({"state_dict": load_file(files["sd1"]), "global_step": 7, "callbacks": callbacks}, tmp_path / "m.ckpt")
    with pytest.raises(ModelError) as refused:
        find_model(str(tmp_path / "m.ckpt"))
    converted(refused)
    assert find_model(str(tmp_path / "m.safetensors")).file is not None and Callback.made == 0
    assert set(load_file(tmp_path / "m.safetensors")) == set(load_file(files["sd1"]))


def test_conversion_runs_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TRAPPED", str(tmp_path / "trapped"))
    for name, legacy in (("new", False), ("old", True)):
        file = tmp_path / f"{name}.ckpt"
        weights = {"weight": torch.ones(2), "trap": Trap()}
        torch.save(weights, file, _use_new_zipfile_serialization=not legacy)
        assert convert(file, tmp_path / f"{name}.safetensors") == 1
        assert torch.equal(load_file(tmp_path / f"{name}.safetensors")["weight"], torch.ones(2))
    assert not (tmp_path / "trapped").exists()
    (tmp_path / "no.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match="cannot be read as a checkpoint"):
        convert(tmp_path / "no.ckpt", tmp_path / "no.safetensors")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "program.pt")
    with pytest.raises(ModelError, match="is a TorchScript program"):
        convert(tmp_path / "program.pt", tmp_path / "no.safetensors")
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(ModelError, match="holds no tensors"):
        convert(tmp_path / "list.ckpt", tmp_path / "no.safetensors")
    assert not (tmp_path / "no.safetensors").exists()


def test_pickled_parts_of_a_folder_are_found_once_converted(folders, tmp_path) -> None:
    base = tmp_path / "base"
    shutil.copytree(folders["sd1"], base)
    for part, name in (("text_encoder", "pytorch_model.bin"), ("unet", "diffusion_pytorch_model.bin")):
        (weights,) = (base / part).glob("*.safetensors")
        torch.save(load_file(weights), base / part / name)
        weights.unlink()
    for _ in range(2):
        with pytest.raises(ModelError, match="holds pickled weights") as refused:
            find_model(str(base))
        converted(refused)
    assert same_weights(load_pipeline(find_model(str(base))), load_pipeline(find_model(str(folders["sd1"]))))


@FAST_FOR_XL
def test_delta_goes_on_any_copy_of_its_base(kind: str, pipelines, files, folders, tmp_path) -> None:
    unet = pipelines[kind].unet
    edited = {name: value + 0.01 for name, value in unet.named_parameters() if name in trainable_names(unet, "xattn")}
    delta = tmp_path / "delta.safetensors"
    assert save_delta(delta, unet, edited, {}) == len(edited)
    export(find_model(str(folders[kind])), tmp_path / "folder", delta=delta)
    export(find_model(str(files[kind])), tmp_path / "file.safetensors", delta=delta)
    first, second = (load_pipeline(find_model(str(tmp_path / name))) for name in ("folder", "file.safetensors"))
    assert same_weights(first, second)
    for name, value in first.unet.state_dict().items():
        assert torch.equal(value, edited.get(name, unet.state_dict()[name]))
    half = copy.deepcopy(unet).half()
    assert weights_hash(half) == weights_hash(unet)
    apply_delta(half, delta)
    with pytest.raises(DeltaError, match="made from a UNet with the hash"):
        apply_delta(first.unet, delta)
    with pytest.raises(DeltaError, match="is not a delta"):
        apply_delta(first.unet, tmp_path / "folder" / "model_index.json")


def test_licence_and_base_travel_with_every_format(folders, tmp_path) -> None:
    """From a base whose card and licence are written as the hub's are, through a delta, a single file and a folder."""
    base = tmp_path / "base"
    shutil.copytree(folders["sd1"], base)
    card = "---\nlicense: creativeml-openrail-m\nbase_model: somebody/else\n---\n# A model\n"
    (base / "README.md").write_text(card)
    (base / "LICENSE.md").write_text("Use-based restrictions apply.")
    unet = load_pipeline(find_model(str(base))).unet
    known = {"base_model": str(base), "base_model_hash": model_hash(base), "base_unet_hash": weights_hash(unet)}
    own = origin_of(base, str(base), known["base_model_hash"], known["base_unet_hash"])
    assert own == Origin(
        "creativeml-openrail-m", **known, license_files={"LICENSE.md": "Use-based restrictions apply."}
    )

    edited = {name: value + 0.01 for name, value in unet.named_parameters() if ".attn2.to_k" in name}
    save_delta(tmp_path / "delta.safetensors", unet, edited, own.without("taxi", "uce").header)
    export(find_model(str(base)), tmp_path / "one.safetensors", delta=tmp_path / "delta.safetensors")
    export(find_model(str(tmp_path / "one.safetensors")), tmp_path / "folder", precision="fp16")
    wanted = own.without("taxi", "uce")
    for found in (
        read_header(tmp_path / "delta.safetensors"),
        read_header(tmp_path / "one.safetensors"),
        origin_of(tmp_path / "folder", "", "", ""),
    ):
        assert found == wanted
    assert "license: creativeml-openrail-m" in (tmp_path / "folder" / "README.md").read_text()
    assert wanted.without("bus", "esd").erased_concepts == "taxi, bus"
    assert origin_of(folders["sd1"], "m", "h", "u") == Origin("unknown", "m", "h", "u")
    assert all(any(fnmatch.fnmatch(name, pattern) for pattern in HUB_FILES) for name in ("README.md", "LICENSE.md"))


def test_trained_weights_have_the_same_names_everywhere(pipelines) -> None:
    for which in CHOICES:
        for kind in KINDS:
            names = trainable_names(pipelines[kind].unet, which)
            attends = [".attn2." in name for name in names]
            assert all(attends) if which.startswith("xattn") else any(attends) == (which == "full")
    assert not any("add_embedding" in name for name in trainable_names(pipelines["sdxl"].unet, "xattn"))
    assert any("add_embedding" in name for name in trainable_names(pipelines["sdxl"].unet, "noxattn"))


def inputs(pipeline, method: Method):
    prompts = ["taxi", "a taxi"]
    concept = ErasedConcept("taxi", prompts, encode(pipeline, prompts), WORDS, encode(pipeline, WORDS), [[1], [2]])
    spec = make_spec({"name": "x", "concepts": ["taxi"], "output": "-", "method": method.model_dump()})
    return pipeline.unet, pipeline.scheduler, [concept], conditions_of(spec, pipeline), method


@pytest.mark.parametrize("name", methods.names())
def test_every_method_takes_steps_on_sdxl(name: str, pipelines) -> None:
    own = {"words": ["bus"]} if name == "fixed" else {}
    method = Method(name=name, **own)
    training = Training(
        **{"steps": 2, "batch_size": 1, "latent_steps": 2, "trajectories": 1, "learning_rate": 1e-3}
        | ({"trainable": "xattn-strict"} if methods.solves(methods.load(name)) else {})
    )
    unet = pipelines["sdxl"].unet
    weights = train(*inputs(pipelines["sdxl"], method), training, seed=0)
    original = unet.state_dict()
    assert list(weights) == trainable_names(unet, training.trainable)
    assert any(not torch.equal(value, original[layer]) for layer, value in weights.items())
    assert all(torch.isfinite(value).all() for value in weights.values())


@pytest.mark.parametrize("weighting", ["epsilon", "clean"])
def test_losses_of_a_v_prediction_model_by_hand(weighting: str, pipelines) -> None:
    """L1 with its negative-guidance target in float64, from the formulas of ε and z_0 by v."""
    pipeline = pipelines["sd2"]
    rng = generator(1)
    z, t = torch.randn(3, 4, 8, 8, generator=rng), torch.tensor([1, 401, 999])
    outputs = [torch.randn(3, 4, 8, 8, generator=rng) for _ in range(3)]

    def predicted(velocity: torch.Tensor) -> torch.Tensor:
        def unet(*_: object, **__: object):
            return diffusers.models.unets.unet_2d_condition.UNet2DConditionOutput(velocity)

        return noise_predictor(unet, pipeline.scheduler)(z, t, torch.zeros(3, 77, 32))

    edited, concept, neutral = (predicted(velocity) for velocity in outputs)
    settings = Method(name="adversarial", negative_guidance=2.0, weighting=weighting).settings
    distance = distance_at(loss_weights(weighting, alphas_cumprod(pipeline.scheduler)), {"erased": t})
    frozen = {"erased": concept, "neutral@erased": neutral}
    found = methods.load("adversarial").erasing_loss({"erased": edited}, frozen, settings, distance)

    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    bar = torch.cumprod(1 - betas, 0)[t].reshape(-1, 1, 1, 1)
    z, (of_edited, of_concept, of_neutral) = z.double(), [velocity.double() for velocity in outputs]
    if weighting == "epsilon":
        by = lambda v: bar.sqrt() * v + (1 - bar).sqrt() * z  # noqa: E731
    else:
        by = lambda v: bar.sqrt() * z - (1 - bar).sqrt() * v  # noqa: E731
    target = by(of_neutral) - 2.0 * (by(of_concept) - by(of_neutral))
    assert float(found) == pytest.approx(float((by(of_edited) - target).square().mean()), rel=1e-4)
