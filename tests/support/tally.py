"""What the tests have tried how often, with what result: the table of docs/reliability.md.

    from tally import tried

    tried("Cancellation: a stream, at each of its steps", 120)

A test says so after each piece of its work, as often as it likes, also in each example of Hypothesis. Cases count for the
backend that the test runs on, or for the one named. Each thing tried is a row, and what comes before its colon the table
that the row stands in. `pytest --table=docs/reliability.md` writes the tables into that file, in place of those it has.
"""

from __future__ import annotations

import platform
from collections import Counter, defaultdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

BACKENDS = ("asyncio", "uvloop", "trio")
BEGIN, END = "<!-- table -->\n", "<!-- end of the table -->\n"

# Of the test that runs; a worker thread may count too.
_cases: Counter[tuple[str, str]] = Counter()
_backend = ""


def tried(what: str, cases: int = 1, *, backend: str | None = None) -> None:
    """Count cases of the test that runs.

    Args:
        what: Names the row: what was tried, the same for all tests and backends that try it.
        cases: How many.
        backend: `asyncio`, `uvloop` or `trio`, if it isn't the one that the test runs on; `""` for none.
    """
    _cases[what, _backend if backend is None else backend] += cases


def backend_of(item: pytest.Item) -> str:
    """The backend that a test runs on; empty if it has nothing to do with one."""
    if item.get_closest_marker("trio") is not None:
        return "trio"
    parameters = getattr(item, "callspec", None)
    if parameters is None or "anyio_backend" not in parameters.params:
        return ""
    name, options = parameters.params["anyio_backend"]
    return "uvloop" if options.get("use_uvloop") else str(name)


def _release(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


class Tally:
    """Carries the counts with the tests' reports, and writes the table."""

    def __init__(self, table: Path | None) -> None:
        self._table = table
        self._cases: dict[str, Counter[str]] = defaultdict(Counter)
        self._failed: Counter[str] = Counter()
        self._tests: Counter[str] = Counter()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        global _backend
        _cases.clear()
        _backend = backend_of(item)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Iterator[None]:
        if call.when == "call":
            item.user_properties.append(("tried", [[*key, n] for key, n in _cases.items()]))
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.failed:
            self._tests[report.outcome] += 1
        if report.when != "call":
            return
        for name, counts in report.user_properties:
            if name == "tried":
                for what, backend, cases in counts:  # type: ignore[misc]
                    self._cases[what][backend] += cases
                    self._failed[what] += report.failed

    def pytest_sessionfinish(self) -> None:
        if self._table is not None:
            before, rest = self._table.read_text().split(BEGIN)
            after = rest.split(END)[1]
            self._table.write_text(f"{before}{BEGIN}{self._written()}{END}{after}")

    def _written(self) -> str:
        packages = ("langchain-core", "langchain-openai", "langchain-anthropic", "anyio", "trio")
        versions = [f"Python {platform.python_version()}", *map(_release, packages)]
        tests = ", ".join(f"{count:,} {outcome}" for outcome, count in self._tests.items())
        lines = [f"\n{', '.join(versions)}. Tests: {tests}.\n"]
        last = None
        for what in sorted(self._cases, key=lambda what: what.partition(": ")[0]):
            group, _, row = what.partition(": ")
            if group != last:
                lines.append(f"\n| {group} | {' | '.join(BACKENDS)} | no backend | result |\n")
                lines.append("|---|--:|--:|--:|--:|---|\n")
                last = group
            counts = self._cases[what]
            cells = [f"{counts[name]:,}" if counts[name] else "" for name in (*BACKENDS, "")]
            failed = self._failed[what]
            result = f"**{failed} failed**" if failed else "all held"
            lines.append(f"| {row} | {' | '.join(cells)} | {result} |\n")
        return "".join([*lines, "\n"])
