"""The tables of docs/models.md, from what the tests of every provider have shown.

`pytest --providers --models-page=docs/models.md` puts each table in place of the one between its
marks. A table whose tests did not run stays as it is, so that two sessions can write one page.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from provider_cases import CHAT, EMBEDDINGS, installed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

SEVERAL_LOOPS = (
    "test_one_event_loop_after_another",
    "test_embeddings_on_one_event_loop_after_another",
)


class Shown(NamedTuple):
    """The outcome of one test of a case."""

    check: str
    backend: str
    outcome: str
    properties: dict[str, Any]


def mark(name: str, end: str = "") -> str:
    """Return the line of the page before a table, or the one after it."""
    return f"<!-- {end}table: {name} -->\n"


class ProviderTables:
    """Collects the outcomes, and writes the tables."""

    def __init__(self, page: Path | None) -> None:
        self._page = page
        self._shown: dict[tuple[str, str], list[Shown]] = defaultdict(list)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Iterator[None]:
        report: Any = yield
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        case = parameters.get("case")
        if case is not None and (report.when == "call" or report.failed) and not report.skipped:
            on_trio = item.path.name.endswith("_trio.py")
            backend = parameters.get("anyio_backend", ("trio" if on_trio else "",))[0]
            shown = Shown(item.originalname, backend, report.outcome, dict(report.user_properties))
            self._shown[type(case).__name__, str(case)].append(shown)
        return report

    def pytest_sessionfinish(self) -> None:
        if self._page is None:
            return
        text = self._page.read_text(encoding="utf-8")
        for name, table in (
            ("chat models", self._chat_models()),
            ("embeddings", self._embeddings()),
            ("tools", self._tools()),
        ):
            if table is not None:
                before, rest = text.split(mark(name))
                _, after = rest.split(mark(name, "end of "))
                text = f"{before}{mark(name)}\n{table}\n{mark(name, 'end of ')}{after}"
        self._page.write_text(text, encoding="utf-8")

    def _chat_models(self) -> str | None:
        if not any(kind == "ChatCase" for kind, _ in self._shown):
            return None
        rows = []
        for case in CHAT:
            shown = self._shown["ChatCase", str(case)]
            api = f", {case.api}" if case.api else ""
            rows.append(
                (
                    f"`{case.package}` {installed(case.package)}",
                    f"`{case.name}`{api}",
                    *self._of_model(case, shown),
                )
            )
        return _with_releases(rows, "chat model")

    def _embeddings(self) -> str | None:
        if not any(kind == "EmbeddingsCase" for kind, _ in self._shown):
            return None
        rows = [
            (
                f"`{case.package}` {installed(case.package)}",
                f"`{case.name}`",
                *self._of_model(case, self._shown["EmbeddingsCase", str(case)]),
            )
            for case in EMBEDDINGS
        ]
        return _with_releases(rows, "embeddings")

    def _of_model(self, case: Any, shown: list[Shown]) -> tuple[str, ...]:
        loops = [each for each in shown if each.check in SEVERAL_LOOPS]
        others = [each for each in shown if each.check not in SEVERAL_LOOPS]
        runs = next((each.properties["runs"] for each in shown if "runs" in each.properties), "?")
        trio = _held(each for each in others if each.backend == "trio")
        return (
            _held(each for each in others if each.backend == "asyncio"),
            "refused" if case.needs_asyncio and trio == "yes" else trio,
            "needs asyncio" if case.needs_asyncio else _held(loops),
            " / ".join(_seconds(each for each in shown if each.backend == b) for b in BACKENDS),
            runs,
            case.note,
        )

    def _tools(self) -> str | None:
        cases = [shown for (kind, _), shown in self._shown.items() if kind == "ToolCase"]
        if not cases:
            return None
        # Only where they are installed.
        from tool_cases import TOOLS

        lines = [
            "| kind | package | what | asyncio | trio | runs | note |",
            "|---|---|---|---|---|---|---|",
        ]
        for case in TOOLS:
            shown = self._shown["ToolCase", str(case)]
            trio = _held(each for each in shown if each.backend == "trio")
            cells = (
                case.kind,
                f"`{case.package}` {installed(case.package)}",
                case.name,
                _held(each for each in shown if each.backend == "asyncio"),
                "refused" if case.needs_asyncio and trio == "yes" else trio,
                case.runs,
                case.note,
            )
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join([_releases(), "", *lines, ""])


BACKENDS = ("asyncio", "trio")


def _held(shown: Iterable[Shown]) -> str:
    """Return whether what was tried held, and which tests failed if not."""
    outcomes = list(shown)
    failed = dict.fromkeys(each.check for each in outcomes if each.outcome == "failed")
    if failed:
        return f"**no**: {', '.join(failed)}"
    return "yes" if outcomes else "not tried"


def _seconds(shown: Iterable[Shown]) -> str:
    seconds = [each.properties["seconds"] for each in shown if "seconds" in each.properties]
    if not seconds:
        return "not tried"
    longest = max(seconds)
    return "never" if longest == float("inf") else f"{longest:.2f}"


def _releases() -> str:
    packages = ("langchain-core", "anyio", "trio")
    versions = [f"Python {platform.python_version()}", *(f"{p} {installed(p)}" for p in packages)]
    today = datetime.now(timezone.utc).date()
    return f"Tried on {today} with {', '.join(versions)}."


def _with_releases(rows: Iterable[tuple[str, ...]], what: str) -> str:
    head = ("package", what, "asyncio", "trio", "several loops", "closes after (s)", "runs", "note")
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join([_releases(), "", *(f"| {' | '.join(line)} |" for line in lines), ""])
