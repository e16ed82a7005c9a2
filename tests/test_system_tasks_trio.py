"""No error leaves a system task of trio's, or a callback of its run: it would take the whole program down."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio

from cancelling import settle
from langchain_anyio import Event, disable_trio, enable_trio
from langchain_anyio._background import Loop, start
from langchain_anyio._trio._futures import Future, Task
from langchain_anyio._trio._loop import running_loop

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


class Odd(BaseException):
    """Neither an exception nor an exit."""


ERRORS: tuple[Callable[[], BaseException], ...] = (
    lambda: ValueError("x"),
    lambda: Odd("x"),
    lambda: BaseExceptionGroup("x", [Odd(), ValueError()]),
)


@pytest.fixture
def enabled() -> Iterator[None]:
    enable_trio()
    yield
    disable_trio()


@pytest.mark.parametrize("make", ERRORS)
@pytest.mark.trio
async def test_an_error_of_a_background_task_is_logged(
    make: Callable[[], BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    over: list[bool] = []

    async def fail() -> None:
        raise make()

    start(fail, name="failing", over=lambda: over.append(True))
    await settle()
    assert over == [True]
    assert [record.message for record in caplog.records] == ["the background task 'failing' failed"]
    caplog.clear()


@pytest.mark.trio
async def test_a_cancellation_of_a_scope_that_is_gone_ends_its_task_alone() -> None:
    caught: list[BaseException] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as exc:
            caught.append(exc)
            raise

    async def fail() -> None:
        raise caught[0]

    start(fail, name="failing")
    task = Task(fail())
    await settle()
    assert task.cancelled()
    await trio.lowlevel.checkpoint()  # nothing here was cancelled


@pytest.mark.parametrize("make", (*ERRORS, SystemExit, KeyboardInterrupt))
def test_what_is_called_soon_may_fail(
    make: Callable[[], BaseException], caplog: pytest.LogCaptureFixture, interruptible: None
) -> None:
    called: list[bool] = []

    def fail() -> None:
        raise make()

    async def main() -> None:
        loop = Loop()
        assert loop.call_soon(fail)
        assert loop.call_soon(lambda: called.append(True))
        await settle()
        await trio.sleep(0)

    async def through_the_port_of_a_loop() -> None:
        # What is called in another thread's stead comes from the run itself.
        loop = running_loop()
        await trio.to_thread.run_sync(loop.call_soon_threadsafe, fail)
        await trio.to_thread.run_sync(loop.call_soon_threadsafe, lambda: called.append(True))
        await settle()

    for run in (main, through_the_port_of_a_loop):
        called.clear()
        if issubclass(type(make()), (SystemExit, KeyboardInterrupt)):
            # There is nobody to have it but the main task.
            with pytest.raises(KeyboardInterrupt):
                trio.run(run)
        else:
            trio.run(run)
            assert called == [True]
    caplog.clear()


@pytest.mark.parametrize("make", (*ERRORS, SystemExit, KeyboardInterrupt))
@pytest.mark.trio
async def test_callbacks_of_a_task_may_fail(
    make: Callable[[], BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    called: list[bool] = []

    def fail(task: Any) -> None:
        raise make()

    async def work() -> int:
        return 1

    task = Task(work())
    task.add_done_callback(fail)
    task.add_done_callback(lambda _: called.append(True))
    error = make()
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        with pytest.raises(type(error)):
            await task
        future: Future[int] = Future()
        future.add_done_callback(fail)
        with pytest.raises(type(error)):
            future.set_result(1)
    else:
        assert await task == 1
        assert len(caplog.records) == 1
    assert called == [True]
    caplog.clear()


@pytest.mark.trio
async def test_a_task_that_leaves_a_nursery_open_fails() -> None:
    ended: list[bool] = []
    held = []

    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    async def leave() -> int:
        manager = trio.open_nursery()
        held.append(manager)
        (await manager.__aenter__()).start_soon(child)
        await trio.lowlevel.checkpoint()
        return 1

    with pytest.raises(RuntimeError, match="corrupted"):
        await Task(leave())
    assert ended == [True]
    over = Event()

    async def background() -> None:
        await leave()

    start(background, name="leaving", over=over.set)
    await over.wait()
    assert ended == [True, True]
    await settle()
    assert not any(t.name == "leaving" for t in _system_tasks())


def _system_tasks() -> list[Any]:
    root = trio.lowlevel.current_root_task()
    assert root is not None
    return [task for nursery in root.child_nurseries for task in nursery.child_tasks]
