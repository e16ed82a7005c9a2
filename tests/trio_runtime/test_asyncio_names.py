"""The names of asyncio that a library uses after `enable_trio()`: on trio they do what they do on asyncio."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import inspect
import sys
from types import ModuleType
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

pytest.importorskip("trio")

from langchain_anyio._trio_runtime.namespace import NAMESPACE
from langchain_anyio._trio_runtime.patching import _replacement

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

pytestmark = pytest.mark.anyio


# Timeouts


@pytest.fixture
def timeouts(anyio_backend_name: str) -> None:
    if anyio_backend_name == "asyncio" and sys.version_info < (3, 11):
        pytest.skip("asyncio has no timeouts there")


def now() -> float:
    return float(NAMESPACE.get_running_loop().time())


@pytest.mark.usefixtures("timeouts")
@pytest.mark.parametrize("delay", (None, 60, 60.5))
async def test_a_block_that_ends_in_time_has_not_timed_out(delay: float | None) -> None:
    async def returned() -> int:
        async with NAMESPACE.timeout(delay):
            await checkpoint()
            return 1

    async with NAMESPACE.timeout(delay) as block:
        await checkpoint()
    assert not block.expired()
    assert await returned() == 1
    with pytest.raises(KeyError):
        async with NAMESPACE.timeout(delay) as block:
            raise KeyError
    assert not block.expired()
    for _ in range(2):
        async with NAMESPACE.timeout_at(None if delay is None else now() + delay) as block:
            break
    assert not block.expired()
    assert repr(block) == "<Timeout [finished]>"


@pytest.mark.usefixtures("timeouts")
@pytest.mark.parametrize("delay", (0, -1))
async def test_a_block_without_a_checkpoint_does_not_time_out(delay: float) -> None:
    async with NAMESPACE.timeout(delay) as block:
        pass
    assert not block.expired()
    # One that may be extended still.
    async with NAMESPACE.timeout(delay) as block:
        block.reschedule(now() + 60)
        await anyio.sleep(0)
    assert not block.expired()
    with pytest.raises(KeyError):
        async with NAMESPACE.timeout(delay) as block:
            raise KeyError
    assert not block.expired()


@pytest.mark.usefixtures("timeouts")
@pytest.mark.parametrize("delay", (0, -1, 0.001))
async def test_a_block_that_takes_too_long_raises(delay: float) -> None:
    before = now()
    with pytest.raises(TimeoutError) as raised:
        async with NAMESPACE.timeout(delay) as block:
            assert block.when() == pytest.approx(before + delay, abs=1)
            await anyio.sleep(60)
    assert block.expired()
    assert repr(block) == "<Timeout [expired]>"
    assert isinstance(raised.value.__cause__, anyio.get_cancelled_exc_class())
    with pytest.raises(RuntimeError, match="expired"):
        block.reschedule(None)
    # What follows is not cancelled.
    await checkpoint()


@pytest.mark.usefixtures("timeouts")
async def test_an_error_of_a_block_that_is_being_cancelled_goes_first() -> None:
    with pytest.raises(KeyError) as raised:
        async with NAMESPACE.timeout(0) as block:
            try:
                await anyio.sleep(60)
            finally:
                raise KeyError
    assert block.expired()
    if sys.version_info >= (3, 13) or anyio.get_cancelled_exc_class() is not asyncio.CancelledError:
        assert isinstance(raised.value.__context__, TimeoutError)


@pytest.mark.usefixtures("timeouts")
async def test_a_deadline_may_be_moved() -> None:
    unentered = NAMESPACE.timeout(60)
    with pytest.raises(RuntimeError, match="not been entered"):
        unentered.reschedule(1)
    async with NAMESPACE.timeout(60) as block:
        block.reschedule(None)
        assert block.when() is None
        assert repr(block) == "<Timeout [active] when=None>"
        block.reschedule(later := now() + 30)
        assert block.when() == later
    with pytest.raises(RuntimeError, match="finished"):
        block.reschedule(None)
    with pytest.raises(RuntimeError, match="already been entered"):
        await block.__aenter__()
    with pytest.raises(TimeoutError):
        async with NAMESPACE.timeout(None) as block:
            block.reschedule(now())
            await anyio.sleep(60)


@pytest.mark.usefixtures("timeouts")
async def test_the_block_whose_deadline_has_passed_raises_and_no_other() -> None:
    seen: list[Any] = []
    with pytest.raises(TimeoutError):
        async with NAMESPACE.timeout(0) as outer:
            try:
                async with NAMESPACE.timeout(60) as inner:
                    await anyio.sleep(60)
            except BaseException as exc:
                seen.append(type(exc))
                raise
    assert seen == [anyio.get_cancelled_exc_class()]
    assert outer.expired()
    assert not inner.expired()
    async with NAMESPACE.timeout(60) as outer:
        with pytest.raises(TimeoutError):
            async with NAMESPACE.timeout(0) as inner:
                await anyio.sleep(60)
        await checkpoint()
    assert inner.expired()
    assert not outer.expired()


@pytest.mark.usefixtures("timeouts")
async def test_a_scope_around_a_timeout_is_not_taken_for_it() -> None:
    with anyio.CancelScope() as scope:
        async with NAMESPACE.timeout(60) as block:
            scope.cancel()
            await anyio.sleep(60)
    assert scope.cancelled_caught
    assert not block.expired()


@pytest.mark.usefixtures("timeouts")
async def test_a_task_that_is_cancelled_in_a_block_is_cancelled_and_not_late() -> None:
    blocks: list[Any] = []

    async def work() -> None:
        async with NAMESPACE.timeout(60) as block:
            blocks.append(block)
            await anyio.sleep(60)

    task = NAMESPACE.create_task(work())
    await anyio.wait_all_tasks_blocked()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert not blocks[0].expired()


# Names


async def value(result: Any, *, after: int = 0) -> Any:
    for _ in range(after):
        await checkpoint()
    return result


async def error() -> None:
    await checkpoint()
    raise KeyError("k")


def missing() -> list[str]:
    """Asyncio's public names that the namespace lacks."""
    return [
        name
        for name in dir(asyncio)
        if not name.startswith("_")
        and not inspect.ismodule(getattr(asyncio, name))
        and not hasattr(NAMESPACE, name)
    ]


