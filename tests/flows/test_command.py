"""The command: bad specs end it quickly, with the field's name, without a traceback, and with nothing written."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.command import erase

BAD = {
    "unknown method": ("name: x\nconcepts: [taxi]\noutput: {out}\nmethod: magic", "method.name"),
    "no concepts": ("name: x\nconcepts: []\noutput: {out}", "concepts"),
    "top_k": ("name: x\nconcepts: [taxi]\noutput: {out}\nvocabulary: {{top_k: 5000}}", "vocabulary.top_k"),
    "top_k of the tokens": (
        "name: x\nconcepts: [taxi]\noutput: {out}\nvocabulary: {{source: clip-tokens, top_k: 49000}}", "vocabulary.top_k",
    ),
    "model": ("name: x\nconcepts: [taxi]\noutput: {out}\nmodel: /no/such/model", "model"),
    "yaml": ("name: [", "YAML"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "field"), BAD.values(), ids=BAD)
def test_bad_spec(text: str, field: str, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(text.format(out=tmp_path / "out"))
    began = time.perf_counter()
    ran = erase("run", str(tmp_path / "spec.yaml"), ERASE_HOME=str(tmp_path / "home"))
    assert ran.returncode == 2
    assert field in ran.stderr and "Traceback" not in ran.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["spec.yaml"]
    assert time.perf_counter() - began < 10


def test_bad_specs_load_no_model_library(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("name: x\nconcepts: [taxi]\noutput: o\nmodel: /no/such/model")
    code = (
        "import sys; from erase_core.preflight import check\n"
        "from erase_core.spec_errors import SpecError; from erase_core.spec_yaml import load_spec\n"
        f"try: check(load_spec({str(tmp_path / 'spec.yaml')!r}))\n"
        "except SpecError: pass\n"
        "assert not {'torch', 'diffusers', 'transformers', 'prefect', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_is_enough_to_write_a_spec() -> None:
    text = erase("run", "--help").stdout
    for key in (
        "concepts",
        "top_k",
        "learning_rate",
        "guidance_scale",
        "preserved",
        "(adversarial)",
        "temperature",
        "output: REQUIRED",
    ):
        assert key in text


def test_generate(tmp_path: Path) -> None:
    ran = erase(
        "generate", "emoji-world", "a taxi", "a rose", "--out", str(tmp_path / "g.png"), "--seeds", "3", "--steps", "2"
    )
    assert ran.returncode == 0, ran.stderr
    assert Image.open(tmp_path / "g.png").size == (3 * 66 - 2, 2 * 66 - 2)


def test_generate_refuses_a_missing_model(tmp_path: Path) -> None:
    ran = erase("generate", str(tmp_path / "none"), "a taxi")
    assert ran.returncode == 2 and "model:" in ran.stderr and "Traceback" not in ran.stderr


def test_vocab() -> None:
    assert "police car" in erase("vocab", "list").stdout
    curated = erase("vocab", "curate", "english-3000", "--erased", "people").stdout
    assert "stop-word" in curated and "3000" in curated
