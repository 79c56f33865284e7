"""Every bad spec is refused with the field's name and the fix."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest

from erase_core.concepts.vocabulary import candidates, curate
from erase_core.emoji_world.labels import labels_of
from erase_core.files import write_json
from erase_core.models.export import export
from erase_core.models.source import find_model
from erase_core.preflight import check, check_hub
from erase_core.spec import json_schema, make_spec
from erase_core.spec_errors import SpecError
from erase_core.spec_yaml import load_spec, parse_spec

SMALLEST = "name: x\nconcepts: [taxi]\noutput: out\n"

BAD = {
    "unknown key": (SMALLEST + "colour: red", "colour: is not a key"),
    "unknown nested key": (SMALLEST + "training: {step: 3}", "training.step: is not a key"),
    "unknown method": (SMALLEST + "method: magic", "method.name: 'magic' is not a method"),
    "unknown method key": (
        SMALLEST + "method: {name: naive, temperature: 1.0}",
        "method.temperature: is not a parameter",
    ),
    "bad method key": (SMALLEST + "method: {temperature: -1}", "method.temperature: -1 should be greater than 0"),
    "missing method key": (SMALLEST + "method: fixed", "method.words: is missing"),
    "mixtures measured": (SMALLEST + "method: {gumbel: soft}", "use search: gradient"),
    "no concepts": ("name: x\nconcepts: []\noutput: o", "concepts: is empty"),
    "concepts missing": ("name: x\noutput: o", "concepts: is missing"),
    "not a list": ("name: x\nconcepts: taxi\noutput: o", "concepts: 'taxi' should be a list"),
    "a template that is no list": (
        SMALLEST + "generation: {prompts: 'a {concept}'}",
        "generation.prompts: 'a {concept}' should be a list; write [\"a {concept}\"]",
    ),
    "a word with a comma": ("name: x\nconcepts: Boston, Texas\noutput: o", 'write ["Boston, Texas"]'),
    "a mapping that is no list": (
        "name: x\nconcepts: {2024-01-02: a, b: 'c: d'}\noutput: o",
        'should be a list; write [{"b": "c: d"}]',
    ),
    "a number that is no list": (
        SMALLEST + "generation: {seeds: 3}",
        "generation.seeds: 3 should be a list; write [3]",
    ),
    "a list left empty": (SMALLEST + "generation: {prompt_files: }", "generation.prompt_files: is empty; give a value"),
    "a part left empty": (SMALLEST + "training:", "training: is empty; remove it or give a mapping of its keys"),
    "a method left empty": (SMALLEST + "method:", "method: is empty; remove it or give a method's name"),
    "a list of attacks": (
        SMALLEST + "attacks: [seeds]",
        "attacks: ['seeds'] should be a mapping of its keys, such as {run: [seeds]}",
    ),
    "a list of methods": (
        SMALLEST + "method: [naive]",
        "method: ['naive'] should be a method's name, or {name, and its parameters}",
    ),
    "a vocabulary's name": (
        SMALLEST + "vocabulary: english-3000",
        "vocabulary: 'english-3000' should be a mapping of its keys, such as {source: english-3000}",
    ),
    "a gate's number": (
        SMALLEST + "gate: 0.98",
        "gate: 0.98 should be a mapping of its keys, such as {min_esr_1: 0.98}",
    ),
    "a training's word": (SMALLEST + "training: fast", "training: 'fast' should be a mapping of its keys, such as"),
    "a number as a name": ("name: 5\nconcepts: [taxi]\noutput: o", "name: 5 is not text; put it in quotes"),
    "a number as a folder": ("name: x\nconcepts: [taxi]\noutput: 3", "output: 3 is not text; put it in quotes"),
    "a date as a name": ("name: 2024-01-02\nconcepts: [taxi]\noutput: o", "name: 2024-01-02 is not text; put it"),
    "a list as a name": ("name: [x]\nconcepts: [taxi]\noutput: o", "name: ['x'] is not text; write one in quotes"),
    "a name left empty": ("name:\nconcepts: [taxi]\noutput: o", "name: is empty; give a value"),
    "not a word": ("name: x\nconcepts: [3]\noutput: o", "concepts.0: 3 should be a word"),
    "twice": ("name: x\nconcepts: [taxi, {concept: bus, synonyms: [Taxi]}]\noutput: o", "taxi is given twice"),
    "negative": (SMALLEST + "training: {steps: -3}", "training.steps: -3 should be greater than 0"),
    "a seed beyond 64 bits": (
        SMALLEST + "generation: {seeds: [9223372036854775807, 9223372036854775808]}",
        "generation.seeds.1: 9223372036854775808 should be less than 9223372036854775808",
    ),
    "as many steps as timesteps": (
        SMALLEST + "generation: {steps: 1000}",
        "generation.steps: 1000 should be less than 1000",
    ),
    "latents from the middle of the schedule": (
        SMALLEST + "training: {latent_steps: 400}",
        "training.latent_steps: 400 strides of whole timesteps do not span the 1000 of the noise; use 450",
    ),
    "not a number": (SMALLEST + "training: {steps: many}", "training.steps: 'many' is not a whole number"),
    "quoted number": (SMALLEST + "training: {learning_rate: '1e-4'}", "training.learning_rate: '1e-4' is not a number"),
    "nan": (SMALLEST + "training: {learning_rate: .nan}", "training.learning_rate: nan should be a finite number"),
    "infinite": (SMALLEST + "generation: {guidance_scale: .inf}", "generation.guidance_scale: inf"),
    "boolean": (SMALLEST + "seed: true", "seed: True is not a whole number"),
    "also preserved": (SMALLEST + "scoring: {preserved: [Taxi]}", "Taxi is also to be preserved"),
    "also fixed": (SMALLEST + "method: {name: fixed, words: [taxi]}", "taxi is also to be preserved"),
    "fixed in the plural": (SMALLEST + "method: {name: fixed, words: [Taxis]}", "Taxis is also to be preserved"),
    "led to itself": (SMALLEST + "method: {name: naive, neutral: a red Taxi}", "method.neutral: taxi is to be erased"),
    "its own anchor": (SMALLEST + "method: {name: concept-ablation, anchor: taxi}", "method.anchor: taxi is to be"),
    "its own destination": (SMALLEST + "method: {name: uce, destination: taxi}", "method.destination: taxi is to be"),
    "long": (f"name: x\nconcepts: ['{'a' * 10_000}']\noutput: o", "concepts.0.concept: has 10000 characters"),
    "control": ('name: x\nconcepts: ["a\\u0007b"]\noutput: o', "concepts.0.concept: has control"),
    "right-to-left override": ('name: x\nconcepts: ["a\\u202eb"]\noutput: o', "concepts.0.concept: has control"),
    "emoji": ("name: x\nconcepts: [🚕]\noutput: o", "concepts.0.concept: has emoji"),
    "emoji in a word": ("name: x\nconcepts: [taxi 👍🏽]\noutput: o", "concepts.0.concept: has emoji"),
    "right-to-left text": ("name: x\nconcepts: [سيارة]\noutput: o", "concepts.0.concept: has right-to-left text"),
    "synonym": ("name: x\nconcepts: [{concept: taxi, synonyms: ['a\u200bb']}]\noutput: o", "synonyms.0: has control"),
    "surrogate": ('name: x\nconcepts: ["a\ud83d"]\noutput: o', "not readable as YAML"),
    "null": ('name: "x\u0000"\nconcepts: [taxi]\noutput: o', "not readable as YAML"),
    "bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "aliases (*name) are not allowed"),
    "merge key": ("a: &a {x: 1}\n<<: *a", "aliases (*name) are not allowed"),
    "separator": ("name: x\nconcepts: [../etc]\noutput: o", "concepts.0.concept: has a path separator"),
    "backslash": ("name: x\nconcepts: ['a\\b']\noutput: o", "concepts.0.concept: has a path separator"),
    "blank": ("name: x\nconcepts: [' ']\noutput: o", "concepts.0.concept: is empty"),
    "name": ("name: ../x\nconcepts: [taxi]\noutput: o", "name: '../x' may hold letters"),
    "neutral": (
        "name: x\nconcepts: [{concept: cab, prompts: [a cab, {prompt: a red cab, neutral: a red Cab}]}]\noutput: o",
        "concepts.0.prompts.1.neutral: cab is to be erased; write it without that",
    ),
    "prompt": (
        "name: x\nconcepts: [{concept: cab, prompts: [3]}]\noutput: o",
        "0.prompts.0: 3 should be a prompt in quotes",
    ),
    "prompt's key": (
        "name: x\nconcepts: [{concept: cab, prompts: [{prompt: a cab, left: a car}]}]\noutput: o",
        "concepts.0.prompts.0.left: is not a key here; the keys are prompt, neutral",
    ),
    "blank prompt": ("name: x\nconcepts: [{concept: cab, prompts: [' ']}]\noutput: o", "0.prompts.0.prompt: is empty"),
    "template": (SMALLEST + "generation: {prompts: [a taxi]}", "must hold {concept}"),
    "template braces": (SMALLEST + "generation: {prompts: ['{concept} {0}']}", "must hold {concept}"),
    "description": (
        SMALLEST + "scoring: {description: a painting}",
        "scoring.description: 'a painting' must hold {concept}",
    ),
    "unknown attack": (SMALLEST + "attacks: {run: [magic]}", "attacks.run.0.name: 'magic' is not an attack"),
    "unknown attack key": (
        SMALLEST + "attacks: {run: [{name: seeds, step: 3}]}",
        "attacks.run.0.step: is not a parameter",
    ),
    "seed twice": (SMALLEST + "generation: {seeds: [0, 1, 0]}", "generation.seeds: 0 is given twice; give it once"),
    "all": (
        SMALLEST + "scoring: {preserved: [All]}",
        "scoring.preserved.0: 'All' is what the scores call all concepts",
    ),
    "attack twice": (SMALLEST + "attacks: {run: [seeds, seeds]}", "attacks.run: seeds is given twice"),
    "not an attack": (SMALLEST + "attacks: {run: [3]}", "attacks.run.0: 3 should be an attack's name"),
    "unknown attacks key": (
        SMALLEST + "attacks: {names: []}",
        "attacks.names: is not a key here; the keys are run",
    ),
    "budgets": (SMALLEST + "attacks: {run: [{name: words, budgets: [8, 1]}]}", "attacks.run.0.budgets: must ascend"),
    "broken": ("name: [", "not readable as YAML"),
    "tag": ("name: !!python/object/apply:os.system [ls]", "tags (tag:yaml.org,2002:python/object/apply:os.system)"),
    "alias": ("a: &a [x]\nb: *a", "aliases (*name) are not allowed"),
    "repeated": ("name: x\nname: y", "line 2: name is given twice"),
    "repeated below": (SMALLEST + "training:\n  steps: 3\n  batch_size: 2\n  steps: 4", "line 7: steps is given twice"),
    "a list": ("- x", "must be a mapping"),
    "deep": ("[" * 5000, "not readable as YAML"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(text)
    assert message in str(caught.value)


FILES = {
    "top_k": ("vocabulary: {top_k: 9999}", "vocabulary.top_k: 9999 is larger than the vocabulary"),
    "source": ("vocabulary: {source: missing.csv}", "vocabulary.source: 'missing.csv' is neither"),
    "model": ("model: ./missing", "model: './missing' is not emoji-world"),
    "judge": ("scoring: {judge: ./missing}", "scoring.judge: './missing' has no config.json"),
    "unknown to the judge": ("scoring: {preserved: [happiness]}", "scoring.preserved: happiness is not a concept"),
    "lpips": ("scoring: {metrics: [lpips]}", "scoring.lpips_backbone: is needed for lpips; give a file"),
    "backbone": (
        "scoring: {metrics: [lpips], lpips_backbone: ./n.pth}",
        "scoring.lpips_backbone: './n.pth' is not a file",
    ),
    "features": (
        "scoring: {metrics: [fid], features: inception}",
        "scoring.features: 'inception' is not a file that ends",
    ),
    "reference": (
        "scoring: {metrics: [fid], reference: ./n}",
        "scoring.reference: './n' is not a folder of at least two",
    ),
    "attacks without a judge": (
        "attacks: {run: [seeds]}\nscoring: {metrics: [image_distance]}",
        "attacks: something must judge what they draw",
    ),
    "no images to attack with": ("attacks: {images: ./missing}", "attacks.images: './missing' is not a folder"),
    "covered": ("scoring: {preserved: [bus]}\nmethod: naive", None),
    "one image for KID": (
        "scoring: {preserved: [bus], metrics: [kid]}\ngeneration: {seeds: [0]}",
        "scoring.metrics: kid needs 2 or more images of preserved concepts, and 1 would be drawn; give more in scoring.preserved",
    ),
    "no image for CMMD": (
        "scoring: {preserved: [], metrics: [cmmd]}",
        "scoring.metrics: cmmd needs 1 or more images of preserved concepts, and 0 would be drawn",
    ),
    "two images for KID": ("scoring: {preserved: [bus], metrics: [kid, fid]}\ngeneration: {seeds: [0, 1]}", None),
    "one image for CMMD": ("scoring: {preserved: [bus], metrics: [cmmd]}\ngeneration: {seeds: [0]}", None),
    "images from the middle of the schedule": (
        "generation: {sampler: ddim, steps: 400}",
        "generation.steps: 400 strides of whole timesteps do not span the 1000 of the noise; use 450",
    ),
    "a sampler with a stride more": (
        "generation: {sampler: unipc, steps: 500}",
        "generation.steps: 500 strides of whole timesteps do not span the 1000 of the noise; use 499",
    ),
    "steps that divide the schedule": ("generation: {steps: 500}", None),
}


@pytest.mark.parametrize(("extra", "message"), FILES.values(), ids=FILES)
def test_checked_against_files(extra: str, message: str | None, tmp_path: Path) -> None:
    spec = parse_spec(f"name: x\nconcepts: [taxi]\noutput: {tmp_path / 'out'}\n{extra}")
    if message is None:
        check(spec)
        return
    with pytest.raises(SpecError) as caught:
        check(spec)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_all_that_is_wrong_is_told(tmp_path: Path) -> None:
    """Each once, also where several checks meet it; what hangs on a model or a judge that is wrong is not asked."""
    (tmp_path / "notes.txt").write_text("mine")
    text = (
        f"name: x\nconcepts: [happiness]\noutput: {tmp_path}\ntraining: {{hostfile: ./missing}}\n"
        "vocabulary: {top_k: 9999}\nscoring: {preserved: [sadness], lpips_backbone: ./n.pth, metrics: [erasure, lpips, kid]}"
    )
    with pytest.raises(SpecError) as caught:
        check(parse_spec(text))
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [
        "concepts.0.concept", "scoring.lpips_backbone", "scoring.preserved", "training.hostfile", "output",
        "vocabulary.top_k",
    ]  # fmt: skip
    with pytest.raises(SpecError) as caught:
        check(parse_spec(f"name: x\nconcepts: [taxi]\noutput: {tmp_path}\nmodel: ./no\nscoring: {{judge: ./none}}"))
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == ["model", "scoring.judge", "output"]


def test_every_concept_that_a_judge_does_not_know(tmp_path: Path, monkeypatch) -> None:
    """And nothing is asked of a judge whose package is missing."""
    text = f"name: x\nconcepts: [happiness, church, sadness]\noutput: {tmp_path / 'o'}\nscoring: {{judge: efficientnet-lite0}}"
    with pytest.raises(SpecError) as caught:
        check(parse_spec(text))
    found = [line.split(": ")[0] for line in str(caught.value).splitlines()]
    assert found == ["concepts.0.concept", "concepts.2.concept"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpecError) as caught:
        check(parse_spec(text))
    (line,) = str(caught.value).splitlines()
    assert line.startswith("scoring.judge: efficientnet-lite0 needs the package")


def test_images_of_words_that_are_not_known_yet(tiny_folder: Path, tmp_path: Path) -> None:
    """Two words may be preserved, and one certainly gives one image; general prompts are counted in their files."""
    text = f"name: x\nmodel: {tiny_folder}\nconcepts: [taxi]\noutput: {tmp_path / 'o'}\n"
    scored = "scoring: {metrics: [kid], clip: openai/clip-vit-base-patch32}\n"
    check(parse_spec(text + scored + "generation: {seeds: [0]}\nvocabulary: {top_k: 2}"))
    with pytest.raises(SpecError, match="kid needs 2 or more images of preserved concepts, and 1 would be drawn"):
        check(parse_spec(text + scored + "generation: {seeds: [0]}\nvocabulary: {top_k: 1}"))
    (tmp_path / "p.csv").write_text("prompt,concept\nA taxi.,taxi\n")
    (tmp_path / "g.csv").write_text("prompt,coco_id\nA dog.,1\nA cat.,2\n")
    files = f"generation: {{seeds: [0], prompt_files: [{tmp_path}/p.csv, {{file: {tmp_path}/g.csv, limit: %d}}]}}"
    check(parse_spec(text + scored + files % 2))
    with pytest.raises(SpecError, match="2 or more images of general prompts, and 1 .* in generation.prompt_files"):
        check(parse_spec(text + scored + files % 1))


def test_steps_of_a_model_with_another_schedule(tiny_folder: Path, tmp_path: Path) -> None:
    """Evenly from its end, any number of steps begins in noise; a shorter schedule has room for fewer."""
    shutil.copytree(tiny_folder, tmp_path / "model")
    spec = parse_spec(
        f"name: x\nmodel: {tmp_path / 'model'}\nconcepts: [taxi]\noutput: {tmp_path / 'o'}\n"
        "training: {latent_steps: 100}\ngeneration: {steps: 400}"
    )
    with pytest.raises(SpecError, match="generation.steps: 400 strides .* the 1000 of"):
        check(spec)
    file = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    write_json(file, {**config, "timestep_spacing": "trailing"})
    check(spec)
    write_json(file, {**config, "timestep_spacing": "trailing", "num_train_timesteps": 100})
    with pytest.raises(SpecError, match="training.latent_steps: 100 strides .* the 100 of the noise; use 99"):
        check(spec)


def test_steps_of_a_single_file(tiny_folder: Path, tmp_path: Path) -> None:
    """By the schedule that it was published with, or carries."""
    export(find_model(str(tiny_folder)), tmp_path / "m.safetensors")
    spec = parse_spec(
        f"name: x\nmodel: {tmp_path}/m.safetensors\nconcepts: [taxi]\noutput: {tmp_path / 'o'}\ngeneration: {{steps: 400}}"
    )
    with pytest.raises(SpecError, match="generation.steps: 400 strides .* the 1000 of"):
        check(spec)


def test_a_missing_package_is_named(monkeypatch, tmp_path: Path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nudenet" else found(name))
    spec = parse_spec(f"name: x\nconcepts: [taxi]\noutput: {tmp_path / 'o'}\nscoring: {{metrics: [nudity]}}")
    with pytest.raises(
        SpecError, match=r"scoring.metrics: nudity needs the package nudenet; pip install 'erase\[nudity\]'"
    ):
        check(spec)


@pytest.mark.parametrize("erased", ["vehicle", "cab"])
def test_a_name_covers_a_preserved_concept(tmp_path: Path, erased: str) -> None:
    text = f"name: x\nconcepts: [{erased}]\noutput: {tmp_path / 'o'}\nscoring: {{preserved: [taxi, apple]}}"
    with pytest.raises(SpecError, match="taxi is also to be preserved"):
        check(parse_spec(text))


def test_concept_the_judge_does_not_know(tmp_path: Path) -> None:
    spec = parse_spec(f"name: x\nconcepts: [happiness]\noutput: {tmp_path / 'o'}")
    with pytest.raises(SpecError, match="concepts.0.concept: 'happiness'"):
        check(spec)


def test_output_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    spec = parse_spec(f"name: x\nconcepts: [taxi]\noutput: {tmp_path}")
    with pytest.raises(SpecError, match="holds other files"):
        check(spec)


def test_output_that_another_program_wrote(tmp_path: Path) -> None:
    """It too may call a file summary.json."""
    (tmp_path / "summary.json").write_text('{"accuracy": 0.9}')
    (tmp_path / "model").mkdir()
    spec = parse_spec(f"name: x\nconcepts: [taxi]\noutput: {tmp_path}")
    with pytest.raises(SpecError, match="holds other files"):
        check(spec)
    (tmp_path / "summary.json").write_text('{"keys": {}, "seconds": {}, "seed": 0, "spec": {}}')
    check(spec)


def test_output_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SpecError, match="thesis.txt' is a file; name a folder that can be made"):
        check(parse_spec(f"name: x\nconcepts: [taxi]\noutput: {tmp_path}/thesis.txt/x/y"))


def test_no_pictures_to_attack_with(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("none yet")
    with pytest.raises(SpecError, match="is not a folder of pictures"):
        check(parse_spec(f"name: x\nconcepts: [taxi]\noutput: {tmp_path}/o\nattacks: {{images: {tmp_path}}}"))


HUB_JUDGE = (
    "name: x\nmodel: {model}\nconcepts: [{concept}]\noutput: {out}\nscoring: {{judge: owner/judge, metrics: [erasure]}}"
)


def test_a_judge_on_the_hub_is_looked_at_first(tmp_path: Path, tiny_folder: Path, monkeypatch) -> None:
    """Here without a network: a judge that cannot be had is refused, one that was fetched before is asked for its classes."""
    given = {"model": tiny_folder, "out": tmp_path / "o"}
    spec = parse_spec(HUB_JUDGE.format(concept="garbage truck", **given))
    check(spec)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("erase_core.hub.resolved", {})
    commit = "c0ffee" + "0" * 34
    with pytest.raises(SpecError, match="scoring.judge: cannot fetch owner/judge from the hub"):
        check_hub(spec)
    kept = tmp_path / "hub" / "models--owner--judge"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text(commit)
    write_json(kept / "snapshots" / commit / "config.json", {"id2label": {"0": "garbage truck, dustcart"}})
    (kept / "snapshots" / commit / "model.safetensors").touch()
    check_hub(spec)
    with pytest.raises(SpecError, match="concepts.0.concept: the judge owner/judge has no class 'zeppelin'"):
        check_hub(parse_spec(HUB_JUDGE.format(concept="zeppelin", **given)))


def test_output_that_leads_out_of_its_folder() -> None:
    with pytest.raises(SpecError, match="output: '../../etc' leads out of its own folder"):
        check(parse_spec("name: x\nconcepts: [taxi]\noutput: ../../etc"))


def test_pickled_model(tmp_path: Path) -> None:
    (tmp_path / "m" / "unet").mkdir(parents=True)
    (tmp_path / "m" / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    (tmp_path / "m" / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04")
    spec = parse_spec(f"name: x\nconcepts: [taxi]\nmodel: {tmp_path / 'm'}\noutput: {tmp_path / 'o'}")
    with pytest.raises(SpecError, match="pickled weights"):
        check(spec)


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_bytes(b"name: \xff")
    with pytest.raises(SpecError, match="not UTF-8"):
        load_spec(tmp_path / "s.yaml")


def test_defaults_and_numbers() -> None:
    spec = parse_spec(SMALLEST + "training: {learning_rate: 2e-4}\nmethod: {name: adversarial, preservation_weight: 2}")
    assert spec.training.learning_rate == 2e-4
    assert spec.method.settings.preservation_weight == 2
    assert spec.method.settings.temperature == 2
    assert spec.vocabulary_source == "emoji-world"
    assert spec.metrics == ["erasure", "clip_score", "image_distance"]
    assert parse_spec(SMALLEST + "model: ./else").vocabulary_source == "english-3000"


@pytest.mark.parametrize(
    ("given", "steps", "learning_rate"),
    [
        ("", 100, 1e-3),
        ("method: kpop", 100, 3e-4),
        ("method: age", 100, 2e-3),
        ("method: age\ntraining: {steps: 3}", 3, 2e-3),
        ("training: {steps: 200}", 200, 1e-3),
    ],
)
def test_a_method_s_own_defaults_give_way(given: str, steps: int, learning_rate: float) -> None:
    spec = parse_spec(SMALLEST + given)
    assert (spec.training.steps, spec.training.learning_rate) == (steps, learning_rate)
    again = parse_spec(json.dumps(spec.model_dump(mode="json", exclude_unset=True)))
    assert again == spec


def test_a_group_takes_its_members_with_it() -> None:
    """Nothing that only a weapon is called may be preserved while weapons are erased; what other things are called too may."""
    spec = make_spec({"name": "x", "concepts": ["weapon"], "output": "o"})
    assert {"weapon", "bomb", "sword", "knife", "gun", "pistol", "blade"} <= set(spec.erased_names)
    kept = {row.word for row in curate(candidates(spec.vocabulary_source, dict), spec.erased_names, []) if row.kept}
    assert not {word for word in kept if labels_of(word) and labels_of(word) <= labels_of("weapon")} and "tool" in kept
    assert make_spec({"name": "x", "concepts": ["taxi"], "output": "o"}).erased_names == ["taxi"]
    elsewhere = make_spec({"name": "x", "concepts": ["weapon"], "model": "some/model", "output": "o"})
    assert elsewhere.erased_names == ["weapon"]
    with pytest.raises(SpecError, match="sword is also to be preserved"):
        make_spec(
            {"name": "x", "concepts": ["weapon"], "method": {"name": "fixed", "words": ["sword", "car"]}, "output": "o"}
        )


def test_shipped_schema_is_current() -> None:
    shipped = Path(__file__).parents[2] / "docs" / "spec.schema.json"
    assert json.loads(shipped.read_text()) == json.loads(json.dumps(json_schema()))
