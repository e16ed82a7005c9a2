from __future__ import annotations

import asyncio
import concurrent.futures
import subprocess
import sys
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from cancelling import Victim, settle, ways_to_cancel
from langchain_anyio import Event
from langchain_anyio._backends.cancellation import (
    is_cancellation,
    wait_uncancellable,
    without_cancellations,
)
from langchain_anyio._backends.current import backend
from langchain_anyio._backends.event_loops import Loop
from langchain_anyio._backends.tasks import spawn_background
from limits import HANGS

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

pytestmark = pytest.mark.anyio

VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="")


def in_thread(func: Callable[[], Any]) -> Any:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(func).result()


def run_without_anyio(anyio_backend: tuple[str, dict[str, Any]], func: Any) -> Any:
    """Run `func` by the backend's own means, in a context that anyio has left no mark in."""
    if anyio_backend[0] == "trio":
        import trio

        return copy_context().run(trio.run, func)
    if anyio_backend[1].get("use_uvloop"):
        import uvloop

        return copy_context().run(uvloop.run, func())
    return copy_context().run(asyncio.run, func())


# Which backend


def test_no_backend() -> None:
    with pytest.raises(RuntimeError):
        backend()


async def test_backend(anyio_backend: tuple[str, Any]) -> None:
    assert backend() == anyio_backend[0]


# Calls from anywhere


