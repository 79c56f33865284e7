"""What the README and the page on real models show works as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
