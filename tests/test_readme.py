"""What the README shows works as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from erase_core.batch import read_specs
from erase_core.preflight import check
from erase_core.spec import load_spec, parse_spec

ROOT = Path(__file__).parents[1]
SPECS = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


@pytest.mark.parametrize("text", SPECS)
def test_specs(text: str) -> None:
    check(parse_spec(text))


def test_the_readme_has_specs() -> None:
    assert len(SPECS) == 3


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_examples(path: Path) -> None:
    if path.name == "batch.yaml":
        assert len(read_specs(path, ROOT / "examples" / "lists")[1]) == 3
    else:
        check(load_spec(path))


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target
