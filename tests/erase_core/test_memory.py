"""What memory a run needs: counted by hand on small graphs, and the published sizes of the real models."""

from __future__ import annotations

import fnmatch
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub.errors import HFValidationError
from safetensors.torch import save_file
from torch._subclasses.fake_tensor import FakeTensorMode
from typer.testing import CliRunner

from benchmarks import memory
from erase_core.disk import Kept, disk_forecast
from erase_core.files import write_json
from erase_core.memory import (
    Alive,
    Forecast,
    Moment,
    bytes_of,
    images_forecast,
    parts_of,
    shortage,
    training_forecast,
)
from erase_core.memory_scoring import attacks_forecast, comparing_bytes, scores_forecast
from erase_core.metrics import inception, lpips
from erase_core.models.origin import Origin
from erase_core.models.pipeline import load_pipeline
from erase_core.models.published import configs, write_configs
from erase_core.models.single_file import write_checkpoint
from erase_core.models.source import WEIGHTS, ModelError, find_model
from erase_core.planning import Plan, alike, plan, seconds_before
from erase_core.spec import Spec, make_spec
from erase_core.spec_yaml import load_spec
from flows.command import app
from tests.tiny import tiny_configs, tiny_folder_of

GIB = 2**30
PARAMETERS = {
    "sd1": {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863},
    "sdxl": {"unet": 2_567_463_684, "text_encoder_2": 694_659_840},
}
"""As the published weights have them."""


@pytest.fixture(scope="module")
def sd1(tmp_path_factory) -> Path:
    """Stable Diffusion 1.x of small sizes and few layers, in configurations alone."""
    folder = tmp_path_factory.mktemp("tiny") / "sd1"
    few = {
        "block_out_channels": [32, 64],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    }
    write_configs(folder, tiny_configs("sd1", **few))
    return folder


@pytest.fixture(scope="module")
def plans() -> dict[str, Plan]:
    """What was planned here, by spec without its name and output."""
    return {}


@pytest.fixture
def planned_once(plans, monkeypatch) -> None:
    """The command plans what this module has planned before no second time."""

    def once(spec: Spec, import_flow) -> Plan:
        asked = spec.model_dump_json(exclude={"name", "output"})
        if asked not in plans:
            plans[asked] = plan(spec, import_flow)
        return replace(plans[asked], seconds=seconds_before(spec))

    monkeypatch.setattr("erase_core.planning.plan", once)


def spec_of(method: str | dict = "adversarial", **training) -> Spec:
    return make_spec(
        {"name": "m", "concepts": ["taxi"], "output": "-", "method": method, "training": {"batch_size": 4, **training}}
    )


def step(folder: Path, **training) -> dict[str, int]:
    moments = training_forecast(spec_of(**training), folder, libraries=0).moments
    return next(moment.parts for moment in moments if moment.name == "a step")


def test_alive_counts_what_is_referred_to() -> None:
    """On a CPU small tensors count double, or as often as is told, large ones once."""
    with Alive() as alive:
        made = [torch.zeros(1000), torch.zeros(300_000)]
        assert alive.now == 2 * made[0].nbytes + made[1].nbytes
    with Alive(pieces=1) as alive:
        first = torch.zeros(1000)
        second = first + 1
        view = second.view(10, 100)
        assert alive.now == 8000
        del first
        assert alive.now == 4000
        third = view * 2
        del second
        assert alive.now == 8000 and alive.most == 8000
        del view, third
    assert alive.now == 0


def test_alive_in_a_backward_pass() -> None:
    """y = (x w).exp().sum(): the product and its exponential are kept for the backward pass."""
    x, w = torch.ones(500), torch.ones(500, requires_grad=True)
    with Alive([x, w], pieces=1) as alive:
        loss = (x * w).exp().sum()
        kept = alive.now
        loss.backward()
    assert kept == 4 * 500 + 4
    assert w.grad.nbytes <= alive.now <= alive.most


