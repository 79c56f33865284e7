"""What the README and the page on real models show works as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from huggingface_hub.cli import hf

from erase_core.batch import read_specs
from erase_core.cautions import cautions
from erase_core.preflight import check
from erase_core.spec_yaml import load_spec, parse_spec

ROOT = Path(__file__).parents[1]
SPECS = {
    f"{page}-{number}": text
    for page in ("README.md", "docs/real-models.md")
    for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), re.S))
}


@pytest.mark.parametrize("text", SPECS.values(), ids=SPECS.keys())
def test_specs(text: str) -> None:
    spec = parse_spec(text)
    check(spec)
    assert cautions(spec) == []


def test_both_pages_have_specs() -> None:
    assert len(SPECS) == 6


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_examples(path: Path) -> None:
    if path.name == "batch.yaml":
        assert len(read_specs(path, ROOT / "examples" / "lists")[1]) == 3
    else:
        check(load_spec(path))


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_what_fills_the_hub_s_cache_is_taken_as_it_is_meant(monkeypatch) -> None:
    """hf takes one pattern after each --include; others it would take for files' names."""
    page = (ROOT / "docs" / "deployment.md").read_text().replace("\\\n", " ")
    lines = [shlex.split(line, comments=True)[1:] for line in re.findall(r"^hf download .*", page, re.M)]
    asked = []
    monkeypatch.setattr("huggingface_hub.cli.download.snapshot_download", lambda **given: asked.append(given) or ".")
    monkeypatch.setattr("huggingface_hub.cli.download.hf_hub_download", lambda **given: asked.append(given) or ".")
    for line in lines:
        with pytest.raises(SystemExit) as ended:
            hf.app(line)
        assert not ended.value.code
    model, judge, prompts = asked
    assert model["allow_patterns"] == ["model_index.json", "*/*.json", "*/*.txt", "*/*.safetensors"]
    assert model["ignore_patterns"] == ["*fp16*", "safety_checker/*"]
    assert (
        judge["allow_patterns"] == ["*.json", "*.txt", "*.safetensors"] and prompts["filename"] == "i2p_benchmark.csv"
    )