async def test_each_public_name_is_there_or_says_what_to_do(anyio_backend_name: str) -> None:
    for name in missing():
        assert anyio_backend_name == "trio"
        with pytest.raises(
            AttributeError, match=rf"asyncio\.{name} has no meaning on trio: .*; use "
        ):
            getattr(NAMESPACE, name)
    for name in ("coroutines", "events", "exceptions", "futures", "locks", "queues", "tasks"):
        assert getattr(NAMESPACE, name).__class__ is not None
    assert NAMESPACE.tasks.gather.__name__ == "gather"
    assert NAMESPACE.exceptions.CancelledError is asyncio.CancelledError


async def test_each_method_of_a_loop_is_there_or_says_what_to_do(anyio_backend_name: str) -> None:
    loop = NAMESPACE.get_running_loop()
    for name in dir(asyncio.AbstractEventLoop):
        if name.startswith("_") or hasattr(loop, name):
            continue
        assert anyio_backend_name == "trio"
        with pytest.raises(AttributeError, match=rf"loop\.{name} has no meaning on trio"):
            getattr(loop, name)
    with pytest.raises(AttributeError):
        _ = loop.never_heard_of
    task = NAMESPACE.create_task(value(1))
    with pytest.raises(AttributeError):
        _ = task.never_heard_of
    assert await task == 1


async def test_what_is_not_awaited_at_once_has_begun() -> None:
    begun: list[int] = []

    async def begin(number: int) -> int:
        begun.append(number)
        return number

    gathered = NAMESPACE.gather(begin(1), begin(2))
    shielded = NAMESPACE.shield(begin(3))
    called = NAMESPACE.get_running_loop().run_in_executor(None, begun.append, 4)
    assert all(map(NAMESPACE.isfuture, (gathered, shielded, called)))
    while len(begun) < 4:
        await anyio.sleep(0)
    assert await shielded == 3
    assert await gathered == [1, 2]
    assert await called is None
    done, _ = await NAMESPACE.wait([gathered, called])
    assert done == {gathered, called}
    # A wrapper's caller may await it or not.
    gather = functools.partial(NAMESPACE.gather, begin(5))
    assert await gather() == [5]