@pytest.mark.parametrize("kind", PARAMETERS)
def test_published_sizes(kind: str, tmp_path: Path) -> None:
    write_configs(tmp_path, configs(kind))
    with FakeTensorMode():
        parts = parts_of(tmp_path)
        for name, count in PARAMETERS[kind].items():
            assert sum(parameter.numel() for parameter in parts[name].parameters()) == count
    assert bytes_of(parts["unet"]) == 4 * PARAMETERS[kind]["unet"]


def test_what_each_setting_saves(sd1: Path) -> None:
    plain = step(sd1)
    assert plain["Adam's moments"] == 2 * plain["trained weights"] == 2 * plain["gradients"]
    assert step(sd1, gradient_checkpointing=True)["activations"] < plain["activations"] / 2
    half = step(sd1, precision="bf16", frozen_precision="bf16")
    assert half["weights of θ"] == plain["weights of θ"] / 2 and half["trained weights"] == plain["trained weights"]
    shared = step(sd1, zero_stage=2, processes=4)
    assert shared["Adam's moments"] == plain["Adam's moments"] // 4 and shared["gradients"] == plain["gradients"] // 4
    assert shared["activations"] < plain["activations"] / 2
    assert step(sd1, trainable="xattn-strict")["trained weights"] < plain["trained weights"]


