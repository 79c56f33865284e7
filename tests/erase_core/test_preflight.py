"""What cannot come to an end is refused at the start: by the files that a spec names, here and on the hub."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, HTTPError, RemoteEntryNotFoundError, RepositoryNotFoundError
from PIL import Image
from transformers import AutoTokenizer

from erase_core.files import write_json
from erase_core.gate import Gate
from erase_core.models.source import WEIGHTS, ModelSource, find_model
from erase_core.preflight import check, check_hub, check_measurable
from erase_core.preflight_prompts import most_tokens, tokenizer_in, tokenizers_of
from erase_core.spec import Spec, make_spec
from erase_core.spec_errors import SpecError
from erase_core.spec_yaml import load_spec, parse_spec
from tests.command import erase


def spec_with(folder: Path, **given) -> Spec:
    return make_spec({"name": "x", "concepts": ["taxi"], "output": str(folder / "o"), **given})


def refused(spec: Spec, checked=check) -> str:
    with pytest.raises(SpecError) as caught:
        checked(spec)
    return str(caught.value)


@pytest.fixture
def scorers(tmp_path: Path):
    """Copies of the included judge and CLIP, without the content of their weights."""

    def copied(name: str) -> Path:
        shutil.copytree(WEIGHTS / name, tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors"))
        if name == "concept_judge":
            (tmp_path / name / "model.safetensors").touch()
        return tmp_path / name

    return copied


LACKING = {
    "a judge's weights": ("judge", "concept_judge", "model.safetensors", "has no model.safetensors; give a folder"),
    "a CLIP's weights": ("clip", "clip", "model.safetensors.index.json", "has no model.safetensors; give a folder"),
    "a judge's processor": ("judge", "concept_judge", "preprocessor_config.json", "has no preprocessor_config.json, which"),
    "a CLIP's processor": ("clip", "clip", "preprocessor_config.json", "has no preprocessor_config.json, which"),
    "a CLIP's tokenizer": ("clip", "clip", "tokenizer.json", "has no tokenizer.json; put"),
}  # fmt: skip


@pytest.mark.parametrize(("field", "name", "file", "message"), LACKING.values(), ids=LACKING)
def test_a_judge_or_clip_that_lacks_a_file(field: str, name: str, file: str, message: str, scorers, tmp_path) -> None:
    folder = scorers(name)
    spec = spec_with(tmp_path, scoring={field: str(folder), "metrics": ["erasure", "clip_score"]})
    check(spec)
    (folder / file).unlink()
    assert f"scoring.{field}: '{folder}' {message}" in refused(spec)


def test_a_judge_s_pickle_is_to_be_converted(scorers, tmp_path: Path) -> None:
    folder = scorers("concept_judge")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "convert it once: erase convert" in refused(spec_with(tmp_path, scoring={"judge": str(folder)}))


def test_a_judge_whose_file_says_that_it_prepares_images_otherwise(scorers, tmp_path: Path) -> None:
    folder = scorers("concept_judge")
    spec, own = spec_with(tmp_path, scoring={"judge": str(folder)}), folder / "preprocessor_config.json"
    told = json.loads(own.read_text())
    write_json(own, {**told, "resample": 0})
    assert "preprocessor_config.json: resample 0 should be one of [2, 3]" in refused(spec)
    write_json(own, {**told, "size": {"height": 64, "width": 96}})
    assert "size {'height': 64, 'width': 96} should be a shortest_edge" in refused(spec)
    own.write_text("{")
    assert "is not readable as JSON" in refused(spec)
    own.unlink()
    write_json(folder / "processor_config.json", {"image_processor": told})
    check(spec)


def test_a_clip_that_is_none(scorers, tmp_path: Path) -> None:
    folder = scorers("concept_judge")
    assert "; give a CLIP's folder or hub id" in refused(spec_with(tmp_path, scoring={"clip": str(folder)}))


@pytest.mark.parametrize("field", ["reference", "images"])
def test_a_picture_that_cannot_be_opened(field: str, tmp_path: Path) -> None:
    pictures = tmp_path / "p"
    pictures.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(pictures / name)
    part = "scoring" if field == "reference" else "attacks"
    spec = spec_with(tmp_path, **{part: {field: str(pictures)}})
    check(spec)
    (pictures / "b.png").write_bytes(b"no picture")
    assert f"{part}.{field}: cannot open the picture {pictures / 'b.png'}" in refused(spec)


def test_each_of_several_concepts_has_a_folder_of_pictures(tmp_path: Path) -> None:
    for word in ("taxi", "cat"):
        (tmp_path / "p" / word).mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "p" / "taxi" / "a.png")
    several = {"concepts": ["taxi", "cat", "rose"], "attacks": {"images": str(tmp_path / "p")}}
    told = refused(spec_with(tmp_path, **several))
    assert [line.split(" is not")[0] for line in told.splitlines()] == [
        f"attacks.images: {str(tmp_path / 'p' / word)!r}" for word in ("cat", "rose")
    ]
    assert "put images of 'rose' there" in told
    for word in ("cat", "rose"):
        (tmp_path / "p" / word).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "p" / word / "a.png")
    check(spec_with(tmp_path, **several))
    (tmp_path / "p" / "rose" / "a.png").write_bytes(b"no picture")
    assert "attacks.images: cannot open the picture" in refused(spec_with(tmp_path, **several))


HTTP = {"response": SimpleNamespace(headers={}, status_code=404, request=None, url="")}
WHOLE = ["unet/a.safetensors", "vae/a.safetensors", "text_encoder/model.safetensors"]


@pytest.fixture
def hub(monkeypatch, tmp_path: Path):
    """A hub of the files that are put in it, {repository: {name: content}}; counts what is asked of it."""
    repositories: dict[str, dict] = {}
    asked: list[tuple] = []

    def download(place: str, file: str, repo_type: str = "model", revision: str | None = None) -> str:
        asked.append((place, file))
        if place not in repositories:
            raise RepositoryNotFoundError("404", **HTTP)
        if repositories[place] is None:
            raise GatedRepoError("403", **HTTP)
        if file not in repositories[place]:
            raise RemoteEntryNotFoundError("404", **HTTP)
        kept = tmp_path / "hub" / place / file
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(repositories[place][file])
        return str(kept)

    def info(self, place: str, revision: str, timeout: float) -> SimpleNamespace:
        asked.append((place, None))
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in repositories[place]])

    monkeypatch.setattr("erase_core.hub.resolved", {})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    return SimpleNamespace(put=repositories.__setitem__, asked=asked)


def pipeline_of(kind: str, files: list[str] = WHOLE) -> dict[str, bytes]:
    texts = {"model_index.json": {"_class_name": kind}, "scheduler/scheduler_config.json": {}}
    return {name: json.dumps(text).encode() for name, text in texts.items()} | dict.fromkeys(files, b"")


ON_HUB = {
    "there": (pipeline_of("StableDiffusionPipeline"), None),
    "another kind": (
        pipeline_of("FluxPipeline"),
        "model: 'a/b' is a FluxPipeline; give a StableDiffusionPipeline or a",
    ),
    "pickles": (
        pipeline_of("StableDiffusionPipeline", [*WHOLE[1:], "unet/diffusion_pytorch_model.bin"]),
        "model: 'a/b' has no safetensors in full precision in unet/ on the hub",
    ),
    "half precision": (
        pipeline_of("StableDiffusionPipeline", [*WHOLE[1:], "unet/a.fp16.safetensors"]),
        "model: 'a/b' has no safetensors in full precision in unet/ on the hub",
    ),
    "no pipeline": ({"config.json": b"{}"}, "model: a/b has no model_index.json on the hub"),
    "terms": (None, "model: a/b is given on the hub to those who accept its terms"),
}


@pytest.mark.parametrize(("files", "message"), ON_HUB.values(), ids=ON_HUB)
def test_a_model_on_the_hub(files: dict | None, message: str | None, hub, tmp_path: Path) -> None:
    spec = spec_with(tmp_path, model="a/b")
    hub.put("a/b", files)
    check(spec)
    if message is None:
        check_hub(spec)
    else:
        assert message in refused(spec, check_hub)
    assert not [file for _, file in hub.asked if file and file.endswith(".safetensors")]


def test_a_full_disk_is_not_the_hub_s_fault(hub, monkeypatch, tmp_path: Path) -> None:
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        check_hub(spec_with(tmp_path, model="a/b"))
    assert caught.value.errno == errno.ENOSPC


def test_more_steps_than_the_schedule_of_a_model_on_the_hub_has(hub, tmp_path: Path) -> None:
    spec = spec_with(tmp_path, model="a/b", generation={"steps": 40})
    hub.put("a/b", pipeline_of("StableDiffusionPipeline"))
    check_hub(spec)
    hub.put(
        "a/b",
        pipeline_of("StableDiffusionPipeline") | {"scheduler/scheduler_config.json": b'{"num_train_timesteps": 60}'},
    )
    assert "generation.steps: 40 strides of" in refused(spec, check_hub)


@pytest.mark.parametrize("error", [OSError("offline"), HTTPError("no route")])
def test_a_model_that_is_in_the_cache_and_a_hub_that_is_away(
    error: Exception, hub, monkeypatch, tmp_path: Path
) -> None:
    def away(*_, **__):
        raise error

    hub.put("a/b", pipeline_of("StableDiffusionPipeline", []))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", away)
    check_hub(spec_with(tmp_path, model="a/b"))


@pytest.mark.parametrize("field", ["model", "scoring.judge", "scoring.clip"])
def test_neither_a_folder_nor_on_the_hub(field: str, hub, tmp_path: Path) -> None:
    given = {"model": "a/b"} if field == "model" else {"scoring": {field.split(".")[1]: "a/b"}}
    message = f"{field}: neither is there such a folder here, nor a model a/b on the hub; check the path or the name"
    assert refused(spec_with(tmp_path, **given), check_hub) == message


def test_a_folder_shaped_as_a_hub_id(monkeypatch, tmp_path: Path) -> None:
    """It is what would be loaded, so it is what is checked."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "scoring.judge: 'a/b' has no config.json" in refused(spec_with(tmp_path, scoring={"judge": "a/b"}))