async def test_what_is_imported_by_its_name_stands_for_either_backend() -> None:
    library = ModuleType("a_library")
    library.__dict__.update(
        {name: getattr(asyncio, name) for name in ("gather", "LifoQueue", "TimerHandle")}
    )
    if sys.version_info >= (3, 11):
        library.__dict__["TaskGroup"] = asyncio.TaskGroup
    for name, original in list(vars(library).items()):
        setattr(library, name, _replacement(library, name, original))
    coroutine = value(1)
    waiting = library.gather(coroutine, value(2))
    assert NAMESPACE.isfuture(waiting)
    assert await waiting == [1, 2]
    assert await library.gather(value(3)) == [3]
    assert isinstance(library.LifoQueue(), asyncio.LifoQueue)
    assert not isinstance(3, library.TimerHandle)
    if sys.version_info >= (3, 11):
        async with library.TaskGroup() as group:
            task = group.create_task(value(4))
        assert task.result() == 4
        assert isinstance(group, library.TaskGroup)


async def test_a_gathering_can_be_cancelled() -> None:
    gathered = NAMESPACE.gather(anyio.sleep_forever(), anyio.sleep_forever())
    await anyio.wait_all_tasks_blocked()
    assert gathered.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gathered
    assert gathered.done()
    with pytest.raises(TypeError):
        bad = NAMESPACE.gather({})
        await bad


async def test_one_coroutine_may_be_gathered_twice() -> None:
    coroutine = value(1)
    assert await NAMESPACE.gather(coroutine, value(2), coroutine) == [1, 2, 1]


async def test_completed_are_iterated_over_in_both_ways(anyio_backend_name: str) -> None:
    slow, quick = NAMESPACE.create_task(value(1, after=50)), NAMESPACE.create_task(value(2))
    assert [await done for done in NAMESPACE.as_completed([slow, quick])] == [2, 1]
    with pytest.raises(TypeError):
        next(iter(NAMESPACE.as_completed(slow)))
    for timeout in (0.001, 0):
        pending = NAMESPACE.create_task(anyio.sleep_forever())
        (waiting,) = NAMESPACE.as_completed([pending], timeout=timeout)
        with pytest.raises(asyncio.TimeoutError):
            await waiting
        pending.cancel()
    if sys.version_info >= (3, 13) or anyio_backend_name == "trio":
        slow, quick = NAMESPACE.create_task(value(1, after=50)), NAMESPACE.create_task(value(2))
        assert [task async for task in NAMESPACE.as_completed([slow, quick])] == [quick, slow]


async def test_waiting_for_nothing_or_for_one_is_refused() -> None:
    with pytest.raises(ValueError):
        await NAMESPACE.wait([])
    task = NAMESPACE.create_task(value(1))
    with pytest.raises(TypeError):
        await NAMESPACE.wait(task)
    with pytest.raises(ValueError):
        await NAMESPACE.wait([task], return_when="SOME_TIME")
    assert await task == 1
    with pytest.raises(TypeError):
        NAMESPACE.ensure_future("no")
    with pytest.raises(TypeError, match="a coroutine was expected"):
        NAMESPACE.create_task(123)


async def test_a_coroutine_that_has_no_time_does_not_begin() -> None:
    begun: list[int] = []

    async def begin() -> None:
        begun.append(1)

    with pytest.raises(asyncio.TimeoutError):
        await NAMESPACE.wait_for(begin(), 0)
    assert not begun
    done = NAMESPACE.get_running_loop().create_future()
    done.set_result(3)
    assert await NAMESPACE.wait_for(done, 0) == 3
    pending = NAMESPACE.create_task(anyio.sleep_forever())
    with pytest.raises(asyncio.TimeoutError):
        await NAMESPACE.wait_for(pending, -1)
    assert pending.cancelled()