def test_what_is_called_soon_may_use_anyio(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    async def main() -> None:
        VARIABLE.set("main")
        loop = Loop()
        seen: list[Any] = []
        event = Event()

        def called() -> None:
            seen.append((backend(), anyio.current_time() > 0, loop.is_current(), VARIABLE.get()))
            event.set()

        for make in (
            lambda: loop.call_soon(called),
            lambda: in_thread(lambda: loop.call_soon(called)),
        ):
            event.clear()
            assert make()
            await event.wait()
        assert seen == [(anyio_backend[0], True, True, "main")] * 2

    run_without_anyio(anyio_backend, main)


def test_calls_after_the_end(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    async def main() -> Loop:
        return Loop()

    loop = run_without_anyio(anyio_backend, main)
    assert not loop.call_soon(lambda: pytest.fail("called"))
    assert not in_thread(lambda: loop.call_soon(lambda: pytest.fail("called")))
    assert not loop.is_current()


def test_which_loop_is_current(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    seen: list[bool] = []

    async def main() -> None:
        loop = Loop()
        assert loop.is_current()
        assert not in_thread(loop.is_current)

        async def other() -> bool:
            return loop.is_current()

        assert not in_thread(partial(asyncio.run, other()))
        assert not in_thread(partial(run_without_anyio, anyio_backend, other))
        if backend() == "asyncio":
            called = asyncio.Event()

            def callback() -> None:
                seen.append(loop.is_current())
                called.set()

            asyncio.get_running_loop().call_soon(callback)
            await called.wait()
            assert seen == [True]

    run_without_anyio(anyio_backend, main)


# Tasks


async def test_a_task_of_the_loop_outlives_who_starts_it() -> None:
    begun, go_on, over = Event(), Event(), Event()
    seen: list[str] = []

    async def work() -> None:
        begun.set()
        await go_on.wait()
        seen.append(VARIABLE.get())
        VARIABLE.set("task")
        over.set()

    with anyio.CancelScope() as scope:
        VARIABLE.set("main")
        spawn_background(work, name="x")
        VARIABLE.set("later")
        scope.cancel()
    await begun.wait()
    go_on.set()
    await over.wait()
    assert seen == ["main"]
    assert VARIABLE.get() == "later"


async def test_a_task_runs_in_the_context_given() -> None:
    over = Event()
    seen: list[str] = []
    VARIABLE.set("given")
    context = copy_context()
    VARIABLE.set("mine")

    async def work() -> None:
        seen.append(VARIABLE.get())
        over.set()

    spawn_background(work, name="x", context=context)
    await over.wait()
    assert seen == ["given"]


def test_a_task_is_cancelled_at_the_end_of_the_loop(
    anyio_backend: tuple[str, dict[str, Any]],
) -> None:
    seen: list[bool] = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        except BaseException as exc:
            seen.append(is_cancellation(exc))
            raise

    async def main() -> None:
        spawn_background(work, name="x")
        await checkpoint()
        await checkpoint()

    run_without_anyio(anyio_backend, main)
    assert seen == [True]


async def test_a_cancellation_of_asyncio_is_no_failure_of_the_loop() -> None:
    begun = Event()

    async def work() -> None:
        begun.set()
        raise asyncio.CancelledError

    spawn_background(work, name="x")
    await begun.wait()
    await settle()


# What a cancellation is


async def test_cancellations() -> None:
    caught: list[BaseException] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await checkpoint()
        except BaseException as exc:
            caught.append(exc)
            raise
    own = caught[0]
    other = asyncio.CancelledError()
    both = BaseExceptionGroup("", [own, BaseExceptionGroup("", [other])])
    mixed = BaseExceptionGroup("", [own, ValueError()])
    for error in (own, other, both):
        assert is_cancellation(error)
        assert without_cancellations(error) is None
    errors = (
        ValueError(),
        KeyboardInterrupt(),
        GeneratorExit(),
        concurrent.futures.CancelledError(),
        anyio.ClosedResourceError(),
        ExceptionGroup("", [ValueError()]),
        BaseExceptionGroup("", [KeyboardInterrupt()]),
    )
    for error in errors:
        assert not is_cancellation(error)
        assert without_cancellations(error) is error
    assert not is_cancellation(mixed)
    assert type(without_cancellations(mixed)) is ValueError
    several = BaseExceptionGroup("", [own, ValueError(), KeyError()])
    rest = without_cancellations(several)
    assert isinstance(rest, ExceptionGroup)
    assert list(map(type, rest.exceptions)) == [ValueError, KeyError]


def test_cancellations_without_trio() -> None:
    script = """
import sys
sys.modules["trio"] = None
import asyncio, anyio
from langchain_anyio._backends.event_loops import Loop
from langchain_anyio._backends.current import backend
from langchain_anyio._backends.cancellation import is_cancellation
from langchain_anyio._backends.tasks import spawn_background
assert is_cancellation(asyncio.CancelledError()) and not is_cancellation(KeyboardInterrupt())

async def main():
    over = anyio.Event()
    async def work():
        assert backend() == "asyncio" and Loop().is_current()
        over.set()
    Loop().call_soon(lambda: spawn_background(work, name="x"))
    await over.wait()

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


# Outlasting a cancellation


async def test_outlasting_what_has_happened() -> None:
    event = Event()
    event.set()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await wait_uncancellable(event)
        survived = True
    assert survived
    assert not scope.cancelled_caught


async def test_outlasting_every_cancellation(anyio_backend: tuple[str, Any]) -> None:
    async def outlasts(how: str) -> None:
        event = Event()
        passed: list[bool] = []

        async def wait() -> None:
            try:
                await wait_uncancellable(event)
            finally:
                passed.append(event.is_set())
            await checkpoint()

        async with anyio.create_task_group() as group:
            victim = Victim(group, wait)
            await settle()
            for _ in range(3):
                victim.cancel(how)
                await settle()
                assert not passed
            event.set()
            # Once more in the moment of the wake.
            victim.cancel(how)
        assert passed == [True]
        assert victim.outcome == "cancelled"

    for how in ways_to_cancel(anyio_backend):
        await outlasts(how)


async def test_outlasting_does_not_spin(anyio_backend: tuple[str, Any]) -> None:
    for how in ways_to_cancel(anyio_backend):
        event = Event()
        async with anyio.create_task_group() as group:
            victim = Victim(group, partial(wait_uncancellable, event))
            await settle()
            victim.cancel(how)
            with anyio.fail_after(HANGS):
                await anyio.wait_all_tasks_blocked()
            event.set()


async def test_a_task_is_shown_without_the_others(anyio_backend: tuple[str, Any]) -> None:
    if anyio_backend[0] == "trio":
        pytest.skip("trio shows no callbacks")
    for number in range(3):
        spawn_background(checkpoint, name=f"shown {number}")
    tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith("shown")]
    assert [repr(task).count("shown ") for task in tasks] == [1, 1, 1]
    await anyio.wait_all_tasks_blocked()