def test_prompt_files_on_the_hub(hub, tiny_folder: Path, tmp_path: Path) -> None:
    files = {"prompt_files": ["a/b/p.csv.gz"]}
    spec = spec_with(tmp_path, model=str(tiny_folder), generation=files, scoring={"metrics": ["image_distance"]})
    check(spec)
    assert "generation.prompt_files.0.file: neither is there such a file here, nor a dataset a/b on" in refused(
        spec, check_hub
    )
    hub.put("a/b", {})
    assert "generation.prompt_files.0.file: a/b has no p.csv.gz on the hub" in refused(spec, check_hub)
    hub.put("a/b", {"p.csv.gz": gzip.compress(b"prompt,label_str\na bus,bus\n")})
    assert "generation.prompt_files: no prompt shows taxi" in refused(spec, check_hub)
    hub.put("a/b", {"p.csv.gz": gzip.compress(b"prompt,label_str\na taxi,taxi\n")})
    check_hub(spec)


def test_what_lists_have_in_common_is_asked_for_once(hub, tmp_path: Path) -> None:
    hub.put("a/b", pipeline_of("StableDiffusionPipeline"))
    config = {"config.json": json.dumps({"id2label": {"0": "taxi", "1": "bus"}}).encode()}
    hub.put("a/judge", {**config, "model.safetensors": b""})
    given = {"model": "a/b", "scoring": {"judge": "a/judge", "metrics": ["erasure"]}}
    specs = [spec_with(tmp_path, **given, concepts=[word], name=f"b - {word}") for word in ("taxi", "bus", "boat")]
    check_hub(*specs[:2])
    assert sorted(hub.asked, key=str) == [
        ("a/b", "model_index.json"), ("a/b", "scheduler/scheduler_config.json"), ("a/b", None),
        ("a/judge", "config.json"), ("a/judge", None),
    ]  # fmt: skip
    with pytest.raises(SpecError, match="b - boat: concepts.0.concept: the judge a/judge has no class 'boat'"):
        check_hub(*specs)


