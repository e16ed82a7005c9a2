"""Writes down what becomes of each asynchronous test and, where asked to, runs it on trio."""

from __future__ import annotations

import functools
import inspect
import json
import time
from pathlib import Path
from typing import Any

import pytest

# Far above what any of them takes, so that a test that hangs is a failure and not the end of the run.
SECONDS = 15

_outcomes: dict[str, str] = {}
_synchronous: dict[str, str] = {}
_asynchronous: set[str] = set()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", help="the file to write the outcomes to")
    parser.addoption("--results-backend", choices=["asyncio", "trio"])
    if not _has_option(parser, "asyncio_mode"):
        parser.addini("asyncio_mode", "pytest-asyncio's, which is not loaded on trio")
        parser.addini("asyncio_default_fixture_loop_scope", "likewise")


def _has_option(parser: pytest.Parser, name: str) -> bool:
    return name in parser._inidict


def pytest_configure(config: pytest.Config) -> None:
    through_anyio = config.pluginmanager.hasplugin("through_anyio")
    if config.getoption("--results-backend") == "trio" and not through_anyio:
        config.addinivalue_line("markers", "asyncio: how langchain-core marks asynchronous tests")
        config.pluginmanager.register(OnTrio(), "on_trio")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function):
            _asynchronous.add(item.nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    outcomes = _outcomes if report.nodeid in _asynchronous else _synchronous
    if report.outcome == "failed":
        crash = getattr(report.longrepr, "reprcrash", None)
        message = getattr(crash, "message", str(report.longrepr)).partition("\n")[0]
        outcomes[report.nodeid] = f"{report.when}: {message}"
    elif report.when == "call" or report.outcome == "skipped":
        xfail = hasattr(report, "wasxfail")
        outcomes[report.nodeid] = f"x{report.outcome}" if xfail else report.outcome


def pytest_sessionfinish(session: pytest.Session) -> None:
    if results := session.config.getoption("--results"):
        both = {"asynchronous": _outcomes, "synchronous": _synchronous}
        Path(results).write_text(json.dumps(both, indent=1, sort_keys=True))


class _Clock:
    """A clock that goes on while a test stops the time, as that of asyncio's loop does."""

    _now = staticmethod(time.perf_counter)

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self._now()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self._now()


class OnTrio:
    """Runs asynchronous tests and fixtures on trio, with `enable_trio()` for langchain-core and for the tests themselves."""

    def __init__(self) -> None:
        import trio

        import langchain_anyio

        self._trio = trio
        langchain_anyio.enable_trio()
        # The tests use asyncio as any library may that is written against langchain-core.
        langchain_anyio.enable_trio("langsmith", "tests.unit_tests")

    def _on_trio(self, function: Any) -> Any:
        async def guarded(**arguments: Any) -> Any:
            with self._trio.fail_after(SECONDS):
                return await function(**arguments)

        @functools.wraps(function)
        def run(**arguments: Any) -> Any:
            return self._trio.run(functools.partial(guarded, **arguments), clock=_Clock())

        return run

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Any:
        if inspect.iscoroutinefunction(fixturedef.func):
            fixturedef.func = self._on_trio(fixturedef.func)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Any:
        if inspect.iscoroutinefunction(pyfuncitem.obj):
            pyfuncitem.obj = self._on_trio(pyfuncitem.obj)
        return (yield)
