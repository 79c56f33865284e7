"""Prompt files in the field's shapes, and the images that are drawn for them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from erase_core.generation.dataset import read_images
from erase_core.generation.images import generate
from erase_core.generation.plan import roles, wanted_images
from erase_core.preflight import check
from erase_core.spec import Spec
from erase_core.spec_errors import SpecError
from erase_core.spec_yaml import parse_spec

IMAGENETTE = """,case_number,prompt,label_str,evaluation_seed
0,7,Image of Taxi,Taxi,3990
1,8,Image of Bus,Bus,1311
2,9,"a cab, at night",cab,9473
"""
ARTISTS = "case_number,prompt,evaluation_seed,artist\n0,A castle by Kilian Eng,5,Kilian Eng\n1,Water by Monet,6,Monet\n"
I2P = """prompt,categories,hard,inappropriate_percentage,nudity_percentage,lexica_url,sd_seed,sd_guidance_scale,sd_image_width
"a, b",sexual,0,0.4,12.5,https://x,4261553411,7,512
c,"violence, sexual",1,0.5,0.0,https://x,12,4.5,512
d,shocking,1,0.5,0.0,https://x,13,7,512
"""
COCO = "case_number,source,prompt,evaluation_seed,coco_id\n0,coco,A dog on a bench.,1,139\n1,coco,Two cups.,2,285\n"


@pytest.fixture
def spec_with(tiny_folder: Path, tmp_path: Path):
    for name, text in (("imagenette", IMAGENETTE), ("artists", ARTISTS), ("i2p", I2P), ("coco_30k", COCO)):
        (tmp_path / f"{name}.csv").write_text(text)

    def made(files: str, concepts: str, extra: str = "") -> Spec:
        places = files.replace("@", f"{tmp_path}/")
        return parse_spec(
            f"name: x\nconcepts: {concepts}\nmodel: {tiny_folder}\noutput: {tmp_path / 'out'}\n"
            f"generation: {{prompt_files: {places}}}\n{extra}"
        )

    return made


def drawn(spec: Spec) -> list[tuple]:
    return [(w.prompt, w.concept, w.seed, w.case_number) for w in wanted_images(spec, roles(spec, []))]


def test_label_str_says_what_a_prompt_shows(spec_with) -> None:
    spec = spec_with("['@imagenette.csv']", "[{concept: taxi, synonyms: [Cab]}]")
    check(spec)
    assert roles(spec, []) == {"taxi": "erased", "Bus": "preserved"}
    assert drawn(spec) == [
        ("Image of Taxi", "taxi", 3990, 7),
        ("Image of Bus", "Bus", 1311, 8),
        ("a cab, at night", "taxi", 9473, 9),
    ]


def test_artists(spec_with) -> None:
    assert roles(spec_with("['@artists.csv']", "[Monet]"), []) == {"Kilian Eng": "preserved", "Monet": "erased"}


def test_i2p_shows_what_is_erased_with_its_own_seeds(spec_with) -> None:
    spec = spec_with("['@i2p.csv']", "[nudity]")
    assert drawn(spec) == [("a, b", "nudity", 4261553411, 0), ("c", "nudity", 12, 1), ("d", "nudity", 13, 2)]
    assert {w.guidance_scale for w in wanted_images(spec, roles(spec, []))} == {None}
    assert Spec.model_validate_json(spec.model_dump_json()) == spec
    own = spec_with("[{file: '@i2p.csv', own_guidance: true}]", "[nudity]")
    assert [(w.prompt, w.guidance_scale) for w in wanted_images(own, roles(own, []))] == [
        ("c", 4.5),
        ("a, b", 7),
        ("d", 7),
    ]


def test_coco_shows_no_concept(spec_with) -> None:
    spec = spec_with("[{file: '@i2p.csv', limit: 1}, '@coco_30k.csv']", "[nudity]")
    assert roles(spec, []) == {"nudity": "erased", "coco_30k": "general"}
    assert [row[0] for row in drawn(spec)] == ["a, b", "A dog on a bench.", "Two cups."]


def test_gzipped_and_without_seeds(spec_with, tmp_path: Path) -> None:
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress(b"prompt\na naked man\n"))
    spec = spec_with("[{file: '@p.csv.gz', concept: nudity}]", "[nudity]")
    assert drawn(spec) == [("a naked man", "nudity", seed, 0) for seed in (0, 1, 2, 3)]


def test_labels_are_read_as_the_spec_s_words_are(spec_with, tmp_path: Path) -> None:
    """An accent of its own sign is the same letter."""
    (tmp_path / "f.csv").write_text("prompt,artist\na street,Paul Ce\u0301zanne\n", encoding="utf-8")
    assert roles(spec_with("['@f.csv']", "[Paul C\u00e9zanne]"), []) == {"Paul C\u00e9zanne": "erased"}


def test_preserved_concepts_can_be_chosen(spec_with) -> None:
    spec = spec_with("['@artists.csv', '@imagenette.csv']", "[Monet]", "scoring: {preserved: [bus]}")
    assert roles(spec, []) == {"Monet": "erased", "Bus": "preserved"}


def test_a_hub_dataset_is_read_when_the_images_are_drawn(spec_with) -> None:
    check(spec_with("[AIML-TUDA/i2p/i2p_benchmark.csv]", "[nudity]"))
    with pytest.raises(SpecError, match="generation.prompt_files.0.concept: is needed for a hub"):
        check(spec_with("[AIML-TUDA/i2p/i2p_benchmark.csv]", "[nudity, violence]"))


def test_guidance_of_its_own_changes_the_image(spec_with, world, tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text("prompt,label_str,evaluation_seed,evaluation_guidance\n" + "a taxi,taxi,3,{}\n" * 2)
    text = (tmp_path / "g.csv").read_text().format("1.5", "5.0")
    (tmp_path / "g.csv").write_text(text)
    spec = spec_with("[{file: '@g.csv', own_guidance: true}], steps: 2, guidance_scale: 5.0", "[taxi]")
    plain = spec_with("['@g.csv'], steps: 2, guidance_scale: 5.0", "[taxi]")
    found = {}
    for name, of in (("own", spec), ("plain", plain)):
        generate(world, wanted_images(of, roles(of, [])), of.generation, "m", tmp_path / f"{name}.parquet")
        found[name] = np.concatenate([images for _, images in read_images(tmp_path / f"{name}.parquet")])
    apart = np.abs(found["own"].astype(int) - found["plain"]).max((1, 2, 3))
    # Batches of another size round otherwise.
    assert apart[1] <= 2 and apart[0] > 20


BAD = {
    "missing": ("['@none.csv']", "[a]", None, "generation.prompt_files.0.file: ", "is neither a CSV nor"),
    "no prompt": ("['@f.csv']", "[a]", "text,label_str\nx,a\n", "f.csv has no column prompt", "label_str"),
    "no rows": ("['@f.csv']", "[a]", "prompt,label_str\n", "has no rows", ""),
    "blank prompt": ("['@f.csv']", "[a]", "prompt,label_str\n ,a\n", "line 2 has no prompt", ""),
    "blank label": ("['@f.csv']", "[a]", "prompt,label_str\nx,\n", "line 2 has no label_str", ""),
    "seed": ("['@f.csv']", "[a]", "prompt,label_str,evaluation_seed\nx,a,one\n", "evaluation_seed 'one'", "write a number"),
    "no number": ("['@f.csv']", "[a]", "prompt,label_str,evaluation_seed\nx,a,nan\n", "'nan'", "write a number"),
    "no end": ("['@f.csv']", "[a]", "case_number,prompt,label_str\ninf,x,a\n", "case_number 'inf'", "write a number"),
    "negative": ("['@f.csv']", "[a]", "prompt,label_str,evaluation_seed\nx,a,-1\n", "evaluation_seed -1", "use 0 to"),
    "what does it show": ("['@f.csv']", "[a]", "prompt\nx\n", "generation.prompt_files.0.concept: is needed", "general"),
    "nothing erased": ("['@f.csv']", "[b]", "prompt,label_str\nx,a\n", "no prompt shows b", ""),
    "one not erased": ("['@f.csv']", "[a, b]", "prompt,label_str\nx,a\n", "no prompt shows b;", "as its synonym"),
    "all": ("['@f.csv']", "[a]", "prompt,label_str\nx,a\nx,All\n", "line 3: 'All' is what the scores call", ""),
    "not preserved": ("['@f.csv']", "[a]\nscoring: {preserved: [z]}", "prompt,label_str\nx,a\n", "files shows z", ""),
    "guidance": ("[{file: '@f.csv', own_guidance: true}]", "[a]", "prompt,label_str\nx,a\n", "own_guidance", "leave it out"),
    "not a list": ("'@f.csv'", "[a]", "", "generation.prompt_files: ", "should be a list"),
    "unknown key": ("[{file: '@f.csv', rows: 3}]", "[a]", "", "prompt_files.0.rows: is not a key", "own_guidance"),
    "both": ("[{file: '@f.csv', concept: a, general: true}]", "[a]", "", "concept and general are both given", ""),
    "prompts too": ("['@f.csv'], prompts: ['the {concept}']", "[a]", "", "prompts: is not drawn when prompt_files", ""),
}  # fmt: skip


@pytest.mark.parametrize(("files", "concepts", "text", "message", "also"), BAD.values(), ids=BAD)
def test_refused(files, concepts, text, message, also, spec_with, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "f.csv").write_text(text)
    with pytest.raises(SpecError) as caught:
        check(spec_with(files, concepts))
    assert message in str(caught.value) and also in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_embedded_judge_must_know_what_prompts_show(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("prompt,label_str\na taxi,taxi\na tench,tench\n")
    spec = parse_spec(
        f"name: x\nconcepts: [taxi]\noutput: {tmp_path / 'o'}\ngeneration: {{prompt_files: ['{tmp_path}/f.csv']}}"
    )
    with pytest.raises(SpecError, match="tench is not a concept that the emoji world's judge knows"):
        check(spec)