async def test_a_task_that_awaits_itself_fails() -> None:
    async def work() -> None:
        await task

    task = NAMESPACE.create_task(work())
    with pytest.raises(RuntimeError, match="Task cannot await on itself"):
        await task


async def test_a_future_that_is_awaited_often_keeps_its_traceback() -> None:
    future = NAMESPACE.get_running_loop().create_future()
    future.set_exception(KeyError("k"))
    depths: set[int] = set()
    for _ in range(5):
        with pytest.raises(KeyError) as raised:
            await future
        depths.add(len(raised.traceback))
    assert len(depths) == 1


async def test_a_task_refuses_a_result() -> None:
    task = NAMESPACE.create_task(value(1))
    with pytest.raises(RuntimeError):
        task.set_result(2)
    with pytest.raises(RuntimeError):
        task.set_exception(KeyError())
    assert await task == 1


async def test_a_task_group_waits_for_its_tasks() -> None:
    if not hasattr(NAMESPACE, "TaskGroup"):
        pytest.skip("asyncio has no task groups there")
    async with NAMESPACE.TaskGroup() as group:
        tasks = [group.create_task(value(number, after=number)) for number in range(3)]
    assert [task.result() for task in tasks] == [0, 1, 2]
    late = value(1)
    with pytest.raises(RuntimeError, match="finished"):
        group.create_task(late)
    late.close()


async def test_an_error_cancels_a_task_group_and_its_block() -> None:
    if not hasattr(NAMESPACE, "TaskGroup"):
        pytest.skip("asyncio has no task groups there")
    tasks: list[Any] = []
    with pytest.raises(BaseExceptionGroup) as raised:
        async with NAMESPACE.TaskGroup() as group:
            tasks.append(group.create_task(anyio.sleep_forever()))
            group.create_task(error())
            await anyio.sleep_forever()
    assert [type(exc) for exc in raised.value.exceptions] == [KeyError]
    assert tasks[0].cancelled()
    with pytest.raises(BaseExceptionGroup) as raised:
        async with NAMESPACE.TaskGroup() as group:
            tasks.append(group.create_task(anyio.sleep_forever()))
            await anyio.sleep(0)
            raise ValueError
    assert [type(exc) for exc in raised.value.exceptions] == [ValueError]
    assert tasks[1].cancelled()
    await checkpoint()


async def test_a_scope_around_a_task_group_cancels_it() -> None:
    if not hasattr(NAMESPACE, "TaskGroup"):
        pytest.skip("asyncio has no task groups there")
    for waits in (True, False):
        with anyio.CancelScope() as scope:
            async with NAMESPACE.TaskGroup() as group:
                task = group.create_task(anyio.sleep_forever())
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
                if waits:
                    await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert task.cancelled()


async def test_a_task_group_is_cancelled_with_its_task() -> None:
    if not hasattr(NAMESPACE, "TaskGroup"):
        pytest.skip("asyncio has no task groups there")
    inner: list[Any] = []

    async def work() -> None:
        async with NAMESPACE.TaskGroup() as group:
            inner.append(group.create_task(anyio.sleep_forever()))

    task = NAMESPACE.create_task(work())
    await anyio.wait_all_tasks_blocked()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert inner[0].cancelled()


async def test_a_loop_calls_later_and_takes_it_back() -> None:
    loop = NAMESPACE.get_running_loop()
    called: list[int] = []
    event = anyio.Event()
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    variable.set(3)
    first = loop.call_later(0.001, lambda: called.append(variable.get()))
    taken_back = loop.call_at(loop.time() + 0.001, called.append, 2)
    last = loop.call_later(0.002, event.set)
    variable.set(4)
    taken_back.cancel()
    assert first.when() <= last.when()
    with anyio.fail_after(10):
        await event.wait()
    assert called == [3]
    assert taken_back.cancelled()
    assert not first.cancelled()
    soon = loop.call_soon(called.append, 5)
    await anyio.wait_all_tasks_blocked()
    assert called == [3, 5]
    assert not soon.cancelled()