def test_a_scorer_on_the_hub_without_safetensors(hub, tmp_path: Path) -> None:
    """Said before the training, whose end its weights would be fetched at."""
    hub.put("a/b", {"config.json": b'{"model_type": "clip"}', "pytorch_model.bin": b""})
    told = refused(spec_with(tmp_path, scoring={"clip": "a/b"}), check_hub)
    assert told.startswith("scoring.clip: a/b has no model.safetensors on the hub; give a revision that has")
    hub.put("a/b", {"config.json": b'{"transformers_weights": "own.safetensors"}', "own.safetensors": b""})
    check_hub(spec_with(tmp_path, scoring={"clip": "a/b"}))


def test_every_concept_that_the_included_judge_does_not_know_is_named(tmp_path: Path) -> None:
    told = refused(spec_with(tmp_path, concepts=["zeppelin", "taxi", "glockenspiel"])).splitlines()
    assert [line.partition(" is not")[0] for line in told] == [
        "concepts.0.concept: 'zeppelin'", "concepts.2.concept: 'glockenspiel'",
    ]  # fmt: skip


def test_nothing_is_asked_of_the_hub_for_what_is_here(hub, tmp_path: Path) -> None:
    check_hub(spec_with(tmp_path))
    assert not hub.asked


LONG = "a very small and quite old but still shiny and well kept and loved photograph that shows the "


