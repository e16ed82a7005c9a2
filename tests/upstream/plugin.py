"""Puts the project's classes in the place of langchain-core's while langchain-core's own tests run, on each backend.

The synchronous tests are about synchronous classes, which are not ported. Every asynchronous one runs; those in
`left_out.py` must fail, and a name there that is not a test is an error.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections import Counter
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.runnables import RunnableBinding

import langchain_anyio
from langchain_anyio import AsyncChatModelStream, AsyncProjection, open_stream
from left_out import LEFT_OUT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from anyio.abc import TaskGroup

PORTED = ("AsyncChatModelStream", "AsyncProjection", "AsyncTextProjection")
BACKENDS = ("asyncio", "trio")


class AsyncioOnAnyio:
    """The few names of asyncio that the tests themselves use, on anyio."""

    Event = anyio.Event
    Lock = anyio.Lock
    sleep = staticmethod(anyio.sleep)

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks

    @property
    def CancelledError(self) -> type[BaseException]:  # noqa: N802  # asyncio's name
        return anyio.get_cancelled_exc_class()

    def get_running_loop(self) -> AsyncioOnAnyio:
        return self

    def create_task(self, awaitable: Awaitable[Any]) -> None:
        self._tasks.start_soon(self._await, awaitable)

    async def gather(self, *awaitables: Awaitable[Any]) -> list[Any]:
        results: list[Any] = [None] * len(awaitables)

        async def run(index: int, awaitable: Awaitable[Any]) -> None:
            results[index] = await awaitable

        async with anyio.create_task_group() as group:
            for index, awaitable in enumerate(awaitables):
                group.start_soon(run, index, awaitable)
        return results

    async def wait_for(self, awaitable: Awaitable[Any], timeout: float) -> Any:
        with anyio.fail_after(timeout):
            return await awaitable

    @staticmethod
    async def _await(awaitable: Awaitable[Any]) -> None:
        await awaitable


def name_of(item: pytest.Item) -> str:
    """The name of a test without its backend, as `left_out.py` has it."""
    assert isinstance(item, pytest.Function)
    others = "-".join(i for i in item.callspec.id.split("-") if i not in BACKENDS)
    path, _, rest = item.nodeid.partition("::")
    name = f"{path.rpartition('/')[2]}::{rest.partition('[')[0]}"
    return f"{name}[{others}]" if others else name


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    synchronous = [i for i in items if not inspect.iscoroutinefunction(i.function)]  # type: ignore[attr-defined]
    items[:] = [item for item in items if item not in synchronous]
    config.hook.pytest_deselected(items=synchronous)
    if gone := set(LEFT_OUT) - {name_of(item) for item in items}:
        raise pytest.UsageError(f"left_out.py names what is not a test: {sorted(gone)}")
    for item in items:
        if reason := LEFT_OUT.get(name_of(item)):
            item.add_marker(pytest.mark.xfail(strict=True, reason=reason))
            # It stops half way and leaves behind whatever it had begun.
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(scope="module", params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def made(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Exchange the classes and the call for a test, and note each of the project's objects that it makes."""
    objects: list[object] = []

    def noting(init: Callable[..., None]) -> Callable[..., None]:
        def wrapper(self: object, *args: Any, **kwargs: Any) -> None:
            objects.append(self)
            init(self, *args, **kwargs)

        return wrapper

    async def astream_events(
        self: Any, input: Any, config: Any = None, *, version: str | None = None, **kwargs: Any
    ) -> AsyncChatModelStream:
        assert "v3" in (version, getattr(self, "kwargs", {}).get("version"))
        stream = open_stream(self, input, config, **kwargs)
        objects.append(stream)
        return stream

    async def ainvoke(*args: Any, **kwargs: Any) -> None:
        pytest.fail("ainvoke is langchain-core's alone")

    monkeypatch.setattr(BaseChatModel, "ainvoke", ainvoke)
    for name in PORTED:
        if hasattr(request.module, name):
            monkeypatch.setattr(request.module, name, getattr(langchain_anyio, name))
    for ported in (AsyncChatModelStream, AsyncProjection):
        monkeypatch.setattr(ported, "__init__", noting(ported.__init__))
    for runnable in (BaseChatModel, RunnableBinding):
        monkeypatch.setattr(runnable, "astream_events", astream_events)
    return objects


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    test = pyfuncitem.obj
    made = pyfuncitem.funcargs["made"]
    module = pyfuncitem.module

    async def guarded(**arguments: Any) -> None:
        try:
            with anyio.fail_after(10):
                if pyfuncitem.funcargs["anyio_backend"] == "asyncio":
                    await test(**arguments)
                else:
                    async with anyio.create_task_group() as tasks:
                        module.asyncio = AsyncioOnAnyio(tasks)
                        await test(**arguments)
        except BaseException:
            # A test that stops half way never opens the gates that its models and handlers wait at.
            for stream in made:
                if isinstance(stream, AsyncChatModelStream):
                    await stream.aclose()
            raise
        # A test that has nothing to do with the classes proves nothing about them.
        assert made, "the test made none of the project's objects"

    pyfuncitem.obj = guarded
    try:
        return (yield)
    finally:
        module.asyncio = asyncio
        # What a test leaves behind is reported with it and not with a later one.
        made.clear()
        gc.collect()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    outcomes = {"passed": "passed", "xfailed": "left out", "failed": "failed", "error": "errors"}
    counts = Counter(
        (backend, word)
        for outcome, word in outcomes.items()
        for report in terminalreporter.stats.get(outcome, ())
        for backend in BACKENDS
        if backend in report.nodeid
    )
    terminalreporter.section(
        f"langchain-core {version('langchain-core')}'s tests on langchain-anyio"
    )
    for backend in BACKENDS:
        figures = (f"{counts[backend, word]} {word}" for word in outcomes.values())
        terminalreporter.line(f"{backend}: {', '.join(figures)}")
