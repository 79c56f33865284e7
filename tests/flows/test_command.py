"""The command: bad specs end it quickly, with the field's name, without a traceback, and with nothing written."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer
from huggingface_hub.errors import HFValidationError
from PIL import Image

from erase_core.benchmark import TASKS
from erase_core.methods import MODULES
from flows.command import app
from tests.command import erase, erase_here

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
    ran = erase("run", str(tmp_path / "spec.yaml"), ERASE_HOME=str(tmp_path / "home"))
    assert ran.returncode == 2
    assert field in ran.stderr and "Traceback" not in ran.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["spec.yaml"]


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


def test_an_empty_default_is_shown_as_text() -> None:
    lines = erase_here("run", "--help").stdout.splitlines()
    empty = [line for line in lines if re.match(r" *(neutral|destination):", line) and "REQUIRED" not in line]
    assert empty and not [line for line in empty if line.endswith("[]")]
    assert any(line.endswith('[""]') for line in empty)


def test_version() -> None:
    ran = erase("--version")
    assert ran.returncode == 0 and ran.stdout == f"erase {importlib.metadata.version('erase')}\n"
    code = (
        "import sys; from typer.testing import CliRunner; from flows.command import app\n"
        "assert CliRunner().invoke(app, ['--version']).exit_code == 0\n"
        "assert not {'torch', 'pandas', 'pyarrow', 'prefect', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def options_of(command: click.Command) -> dict[str, str]:
    return {one.name: getattr(one, "help", None) or "" for one in command.params}


def test_every_option_says_what_it_is() -> None:
    """And which names it takes, as there are."""
    commands = typer.main.get_command(app).commands
    commands |= commands["vocab"].commands
    found = {name: options_of(command) for name, command in commands.items()}
    assert not [
        (name, one) for name, every in found.items() for one, text in every.items() if not text and one != "help"
    ]
    assert ", ".join(TASKS) in found["benchmark"]["tasks"] and ", ".join(MODULES) in found["benchmark"]["methods"]
    assert "repeatable" in found["curate"]["erased"]
    assert "which disk it takes" in commands["plan"].help


def test_generate(tmp_path: Path) -> None:
    ran = erase(
        "generate", "emoji-world", "a taxi", "a rose", "--out", str(tmp_path / "g.png"), "--seeds", "3", "--steps", "2"
    )
    assert ran.returncode == 0, ran.stderr
    assert Image.open(tmp_path / "g.png").size == (3 * 66 - 2, 2 * 66 - 2)


def test_generate_refuses_a_missing_model(tmp_path: Path) -> None:
    ran = erase("generate", str(tmp_path / "none"), "a taxi")
    assert ran.returncode == 2 and "model:" in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    {
        "too many steps": (["--steps", "1000"], "or equal to 999"),
        "steps": (["--steps", "600"], "steps: 600 strides of whole timesteps do not span the 1000"),
        "sampler": (["--sampler", "euler"], "sampler: 'euler' should be 'ddim', "),
        "folder": (["--out", "."], "out: . is a folder; give a file name that ends in .png"),
    }.values(),
    ids=["too many steps", "steps", "sampler", "folder"],
)
def test_generate_refuses_before_it_loads(options: list[str], message: str, monkeypatch) -> None:
    monkeypatch.setattr("erase_core.models.pipeline.load_pipeline", lambda *_: pytest.fail("the model was loaded"))
    ran = erase_here("generate", "emoji-world", "a taxi", *options)
    assert ran.returncode == 2 and message in ran.stderr and "pydantic" not in ran.stderr


def test_generate_says_what_the_hub_says(monkeypatch, tmp_path: Path) -> None:
    def absent(*_, **__):
        raise HFValidationError("a name too long")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", absent)
    monkeypatch.setattr("flows.command.model_files.allow_hub", lambda: None)
    ran = erase_here("generate", "somebody/modle", "a taxi", "--out", str(tmp_path / "g.png"))
    assert ran.returncode == 2 and "model: cannot fetch somebody/modle from the hub: a name too long" in ran.stderr


def test_nothing_of_the_user_s_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "m.ckpt").write_bytes(b"")
    for arguments, message in (
        (["export", "emoji-world", str(tmp_path / "notes.txt")], "out: .*notes.txt is a file; name a new folder"),
        (
            ["export", "emoji-world", str(tmp_path / "notes.txt" / "m.safetensors")],
            "out: .* is a file; name a folder that can be made",
        ),
        (["convert", str(tmp_path / "m.ckpt"), str(tmp_path / "notes.txt" / "m.safetensors")], "out: .* is a file"),
        (["pretrain", "--output", str(tmp_path)], "output: .* holds other files; name a new or an empty folder"),
    ):
        ran = erase_here(*arguments)
        assert ran.returncode == 2 and re.search(message, ran.stderr), ran.stderr
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_vocab() -> None:
    assert "police car" in erase("vocab", "list").stdout
    curated = erase("vocab", "curate", "english-3000", "--erased", "people").stdout
    assert "stop-word" in curated and "3000" in curated