@pytest.mark.parametrize(
    ("given", "field", "text"),
    [
        (
            {"generation": {"prompts": ["a {concept}", LONG * 2 + "{concept}"]}},
            "generation.prompts.1",
            LONG * 2 + "taxi",
        ),
        ({"concepts": [{"concept": "taxi", "prompts": [(LONG * 2)[:190]]}]}, "concepts.0.prompts.0.prompt", LONG),
        ({"concepts": [{"concept": "taxi", "synonyms": ["taxi " * 38]}]}, "concepts.0.synonyms.0", "taxi taxi"),
    ],
    ids=["a template", "a prompt", "a name"],
)
def test_a_prompt_that_would_be_cut(given: dict, field: str, text: str, tmp_path: Path) -> None:
    complaint = refused(spec_with(tmp_path, **given))
    assert (
        complaint.startswith(f"{field}: '{text}")
        and "tokens with its two ends, and the model's text encoder reads 32" in complaint
    )


def test_a_long_prompt_of_a_model_that_reads_more(tiny_folder: Path, tmp_path: Path) -> None:
    given = {"model": str(tiny_folder), "generation": {"prompts": [LONG * 2 + "{concept}"]}}
    check(spec_with(tmp_path, **given))
    shutil.copytree(tiny_folder, tmp_path / "m")
    config = tmp_path / "m" / "text_encoder" / "config.json"
    write_json(config, {**json.loads(config.read_text()), "max_position_embeddings": 38})
    assert "has 39 tokens" in refused(spec_with(tmp_path, **{**given, "model": str(tmp_path / "m")}))


