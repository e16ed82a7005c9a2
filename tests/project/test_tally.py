"""The table of what was tried, which has to name what failed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import tally
from tally import BEGIN, END, Tally

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.anyio
async def test_cases_count_for_the_backend_of_the_test(request: pytest.FixtureRequest) -> None:
    before = tally._cases.copy()
    for backend, named in ((None, tally.backend_of(request.node)), ("", ""), ("trio", "trio")):
        tally.tried("Tally: this", 2, backend=backend)
        assert tally._cases["Tally: this", named] - before["Tally: this", named] >= 2
    tally._cases.clear()
    tally._cases.update(before)


def report(outcome: str, *counts: list[Any], when: str = "call") -> Any:
    return SimpleNamespace(
        when=when,
        outcome=outcome,
        failed=outcome == "failed",
        user_properties=[("tried", [*counts]), ("other", 1)],
    )


def test_the_table_is_written_in_place_of_the_last(tmp_path: Path) -> None:
    file = tmp_path / "table.md"
    file.write_text(f"before\n{BEGIN}old\n{END}after\n")
    table = Tally(file)
    for each in (
        report("passed", ["One: a", "asyncio", 1000], ["Two: b", "", 1]),
        report("passed", ["One: a", "asyncio", 1], ["One: a", "trio", 2]),
        report("passed", ["One: a", "asyncio", 5000], when="teardown"),
        report("failed", ["One: c", "uvloop", 3]),
        report("failed", when="setup"),
    ):
        table.pytest_runtest_logreport(each)
    table.pytest_sessionfinish()
    text = file.read_text()
    assert text.startswith(f"before\n{BEGIN}")
    assert text.endswith(f"{END}after\n")
    assert "old" not in text
    assert "Tests: 2 passed, 2 failed." in text
    head = "| asyncio | uvloop | trio | no backend | result |\n|---|--:|--:|--:|--:|---|\n"
    assert f"| One {head}| a | 1,001 |  | 2 |  | all held |\n" in text
    assert "| c |  | 3 |  |  | **1 failed** |\n" in text
    assert f"| Two {head}| b |  |  |  | 1 | all held |\n" in text