@pytest.mark.parametrize("raised", (KeyError, SystemExit, KeyboardInterrupt))
async def test_a_callback_that_fails_does_not_end_the_run(
    raised: type[BaseException], anyio_backend_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    if anyio_backend_name == "asyncio":
        if raised is not KeyError:
            pytest.skip("asyncio's loop ends there")
        pytest.skip("uvloop and asyncio log it each in its own way")

    def fail() -> None:
        raise raised

    NAMESPACE.get_running_loop().call_later(0, fail)
    await anyio.wait_all_tasks_blocked()
    assert "a callback of the loop failed" in caplog.text


async def test_all_tasks_are_those_of_the_run() -> None:
    begun, ended = NAMESPACE.create_task(anyio.sleep_forever()), NAMESPACE.create_task(value(1))
    await ended
    fresh = NAMESPACE.create_task(value(2))
    tasks = NAMESPACE.all_tasks()
    assert {begun, fresh} <= tasks
    assert ended not in tasks
    assert NAMESPACE.all_tasks(NAMESPACE.get_running_loop()) == tasks
    assert await anyio.to_thread.run_sync(lambda: asyncio.run(number_of_tasks())) == 1
    begun.cancel()
    assert await fresh == 2


async def number_of_tasks() -> int:
    return len(NAMESPACE.all_tasks())


async def test_a_future_of_a_thread_is_wrapped() -> None:
    for outcome in (1, KeyError("k"), None):
        future = concurrent.futures.Future[Any]()
        wrapped = NAMESPACE.wrap_future(future)
        if outcome is None:
            wrapped.cancel()
            await anyio.wait_all_tasks_blocked()
            assert future.cancelled()
        elif isinstance(outcome, KeyError):
            await anyio.to_thread.run_sync(future.set_exception, outcome)
            with pytest.raises(KeyError):
                await wrapped
        else:
            await anyio.to_thread.run_sync(future.set_result, outcome)
            assert await wrapped == 1
    with pytest.raises((TypeError, AssertionError)):
        NAMESPACE.wrap_future(3)


async def test_a_function_that_returns_a_coroutine_is_called_in_a_thread() -> None:
    loop = NAMESPACE.get_running_loop()
    assert await (await NAMESPACE.to_thread(lambda: value(1))) == 1
    assert await (await loop.run_in_executor(None, lambda: value(2))) == 2


async def test_primitives_of_each_kind_wait_and_wake() -> None:
    for kind, order in (("LifoQueue", [2, 1]), ("PriorityQueue", [1, 2])):
        queue = getattr(NAMESPACE, kind)()
        got = NAMESPACE.create_task(queue.get())
        await anyio.wait_all_tasks_blocked()
        queue.put_nowait(0)
        assert await got == 0
        queue.put_nowait(1)
        queue.put_nowait(2)
        assert [await queue.get(), await queue.get()] == order
        for _ in range(3):
            queue.task_done()
        await queue.join()
    semaphore = NAMESPACE.BoundedSemaphore(1)
    await semaphore.acquire()
    waiting = NAMESPACE.create_task(semaphore.acquire())
    await anyio.wait_all_tasks_blocked()
    semaphore.release()
    assert await waiting
    semaphore.release()
    with pytest.raises(ValueError):
        semaphore.release()
    if sys.version_info >= (3, 11):
        barrier = NAMESPACE.Barrier(2)
        assert sorted(await NAMESPACE.gather(barrier.wait(), barrier.wait())) == [0, 1]


def test_a_subclass_of_a_future_is_asyncios_where_nothing_runs() -> None:
    class Mine(NAMESPACE.Future):  # type: ignore[name-defined,misc]
        pass

    assert Mine.__mro__[1] is asyncio.Future
    assert issubclass(NAMESPACE.Task, NAMESPACE.Future)
    assert NAMESPACE.Future[int] == asyncio.Future[int]