def test_zero_3_keeps_what_is_used_again_soon(sd1: Path, monkeypatch) -> None:
    """A rank's half of the weights, and those gathered ones that are met twice within DeepSpeed's distance."""
    monkeypatch.setattr("erase_core.memory.SMALL", 0)
    parted = step(sd1, zero_stage=3, processes=2)
    whole = parted["weights of θ"]
    assert parted["trained weights"] == whole // 2 + whole
    monkeypatch.setattr("erase_core.memory.REUSED", whole // 4)
    assert step(sd1, zero_stage=3, processes=2)["trained weights"] == pytest.approx(whole, rel=1e-5)
    monkeypatch.setattr("erase_core.memory.SMALL", 2**40)
    assert step(sd1, zero_stage=3, processes=2)["trained weights"] == pytest.approx(whole / 2 + 4 * whole / 2, rel=1e-5)


def test_closed_forms_keep_no_activations(sd1: Path) -> None:
    forecast = training_forecast(spec_of("uce"), sd1, libraries=GIB)
    assert [moment.name for moment in forecast.moments] == ["loading", "solving"]
    assert forecast.peak.name == "loading" and forecast.peak.parts["libraries"] == GIB


def test_rivals_are_measured_together_and_share_the_ranks(sd1: Path, monkeypatch) -> None:
    monkeypatch.setattr("erase_core.memory.SMALL", 0)

    def measuring(method: dict, **training) -> list[int]:
        moments = training_forecast(spec_of(method, **training), sd1, libraries=0).moments
        return [moment.parts["activations"] for moment in moments if moment.name == "the measuring of rivals"]

    (few,) = measuring({"name": "adversarial", "rivals": 2})
    (many,) = measuring({"name": "adversarial", "rivals": 8})
    (shared,) = measuring({"name": "adversarial", "rivals": 8}, processes=4)
    assert many == pytest.approx(4 * few, rel=0.05) and shared == few
    assert measuring({"name": "adversarial", "search": "gradient"}) == []


def test_what_is_sampled_together(sd1: Path, monkeypatch) -> None:
    """A bank's trajectories under three conditions; fresh latents of a rank's samples, or of their rivals, under two."""
    monkeypatch.setattr("erase_core.memory.SMALL", 0)
    gradient = {"name": "adversarial", "search": "gradient"}

    def sampling(method: dict = gradient, **training) -> int:
        moments = training_forecast(spec_of(method, **training), sd1, libraries=0).moments
        return next(m.parts["activations"] for m in moments if m.name == "sampling of latents")

    bank = sampling(trajectories=4)
    assert sampling(trajectories=4, batch_size=32, processes=2) == bank
    assert sampling(latents="fresh", batch_size=6) == sampling(latents="fresh", batch_size=12, processes=2) == bank
    assert sampling({"name": "adversarial", "rivals": 3}, latents="fresh", batch_size=2) == bank


def test_images_grow_with_the_batch(sd1: Path, monkeypatch) -> None:
    monkeypatch.setattr("erase_core.memory.SMALL", 0)

    def activations(count: int) -> int:
        spec = make_spec({"name": "m", "concepts": ["taxi"], "output": "-", "generation": {"batch_size": count}})
        return images_forecast(spec, sd1, libraries=0).moments[1].parts["activations"]

    assert activations(8) == pytest.approx(4 * activations(2), rel=0.05)


def test_images_count_no_more_than_are_wanted(sd1: Path, monkeypatch) -> None:
    monkeypatch.setattr("erase_core.memory.SMALL", 0)

    def activations(count: int, **scoring) -> int:
        generation = {"batch_size": count, "seeds": [0, 1], "prompts": ["a {concept}"]}
        own = {"concepts": ["taxi"], "generation": generation, "scoring": scoring}
        return images_forecast(make_spec({"name": "m", "output": "-", **own}), sd1, 0).moments[1].parts["activations"]

    assert activations(64, preserved=[]) == activations(2)
    assert activations(64, preserved=["bus"]) == activations(4) < activations(64)


def test_what_scores_is_counted(sd1: Path, monkeypatch, tmp_path: Path) -> None:
    """By hand, from the files' sizes: the included judges and CLIP lie there in fp16, and are loaded in fp32."""
    monkeypatch.setattr("erase_core.memory.SMALL", 0)
    own = {"name": "m", "concepts": ["taxi"], "output": "-"}
    (one,) = {
        moment.name: moment for moment in scores_forecast(make_spec(own), sd1, 0).moments if "CLIP" in moment.name
    }.values()
    for name, folder in {"judge": "concept_judge", "judge of styles": "style_judge", "CLIP": "clip"}.items():
        stored = sum(file.stat().st_size for file in (WEIGHTS / folder).glob("*.safetensors"))
        assert one.parts[name] == pytest.approx(2 * stored, rel=0.05)
    few = make_spec({**own, "scoring": {"preserved": []}, "generation": {"seeds": [0]}})
    assert scores_forecast(few, sd1, 0).peak.total < scores_forecast(make_spec(own), sd1, 0).peak.total
    judge = {"judge": str(WEIGHTS / "clip"), "clip": str(WEIGHTS / "clip")}
    both = scores_forecast(make_spec({**own, "scoring": judge}), sd1, 0)
    assert [moment.name for moment in both.moments] == ["the judge at work"]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("net", lpips.LAYERS)
def test_what_lpips_makes_is_counted(net: str, suffix: str, sd1: Path, tmp_path: Path) -> None:
    """As a real pass makes it, of images of the model's size; of those of 16² AlexNet's pools would leave nothing."""
    file = tmp_path / f"{net}{suffix}"
    weights = {f"features.{name}": value for name, value in lpips.features_of(net).state_dict().items()}
    (save_file if suffix == ".safetensors" else torch.save)(weights, file)
    model = sd1 if net == "vgg" else WEIGHTS / "pipeline"
    scoring = {"metrics": ["lpips"], "lpips_backbone": str(file), "preserved": [], "processes": 2}
    own = {"name": "m", "concepts": ["taxi"], "output": "-", "generation": {"seeds": [0, 1, 2]}}
    (alone,) = scores_forecast(make_spec({**own, "scoring": scoring}), model, GIB).moments
    assert alone.name == "LPIPS at work" and list(alone.parts) == ["libraries", "LPIPS", "activations"]
    assert alone.parts["LPIPS"] == file.stat().st_size
    made = lpips.Lpips(file)
    first, second = np.zeros((2, 3, *([16] * 2 if net == "vgg" else [64] * 2), 3), np.uint8)
    with Alive((*made.features.parameters(), *made.linear.values())) as alive:
        made.distance(first, second)
    assert alone.parts["activations"] == pytest.approx(alive.most, rel=0.02)


@pytest.mark.parametrize("side", [64, 256, 512, 768, 1024])
def test_lpips_makes_no_more_of_large_images(side: int) -> None:
    with FakeTensorMode():
        assert comparing_bytes("vgg", 256, (side, side)) < 1.5 * GIB


def test_a_backbone_that_cannot_be_read_is_told(sd1: Path, tmp_path: Path) -> None:
    own = {"name": "m", "concepts": ["taxi"], "output": "-"}
    for name in ("vgg.pth", "vgg.safetensors"):
        (tmp_path / name).write_bytes(b"0" * 1000)
        scoring = {"metrics": ["lpips"], "lpips_backbone": str(tmp_path / name)}
        with pytest.raises(ModelError, match=f"scoring.lpips_backbone: cannot read .*{name}'; give a file of weights"):
            scores_forecast(make_spec({**own, "scoring": scoring}), sd1, 0)


def test_what_inception_makes_is_counted(sd1: Path, tmp_path: Path) -> None:
    """As a real pass makes it; where real pictures are compared with, of a whole batch of them."""
    network = inception.inception_v3()
    torch.save(network.state_dict(), tmp_path / "inception.pth")
    scoring = {"metrics": ["fid"], "features": str(tmp_path / "inception.pth"), "preserved": []}
    own = {"name": "m", "concepts": ["taxi"], "output": "-", "generation": {"seeds": [0, 1]}}
    (alone,) = scores_forecast(make_spec({**own, "scoring": scoring}), sd1, 0).moments
    made = inception.InceptionFeatures(tmp_path / "inception.pth")
    with Alive((*made.network.parameters(), *made.network.buffers())) as alive:
        made.images(np.zeros((2, 16, 16, 3), np.uint8))
    assert alone.name == "Inception at work" and alone.parts["activations"] == pytest.approx(alive.most, rel=0.02)
    real = {**scoring, "reference": str(tmp_path)}
    (compared,) = scores_forecast(make_spec({**own, "scoring": real}), sd1, 0).moments
    assert compared.parts["activations"] > 10 * alone.parts["activations"]


def test_attacks_are_counted(sd1: Path, monkeypatch) -> None:
    monkeypatch.setattr("erase_core.memory.SMALL", 0)
    run = ["seeds", "inversion", {"name": "soft-prompt", "batch_size": 1}, "discrete-prompt", "fine-tuning-unrelated"]
    tuning = {"name": "fine-tuning-related", "trainable": "xattn"}
    spec = make_spec({"name": "m", "concepts": ["taxi"], "output": "-", "attacks": {"run": [*run, tuning]}})
    found = {moment.name: moment.parts for moment in attacks_forecast(spec, sd1, GIB).moments}
    assert list(found) == [attack.name for attack in spec.attacks.run]
    assert {parts["libraries"] for parts in found.values()} == {GIB} and "CLIP" not in found["seeds"]
    assert found["inversion"] == found["discrete-prompt"]
    few, whole = found["fine-tuning-related"], found["fine-tuning-unrelated"]
    assert few["Adam's moments"] == 2 * few["trained weights"] < whole["Adam's moments"]
    with FakeTensorMode():
        assert whole["trained weights"] == bytes_of(parts_of(sd1)["unet"])


def test_disk_by_place(sd1: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("car\nbus\ntree\n")
    own = {"name": "m", "concepts": ["taxi"], "output": "-", "generation": {"seeds": [0, 1]}}
    given = {
        **own,
        "vocabulary": {"source": str(tmp_path / "words.txt"), "top_k": 2},
        "scoring": {"preserved": ["bus"]},
    }
    found = {kept.what: kept.places for kept in disk_forecast(make_spec(given), sd1)}
    with FakeTensorMode():
        model = sum(map(bytes_of, parts_of(sd1).values()))
    assert found["the erased model, in fp32"] == {"results": model, "MLflow": model}
    assert set(found["images of both models, at most"].values()) == {2 * 4 * 3 * 16**2}
    assert found["prompt embeddings"] == {"caches": 3 * 77 * 32 * 2}
    few = make_spec({**given, "vocabulary": {**given["vocabulary"], "similarity": "pooled", "top_k": 1}})
    assert {kept.what: kept.places for kept in disk_forecast(few, sd1)}["prompt embeddings"] == {
        "caches": 3 * 32 * 2 + 77 * 32 * 2
    }
    assert found["latents of all runs, at most"] == {"caches": 8 * GIB}
    fresh = make_spec({**given, "model": "a/b", "training": {"latents": "fresh"}})
    assert [kept.what for kept in disk_forecast(fresh, sd1)][-1] == "the model itself, in fp32"
    assert "latents of all runs, at most" not in [kept.what for kept in disk_forecast(fresh, sd1)]


def test_disk_of_attacks(sd1: Path) -> None:
    """By hand: what each draws on both models, without the controls that the original is spared."""
    run = [
        {"name": "seeds", "budgets": [1, 5]},
        {"name": "sdedit", "budgets": [0.5, 0.9], "images": 3},
        {"name": "inversion", "budgets": [0, 2, 4], "images": 2},
    ]
    own = {"name": "m", "output": "-", "concepts": ["taxi", "cat"]}
    spec = make_spec({**own, "attacks": {"run": run, "references": 7}})
    found = {kept.what: kept.places for kept in disk_forecast(spec, sd1)}
    attempts = 2 * (3 * 5 + 3 * 6 + 2 * 6 + 2) * 3 * 16**2
    assert found["images of the attacks, at most"] == dict.fromkeys(("results", "caches", "MLflow"), attempts)
    assert found["images that attackers have, at most"] == {"caches": 2 * 3 * 7 * 3 * 16**2}
    assert not any("attack" in kept.what for kept in disk_forecast(make_spec(own), sd1))


def test_lists_that_are_alike_are_planned_once() -> None:
    own = {"name": "m", "output": "-"}
    specs = {
        "a": make_spec({**own, "concepts": ["taxi"], "seed": 1}),
        "b": make_spec({**own, "concepts": ["rose"], "output": "b"}),
        "c": make_spec({**own, "concepts": ["rose", "taxi"]}),
        "d": make_spec({**own, "concepts": ["rose"], "training": {"batch_size": 8}}),
    }
    assert alike(specs) == [["a", "b"], ["c"], ["d"]]


@pytest.mark.parametrize("kind", ["sd1", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_single_file_is_planned_from_its_header(kind: str, tmp_path: Path, monkeypatch) -> None:
    folder = tiny_folder_of(kind, tmp_path / kind)
    file = tmp_path / "m.safetensors"
    write_checkpoint(load_pipeline(find_model(str(folder))), file, Origin())
    monkeypatch.setattr("erase_core.models.single_file.produce", lambda *_: pytest.fail("the file was converted"))

    def planned(model: Path) -> list[dict]:
        found = plan(make_spec({"name": "m", "model": str(model), "concepts": ["taxi"], "output": "-"})).forecasts
        parts = [moment.parts for forecast in found for moment in forecast.moments]
        return [{name: size for name, size in of.items() if name != "libraries"} for of in parts]

    assert planned(file) == planned(folder)


def test_other_pipelines_are_refused(tmp_path: Path, monkeypatch) -> None:
    """Of a hub model that is told by its configurations; what the hub says is told as it is."""
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    (tmp_path / "spec.yaml").write_text("name: m\nmodel: somebody/model\nconcepts: [taxi]\noutput: out\n")

    def refused(download, message: str) -> None:
        monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(tmp_path / "model_index.json"))
        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        monkeypatch.setattr("erase_core.hub.resolved", {})
        monkeypatch.setattr("flows.command.plan.read_spec", load_spec)
        ran = CliRunner().invoke(app, ["plan", str(tmp_path / "spec.yaml")])
        assert ran.exit_code == 2 and message in ran.output

    def absent(*_, **__):
        raise HFValidationError("a name too long")

    refused(lambda *_, **__: str(tmp_path), "model: 'somebody/model' is a FluxPipeline; give a Stable")
    refused(absent, "model: cannot fetch somebody/model from the hub: a name too long")


def test_plan_says_it_and_writes_nothing(planned_once, tmp_path: Path) -> None:
    spec, out = tmp_path / "spec.yaml", tmp_path / "out"
    spec.write_text(f"name: planned\nconcepts: [taxi]\noutput: {out}\ntraining: {{processes: 2}}\n")
    told = CliRunner().invoke(app, ["plan", str(spec)])
    assert told.exit_code == 0, told.output
    assert "training, each of 2 ranks" in told.output and "for all 2" in told.output
    found = json.loads(CliRunner().invoke(app, ["plan", str(spec), "--json"]).stdout)
    assert found["training"]["ranks"] == 2 and 0.2 < found["training"]["peak_gib"] < 3
    assert found["scores"]["peak_gib"] > 0 and "attacks" not in found and found["seconds"] == {}
    assert found["disk"]["the erased model, in fp32"]["MLflow"] > 0.05
    assert not out.exists()


A_RUN_S = {"keys": {}, "seed": 0, "spec": {}}
"""What tells a run's summary from another program's file of that name, beside its seconds."""


def test_plan_says_what_may_be_wrong_and_how_long_it_took(tmp_path: Path) -> None:
    spec, out = tmp_path / "spec.yaml", tmp_path / "out"
    spec.write_text(
        f"name: planned\nconcepts: [taxi]\noutput: {out}\ngate: {{min_esr_1: 1}}\nattacks: {{run: [seeds]}}\n"
    )
    out.mkdir()
    write_json(out / "summary.json", {**A_RUN_S, "name": "planned", "seconds": {"training": 30.2, "scores": 4.4}})
    ran = CliRunner().invoke(app, ["plan", str(spec)])
    assert ran.exit_code == 0 and "gate: bounds nothing that is to be preserved" in ran.stderr
    assert "attacks:" in ran.stdout and "disk:" in ran.stdout
    assert "time: 35 s, as the run in its output took: training 30 s, scores 4 s." in ran.stdout


def test_the_time_of_another_run_in_the_same_output_is_not_told(tmp_path: Path) -> None:
    spec = make_spec({"name": "m", "concepts": ["taxi"], "output": str(tmp_path)})
    assert seconds_before(spec) == {}
    for name, seconds in (("other", {}), ("m", {"training": 2.5})):
        write_json(tmp_path / "summary.json", {"name": name, "seconds": {"training": 2.5}})
        assert seconds_before(spec) == seconds


def test_plan_of_a_batch(planned_once, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(f"name: planned\noutput: {tmp_path / 'out'}\n")
    (tmp_path / "lists.csv").write_text("list,concept\na,taxi\nb,rose\nc,cat\nc,dog\n")
    (tmp_path / "out" / "b").mkdir(parents=True)
    write_json(
        tmp_path / "out" / "b" / "summary.json", {**A_RUN_S, "name": "planned - b", "seconds": {"training": 30.2}}
    )
    planned = ["plan", str(tmp_path / "spec.yaml"), "--lists", str(tmp_path / "lists.csv")]
    ran = CliRunner().invoke(app, planned)
    assert ran.exit_code == 0, ran.output
    assert [line for line in ran.stdout.splitlines() if not line.startswith("  ")] == [
        "a, b", "c", "time: 1 of 3 lists ran before, 30 s in all.",
    ]  # fmt: skip
    assert ran.stdout.count("  training: ") == 2 and ran.stdout.count("  disk: ") == 2
    (tmp_path / "lists.csv").write_text("list,concept\na,taxi\nb,rose\n")
    (found,) = json.loads(CliRunner().invoke(app, [*planned, "--json"]).stdout)
    assert found["lists"] == ["a", "b"] and found["training"]["peak_gib"] > 0.1
    (tmp_path / "lists.csv").write_text("list,concept\na,\n")
    assert CliRunner().invoke(app, planned).exit_code == 2


def test_plan_warns_of_an_accelerator_that_is_too_small(tmp_path: Path, monkeypatch) -> None:
    large, small = (
        Forecast(stage, 1, [Moment("a step", {"weights": n * GIB})]) for stage, n in (("training", 30), ("images", 9))
    )
    assert shortage(large) == ""
    devices = [SimpleNamespace(name="Big", total_memory=80 * GIB), SimpleNamespace(name="Small", total_memory=24 * GIB)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", devices.__getitem__)
    assert shortage(small) == ""
    kept = [Kept("the erased model, in fp32", {"results": 0, "MLflow": 0})]
    monkeypatch.setattr("erase_core.planning.plan", lambda *_: Plan([large, small], kept, {}))
    (tmp_path / "spec.yaml").write_text(f"name: planned\nconcepts: [taxi]\noutput: {tmp_path / 'out'}\n")
    for options in ([], ["--json"]):
        ran = CliRunner().invoke(app, ["plan", str(tmp_path / "spec.yaml"), *options])
        assert ran.exit_code == 0
        assert ran.stderr == shortage(large) + "\n" and "training: needs 30.0 GiB, and Small has 24.0 GiB" in ran.stderr


def test_the_page_is_what_the_benchmark_writes(tmp_path: Path, monkeypatch) -> None:
    shipped = memory.PAGE.read_text()
    monkeypatch.setattr(memory, "PAGE", tmp_path / "memory.md")
    memory.write_page(json.loads(memory.RESULTS.read_text()))
    assert memory.PAGE.read_text() == shipped


def test_hub_models_and_older_folders_are_planned(tmp_path: Path, monkeypatch) -> None:
    """A tokenizer of two text files, and a feature extractor whose class is gone, as Stable Diffusion 1.4 has them."""
    model = tiny_folder_of("sd1", tmp_path / "model")
    tokenizer = model / "tokenizer"
    found = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    (tokenizer / "vocab.json").write_text(json.dumps(found["vocab"]))
    (tokenizer / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in found["merges"])]))
    (tokenizer / "tokenizer.json").unlink()
    index = json.loads((model / "model_index.json").read_text())
    index["feature_extractor"] = ["transformers", "CLIPFeatureExtractor"]
    (model / "model_index.json").write_text(json.dumps(index))

    def download(name: str, allow_patterns: list[str], **_) -> str:
        """What the hub would send of `model`."""
        for file in (path for path in model.rglob("*") if path.is_file()):
            own = file.relative_to(model).as_posix()
            if any(fnmatch.fnmatch(own, pattern) for pattern in allow_patterns):
                (tmp_path / "hub" / own).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, tmp_path / "hub" / own)
        return str(tmp_path / "hub")

    monkeypatch.setattr("erase_core.hub.resolved", {})
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(model / "model_index.json"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    spec = make_spec({"name": "m", "model": "somebody/model", "concepts": ["taxi"], "output": "-"})
    assert [forecast.stage for forecast in plan(spec).forecasts] == ["training", "images", "scores"]
    assert not list((tmp_path / "hub").rglob("*.safetensors"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_step_of_the_full_configuration_takes_what_was_planned(tmp_path: Path) -> None:
    """Stable Diffusion 1.4 with random weights: one step of the training, in a rank of its own."""
    model, changes = memory.CASES["Stable Diffusion 1.4, cross-attention"]
    spec = memory.spec_of(model, changes, tmp_path)
    planned, held = memory.forecast(spec, "training"), memory.measured(spec, "training")
    print(f"planned {planned:.2f} GiB, held {held:.2f} GiB")
    assert held < 20 and planned == pytest.approx(held, rel=0.15)
