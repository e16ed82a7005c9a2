"""The files and folders of the source that the pages name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "langchain_anyio"
PAGES = ("CONTRIBUTING.md", "docs/design.md")


@pytest.mark.parametrize("page", PAGES)
def test_named_files_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/])(?:_\w+|callbacks)(?:/\w+)*(?:\.py|/)", text))
    assert named
    assert [name for name in sorted(named) if not (SOURCE / name).exists()] == []


def test_the_layers_of_the_pages_are_those_of_the_contract() -> None:
    contract = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layers = re.findall(r'^    "([\w |]+)",$', contract.partition("exhaustive")[2], re.MULTILINE)
    modules = {name for layer in layers for name in layer.split(" | ")}
    assert modules == {
        path.stem
        for path in SOURCE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    } - {"__init__"}
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert [name for name in sorted(modules) if name not in text] == [], page
