"""pre-commit runs the tools of the session `lint`, at the versions of its dependency group."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_hooks_have_the_versions_of_the_dependency_group() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (group,) = re.findall(r"^lint = \[(.*)\]$", project, re.MULTILINE)
    wanted = set(re.findall(r'"(.*?)"', group))
    assert wanted
    assert {*re.findall(r'additional_dependencies: \["(.*)"\]', hooks)} == wanted