def test_tokens_are_counted_as_transformers_does(tmp_path: Path) -> None:
    """From CLIP's older files too, and never are there more than the bound that spares a tokenizer."""
    folder = WEIGHTS / "pipeline" / "tokenizer"
    own, told = AutoTokenizer.from_pretrained(folder), json.loads((folder / "tokenizer.json").read_text())["model"]
    write_json(tmp_path / "vocab.json", told["vocab"])
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in told["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    for text in ("a photo of a taxi", "zxqj 12345 !?;", "Ünïcödé İstanbul's 出租车", "don't <|endoftext|>", LONG):
        count = len(own(text).input_ids)
        assert [len(tokenizer_in(of).encode(text).ids) for of in (folder, tmp_path)] == [count, count]
        assert most_tokens(text) >= count


def test_how_much_a_model_s_text_encoders_read(tmp_path: Path) -> None:
    assert [context for _, context in tokenizers_of(find_model("emoji-world"))] == [32]
    assert [context for _, context in tokenizers_of(ModelSource("m", file=tmp_path / "m.safetensors"))] == [77]
    assert not [*tokenizers_of(ModelSource("a/b"))]


HOMES = {
    "output": {"output": "~/o"},
    "vocabulary.source": {"vocabulary": {"source": "~/o"}},
    **{f"scoring.{name}": {"scoring": {name: "~/o"}} for name in ("judge", "clip", "features", "lpips_backbone", "reference")},
    "attacks.images": {"attacks": {"images": "~/o"}},
    "training.hostfile": {"training": {"hostfile": "~/o"}},
    "generation.prompt_files.0.file": {"generation": {"prompt_files": ["~/o"]}},
}  # fmt: skip


@pytest.mark.parametrize(("field", "given"), HOMES.items(), ids=HOMES)
def test_a_user_s_home(field: str, given: dict, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    for written, read in (("~/o", "/home/somebody/o"), ("./x/../~o", "./x/../~o")):
        value = json.loads(json.dumps(given).replace("~/o", written))
        found = spec_with(tmp_path, **value).model_dump()
        for part in field.split("."):
            found = found[int(part) if part.isdigit() else part]
        assert found == read
    value = json.loads(json.dumps(given).replace("~/o", "~nobody-at-all/o"))
    with pytest.raises(SpecError, match=f"{field}: '~nobody-at-all/o' begins with the home of nobody here"):
        spec_with(tmp_path, **value)


def test_a_user_s_home_in_a_batch_s_own_output(monkeypatch, tmp_path: Path) -> None:
    from erase_core.batch import read_specs

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "s.yaml").write_text("name: b\noutput: ~/o\n")
    (tmp_path / "l.csv").write_text("list,concept\ncars,taxi\n")
    base, specs, _ = read_specs(tmp_path / "s.yaml", tmp_path / "l.csv")
    assert base["output"] == str(tmp_path / "o") and specs["cars"].output == str(tmp_path / "o" / "cars")


UNREADABLE = {
    "output": ({"output": "@/o"}, "output: cannot read '@/o"),
    "vocabulary": ({"vocabulary": {"source": "@/w.txt"}}, "vocabulary.source: cannot read @/w.txt"),
    "judge": ({"scoring": {"judge": "@/judge"}}, "scoring.judge: cannot read '@/judge"),
    "prompts": ({"generation": {"prompt_files": ["@/p.csv"]}}, "generation.prompt_files.0.file: cannot read '@/p.csv"),
}


@pytest.mark.parametrize(("given", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_path_that_the_system_refuses(given: dict, message: str, tmp_path: Path) -> None:
    """Its name is too long, which even an administrator is told; a folder that may not be searched is told the same way."""
    place = f"{tmp_path}/{'n' * 300}"
    complaint = refused(spec_with(tmp_path, **json.loads(json.dumps(given).replace("@", place))))
    assert message.replace("@", place) in complaint and "check its name and its permissions" in complaint


def test_a_spec_that_cannot_be_read(monkeypatch, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read: File name too long; check its name"):
        load_spec(tmp_path / ("n" * 300))

    def denied(*_, **__):
        raise PermissionError(13, os.strerror(13))

    (tmp_path / "s.yaml").touch()
    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(
        SpecError, match="s.yaml: cannot be read: Permission denied; check its name and its permissions"
    ):
        load_spec(tmp_path / "s.yaml")


@pytest.mark.parametrize("text", ["2024-13-45", "1" * 5000])
def test_what_looks_like_a_date_or_a_number(text: str) -> None:
    with pytest.raises(SpecError, match="not readable as YAML: line 2: '.* cannot be read: .*; put it in quotes"):
        parse_spec(f"concepts: [taxi]\nname: {text}\noutput: o")


def test_a_judge_that_knows_nothing_that_is_preserved(scorers, tiny_folder: Path, tmp_path: Path) -> None:
    folder = scorers("concept_judge")
    write_json(folder / "config.json", {"id2label": {"0": "taxi", "1": "school bus", "2": "boat"}})
    given = {"model": str(tiny_folder)}
    for preserved, fine in ((["bus", "tram"], False), (["bus", "boat"], True), ([], True)):
        scoring = {"judge": str(folder), "preserved": preserved, "metrics": ["erasure"]}
        spec = spec_with(tmp_path, **given, scoring=scoring)
        if fine:
            check(spec)
        else:
            assert f"scoring.preserved: the judge {folder} has no class for any of bus, tram, so there" in refused(spec)
    check(spec_with(tmp_path, **given, scoring={**scoring, "preserved": ["bus"], "metrics": ["image_distance"]}))


@pytest.mark.parametrize("place", ["folder", "hub"])
def test_a_gate_on_psr_that_no_nearest_word_can_be_judged_for(place: str, scorers, hub, tiny_folder, tmp_path) -> None:
    """Words that are nearest are known when the vocabulary is; no word of it need be a class of the judge."""
    labels, judge = {"id2label": {"0": "taxi", "1": "school bus"}}, "a/judge"
    hub.put("a/judge", {"config.json": json.dumps(labels).encode()})
    if place == "folder":
        judge = str(scorers("concept_judge"))
        write_json(Path(judge) / "config.json", labels)
    given = {"model": str(tiny_folder), "gate": {"min_esr_1": 0.5, "max_psr_1_drop": 0.1}}
    spec = spec_with(tmp_path, **given, scoring={"judge": judge, "metrics": ["erasure"]})
    check(spec)
    with pytest.raises(
        ValueError, match="scoring.preserved: the judge .*judge has no class for any of cab, tram, so there"
    ) as told:
        check_measurable(spec, {"taxi": "erased", "cab": "preserved", "tram": "preserved"})
    assert "leave out gate.max_psr_1_drop, or another judge" in str(told.value)
    check_measurable(spec, {"taxi": "erased", "cab": "preserved", "school bus": "preserved"})
    with pytest.raises(ValueError, match="scoring.preserved: nothing is scored as preserved, so gate.max_psr_1_drop"):
        check_measurable(spec, {"taxi": "erased", "coco": "general"})
    check_measurable(spec.model_copy(update={"gate": Gate(min_esr_1=0.5)}), {"taxi": "erased", "cab": "preserved"})


def test_a_gate_that_no_run_could_measure(tiny_folder: Path, tmp_path: Path) -> None:
    """Without a CLIP the distance of images is one of pixels; of five classes the five likeliest are all."""
    spec = spec_with(tmp_path, model=str(tiny_folder), gate={"max_clip_distance_preserved": 0.2})
    assert "scoring.clip: is needed for gate.max_clip_distance_preserved on this model" in refused(spec)
    spec = spec_with(tmp_path, concepts=["noto"], gate={"min_esr_5": 0.9})
    assert "gate.min_esr_5: the judge has 5 classes or fewer" in refused(spec)
    check(spec_with(tmp_path, concepts=["taxi"], gate={"min_esr_5": 0.9}))


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "EDMEulerScheduler"},
        {"_class_name": "FlowMatchEulerDiscreteScheduler"},
        {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True},
        {"_class_name": "DDIMScheduler", "prediction_type": "flow_prediction"},
    ],
)
def test_a_model_with_other_noise(config: dict, tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "model")
    write_json(tmp_path / "model" / "scheduler" / "scheduler_config.json", config)
    assert f"model: its scheduler is a {config['_class_name']} that predicts" in refused(
        spec_with(tmp_path, model=str(tmp_path / "model"))
    )


def test_a_gate_on_what_is_not_drawn(tmp_path: Path) -> None:
    """General prompts have a CLIP score, and no distance of what is preserved."""
    drop, distance = ({"gate": {name: 0.1}} for name in ("max_clip_score_drop", "max_clip_distance_preserved"))
    for given, missing in ((drop, {"taxi": "erased"}), (distance, {"taxi": "erased", "coco": "general"})):
        with pytest.raises(ValueError, match=f"so gate.{next(iter(given['gate']))} could not be measured"):
            check_measurable(spec_with(tmp_path, **given), missing)
    check_measurable(spec_with(tmp_path, **drop), {"taxi": "erased", "coco": "general"})


def test_a_gate_on_psr_of_the_included_judges(tmp_path: Path) -> None:
    check_measurable(spec_with(tmp_path, gate={"max_psr_1_drop": 0.1}), {"taxi": "erased", "bus": "preserved"})


def test_a_batch_asks_the_hub_before_it_works(tmp_path: Path) -> None:
    """Here without a network: neither its folder is made, nor a run begun."""
    from flows.batch import batch

    scoring = "scoring: {judge: nobody/judge, metrics: [erasure]}"
    (tmp_path / "s.yaml").write_text(f"name: b\noutput: {tmp_path / 'o'}\n{scoring}\n")
    (tmp_path / "l.csv").write_text("list,concept\ncars,taxi\npets,cat\n")
    with pytest.raises(SpecError) as told:
        batch.fn(tmp_path / "s.yaml", tmp_path / "l.csv")
    lines = str(told.value).splitlines()
    assert [line.partition(": cannot fetch nobody/judge from the hub")[0] for line in lines] == [
        "b - cars: scoring.judge",
        "b - pets: scoring.judge",
    ]
    assert not (tmp_path / "o").exists()


def test_a_hub_that_is_away_is_no_mistake_of_the_spec(tmp_path: Path) -> None:
    """A closed port in its place: the run may be tried again, as 1 says, where 2 says that the spec is wrong."""
    (tmp_path / "s.yaml").write_text(f"name: s\nmodel: nobody/model\nconcepts: [taxi]\noutput: {tmp_path / 'o'}\n")
    ran = erase("run", str(tmp_path / "s.yaml"), HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path))
    assert ran.returncode == 1 and "HubAway: model: cannot fetch nobody/model from the hub" in ran.stderr, ran
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer/tokenizer_config.json", "{"),
        ("tokenizer/tokenizer_config.json", "[]"),
        ("scheduler/scheduler_config.json", "{"),
        ("text_encoder/config.json", "[]"),
    ],
)
def test_a_model_s_file_that_is_no_mapping_is_named(file: str, content: str, tiny_folder: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    (model / file).write_text(content)
    assert f"model: '{model / file}' is not readable as JSON" in refused(spec_with(tmp_path, model=str(model)))


@pytest.mark.parametrize(
    ("content", "told"),
    [("{", "' is not readable as JSON"), ("{}", " has no model.vocab of tokens; give a CLIP tokenizer's")],
)
def test_a_tokenizer_that_has_no_tokens_is_named(content: str, told: str, tiny_folder: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    (model / "tokenizer" / "tokenizer.json").write_text(content)
    line = refused(spec_with(tmp_path, model=str(model), vocabulary={"source": "clip-tokens"}))
    assert line.startswith("model: ") and f"{model / 'tokenizer' / 'tokenizer.json'}{told}" in line


@pytest.mark.parametrize("name", ["inversion", "soft-prompt", "discrete-prompt"])
def test_an_attack_s_tokens_fit_into_a_prompt(name: str, tmp_path: Path) -> None:
    def spec(tokens: int) -> Spec:
        return spec_with(tmp_path, attacks={"run": ["seeds", {"name": name, "tokens": tokens}]})

    check(spec(29))
    assert refused(spec(30)).startswith("attacks.run.1.tokens: 30 do not fit into a prompt, of whose tokens")


def test_a_tokenizer_without_a_longest_text_has_stable_diffusion_s(tiny_folder: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    write_json(model / "tokenizer" / "tokenizer_config.json", {"model_max_length": None})
    check(spec_with(tmp_path, model=str(model), scoring={"metrics": ["image_distance"]}))
