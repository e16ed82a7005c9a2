"""docs/models.md has a row for each case of the registries, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from provider_cases import CHAT, EMBEDDINGS, PACKAGES
from provider_tables import mark
from tool_cases import TOOLS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def rows_of(table: str) -> list[list[str]]:
    _, rest = PAGE.split(mark(table))
    lines = rest.split(mark(table, "end of "))[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    return rows[2:]


def package_of(cell: str) -> str:
    found = re.fullmatch(r"`([a-z0-9-]+)` \d\S*", cell)
    assert found, f"no package and version: {cell!r}"
    return found[1]


@pytest.mark.parametrize(("table", "cases"), (("chat models", CHAT), ("embeddings", EMBEDDINGS)))
def test_the_page_names_exactly_the_packages_of_the_registry(table: str, cases: Any) -> None:
    rows = rows_of(table)
    assert [package_of(row[0]) for row in rows] == [case.package for case in cases]
    assert [row[1].split("`")[1] for row in rows] == [case.name for case in cases]


def test_the_page_names_exactly_the_tools_of_the_registry() -> None:
    rows = rows_of("tools")
    assert [(package_of(row[1]), row[2]) for row in rows] == [(c.package, c.name) for c in TOOLS]


@pytest.mark.parametrize("table", ("chat models", "embeddings", "tools"))
def test_what_was_tried_held(table: str) -> None:
    for row in rows_of(table):
        assert not any("**no**" in cell or cell == "not tried" for cell in row), row


def test_every_package_is_in_a_dependency_group() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    group = project.partition("providers = [")[2].partition("]\n#")[0]
    assert {*re.findall(r'"(langchain-[a-z-]+)>=', group)} == {*PACKAGES, "langchain-tests"}
