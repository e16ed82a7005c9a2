"""The workflow of each change runs all of the sessions that `nox` runs, by their names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"

if not WORKFLOWS.is_dir():
    pytest.skip("the source distribution has no workflows", allow_module_level=True)


def test_ci_runs_every_default_session() -> None:
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    sessions = re.findall(
        r"^@nox\.session(\([^\n]*\))?.*?\ndef (\w+)", noxfile, re.MULTILINE | re.DOTALL
    )
    default = {name for options, name in sessions if "default=False" not in options}
    assert {"lint", "tests", "package"} <= default
    assert "canary" not in default
    workflow = (WORKFLOWS / "ci.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"\w+", workflow))
    assert default - named == set()


def test_releases_and_canaries_run_sessions_that_are_there() -> None:
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    for workflow in ("newest.yml", "release.yml"):
        text = (WORKFLOWS / workflow).read_text(encoding="utf-8")
        named = re.findall(r"nox -s (\w+)", text)
        assert named
        assert [name for name in named if f"\ndef {name}(" not in noxfile] == []


def test_the_workflows_test_the_pythons_of_the_classifiers() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pythons = re.findall(r"Python :: (3\.\d+)", project)
    workflow = (WORKFLOWS / "ci.yml").read_text(encoding="utf-8")
    (row,) = re.findall(r"^        python: \[(.*)\]$", workflow, re.MULTILINE)
    assert re.findall(r"3\.\d+", row) == pythons
