from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from cancelling import Victim, settle, ways_to_cancel
from langchain_anyio._backends.event_loops import Loop
from langchain_anyio._providers.interrupts import current_interrupts
from langchain_anyio._runs.threads import (
    ThreadCalls,
    ThreadIterator,
    handler_limiter,
    model_limiter,
)

pytestmark = pytest.mark.anyio

VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="")
# A guard against hanging, in seconds.
GUARD = 60


class Blocker:
    """A call that a test lets in and out by hand."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.thread: int | None = None

    def __call__(self) -> str:
        self.thread = threading.get_ident()
        self.entered.set()
        assert self.go_on.wait(GUARD)
        return "value"

    async def wait_until_entered(self) -> None:
        assert await anyio.to_thread.run_sync(self.entered.wait, GUARD)


@pytest.fixture
def blocker() -> Iterator[Blocker]:
    blocker = Blocker()
    yield blocker
    blocker.go_on.set()


def new_limiter() -> anyio.CapacityLimiter:
    return anyio.CapacityLimiter(5)


async def test_a_function_may_return_a_coroutine() -> None:
    async def later() -> int:
        return 1

    coroutine = await ThreadCalls(Loop()).run(later, label="later", limiter=new_limiter())
    assert await coroutine == 1


# Limiters


def test_limiters_belong_to_their_loop(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    async def limiters() -> tuple[Any, Any]:
        assert model_limiter() is model_limiter()
        assert handler_limiter() is handler_limiter()
        assert (
            len(
                {
                    model_limiter(),
                    handler_limiter(),
                    anyio.to_thread.current_default_thread_limiter(),
                }
            )
            == 3
        )
        return model_limiter(), handler_limiter()

    seen = [
        anyio.run(limiters, backend=backend, backend_options=options)
        for backend, options in (anyio_backend, ("asyncio", {}), anyio_backend)
    ]
    assert len({limiter for pair in seen for limiter in pair}) == 6


# Calls


async def test_a_call() -> None:
    calls = ThreadCalls(Loop())
    VARIABLE.set("mine")

    def work() -> tuple[str, bool]:
        seen = VARIABLE.get()
        VARIABLE.set("thread's")
        return seen, threading.get_ident() != main

    main = threading.get_ident()
    assert await calls.run(work, label="work", limiter=new_limiter()) == ("mine", True)
    assert VARIABLE.get() == "mine"
    assert calls.abandoned() == []
    await calls.join()


@pytest.mark.parametrize("error", (ValueError("x"), SystemExit(3)))
async def test_an_error_of_a_call(error: BaseException) -> None:
    calls = ThreadCalls(Loop())

    def work() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await calls.run(work, label="work", limiter=new_limiter())
    assert caught.value is error


@pytest.mark.parametrize("error", (StopIteration(1), asyncio.CancelledError()))
async def test_an_error_that_would_be_taken_for_something_else(error: BaseException) -> None:
    calls = ThreadCalls(Loop())

    def work() -> None:
        raise error

    with pytest.raises(RuntimeError, match=f"work raised {type(error).__name__}") as caught:
        await calls.run(work, label="work", limiter=new_limiter())
    assert caught.value.__cause__ is error
    await checkpoint()  # nor is this task cancelled


async def test_cancelled_before_it_begins() -> None:
    calls = ThreadCalls(Loop())
    with anyio.CancelScope() as scope:
        scope.cancel()
        await calls.run(lambda: pytest.fail("called"), label="work", limiter=new_limiter())
    assert scope.cancelled_caught
    assert calls.abandoned() == []


async def test_cancelled_while_it_waits_for_a_thread(
    anyio_backend: tuple[str, Any], blocker: Blocker
) -> None:
    calls, limiter = ThreadCalls(Loop()), anyio.CapacityLimiter(1)
    called: list[int] = []
    async with anyio.create_task_group() as group:
        first = Victim(group, partial(calls.run, blocker, label="first", limiter=limiter))
        await blocker.wait_until_entered()
        for how in ways_to_cancel(anyio_backend):
            second = Victim(
                group, partial(calls.run, partial(called.append, 1), label="x", limiter=limiter)
            )
            await settle()
            second.cancel(how)
            await settle()
            assert second.outcome == "cancelled"
            assert calls.abandoned() == []
        blocker.go_on.set()
    assert first.value == "value"
    assert called == []


async def test_cancelled_while_it_runs(anyio_backend: tuple[str, Any]) -> None:
    for how in ways_to_cancel(anyio_backend):
        blocker = Blocker()
        calls = ThreadCalls(Loop())
        async with anyio.create_task_group() as group:
            victim = Victim(group, partial(calls.run, blocker, label="work", limiter=new_limiter()))
            await blocker.wait_until_entered()
            victim.cancel(how)
            await settle()
            assert victim.outcome == "cancelled"
            assert calls.abandoned() == ["work"]
            joining = Victim(group, calls.join)
            await settle()
            assert joining.outcome == "running"
            blocker.go_on.set()
            with anyio.fail_after(GUARD):
                while joining.outcome == "running":
                    await checkpoint()
        assert joining.outcome == "returned"
        assert calls.abandoned() == []


async def test_cancelled_in_the_moment_it_returns(anyio_backend: tuple[str, Any]) -> None:
    for how in ways_to_cancel(anyio_backend):
        calls = ThreadCalls(Loop())
        returned = threading.Event()
        async with anyio.create_task_group() as group:
            victim = Victim(
                group, partial(calls.run, returned.set, label="x", limiter=new_limiter())
            )
            await checkpoint()
            while not returned.is_set():
                await checkpoint()
            victim.cancel(how)
            with anyio.fail_after(GUARD):
                while victim.outcome == "running":
                    await checkpoint()
                # Whichever came first, nothing is left for good.
                await calls.join()
        assert calls.abandoned() == []


def test_the_loop_ends_before_an_abandoned_call(
    anyio_backend: tuple[str, dict[str, Any]], blocker: Blocker
) -> None:
    over = threading.Event()

    def work() -> None:
        try:
            blocker()
        finally:
            over.set()

    async def main() -> ThreadCalls:
        calls = ThreadCalls(Loop())
        async with anyio.create_task_group() as group:
            victim = Victim(group, partial(calls.run, work, label="x", limiter=new_limiter()))
            await blocker.wait_until_entered()
            victim.cancel("scope")
        return calls

    calls = anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])
    assert calls.abandoned() == ["x"]
    blocker.go_on.set()
    assert over.wait(GUARD)
    for thread in threading.enumerate():
        if thread.ident == blocker.thread and not thread.daemon:
            thread.join(GUARD)


# Iterators


class Numbers:
    """A blocking iterator that notes what becomes of it."""

    def __init__(
        self, numbers: int, block_at: int | None = None, fail_at: int | None = None
    ) -> None:
        self.given = 0
        self.closed = 0
        self.blocker = Blocker()
        self.closed_in: int | None = None
        self.over = threading.Event()
        self._numbers, self._block_at, self._fail_at = numbers, block_at, fail_at

    def __iter__(self) -> Numbers:
        return self

    def __next__(self) -> int:
        if self.given == self._numbers:
            raise StopIteration
        if self.given == self._block_at:
            self.blocker()
        if self.given == self._fail_at:
            raise ZeroDivisionError
        self.given += 1
        return self.given

    def close(self) -> None:
        self.closed += 1
        self.closed_in = threading.get_ident()
        self.over.set()


def iterator_of(numbers: Any, calls: ThreadCalls | None = None) -> ThreadIterator[int]:
    return ThreadIterator(lambda: numbers, calls or ThreadCalls(Loop()), label="numbers")


async def test_iterating_to_the_end() -> None:
    numbers = Numbers(3)
    iterator = iterator_of(numbers)
    assert [n async for n in iterator] == [1, 2, 3]
    with pytest.raises(StopAsyncIteration):
        await anext(iterator)
    assert numbers.closed == 1  # or the end of a run would wait for a thread once more
    await iterator.aclose()
    await iterator.aclose()
    assert numbers.closed == 1
    assert numbers.closed_in != threading.get_ident()


async def test_a_generator_and_what_has_no_close() -> None:
    closed: list[bool] = []

    def generate() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    iterator = ThreadIterator(generate, ThreadCalls(Loop()), label="x")
    assert await anext(iterator) == 1
    await iterator.aclose()
    assert closed == [True]
    with pytest.raises(StopAsyncIteration):
        await anext(iterator)
    plain = ThreadIterator(lambda: iter([None, 1]), ThreadCalls(Loop()), label="x")
    assert await anext(plain) is None
    await plain.aclose()


async def test_closed_before_it_begins() -> None:
    iterator: ThreadIterator[int] = ThreadIterator(
        lambda: pytest.fail("called"), ThreadCalls(Loop()), label="x"
    )
    await iterator.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(iterator)


async def test_an_error_of_a_step() -> None:
    numbers = Numbers(3, fail_at=1)
    iterator = iterator_of(numbers)
    assert await anext(iterator) == 1
    with pytest.raises(ZeroDivisionError):
        await anext(iterator)
    await iterator.aclose()
    assert numbers.closed == 1


async def test_a_step_that_is_cancelled_closes_the_iterator(anyio_backend: tuple[str, Any]) -> None:
    for how in ways_to_cancel(anyio_backend):
        for fail_at in (None, 1):
            numbers = Numbers(3, block_at=1, fail_at=fail_at)
            calls = ThreadCalls(Loop())
            iterator = iterator_of(numbers, calls)
            assert await anext(iterator) == 1
            async with anyio.create_task_group() as group:
                victim = Victim(group, iterator.__anext__)
                await numbers.blocker.wait_until_entered()
                victim.cancel(how)
                await settle()
                assert victim.outcome == "cancelled"
                with anyio.fail_after(GUARD), anyio.CancelScope(shield=True):
                    await iterator.aclose()  # does not wait for the step
                assert calls.abandoned() == ["numbers"]
                assert not numbers.closed
                numbers.blocker.go_on.set()
                with anyio.fail_after(GUARD):
                    await calls.join()
            assert numbers.closed == 1
            assert numbers.closed_in == numbers.blocker.thread


async def test_closing_needs_no_thread_of_the_models() -> None:
    numbers = Numbers(3)
    iterator = iterator_of(numbers)
    assert await anext(iterator) == 1
    limiter = model_limiter()
    total, limiter.total_tokens = limiter.total_tokens, 1
    try:
        async with limiter:
            with anyio.fail_after(GUARD):
                await iterator.aclose()
    finally:
        limiter.total_tokens = total
    assert numbers.closed == 1


async def test_the_iterator_is_closed_once_however_steps_and_closing_meet() -> None:
    for _ in range(50):
        numbers = Numbers(1_000_000)
        calls = ThreadCalls(Loop())
        iterator = iterator_of(numbers, calls)
        async with anyio.create_task_group() as group:
            victim = Victim(group, iterator.__anext__)
            await checkpoint()
            await checkpoint()
            victim.cancel("scope")
            await iterator.aclose()
        with anyio.fail_after(GUARD):
            await calls.join()
        assert numbers.closed == (1 if numbers.given else numbers.closed)
        assert numbers.closed <= 1


async def test_a_cancelled_step_is_interrupted(blocker: Blocker) -> None:
    """What it has opened is shut down, so its thread returns, and nothing is left behind."""
    calls = ThreadCalls(Loop())
    closed = threading.Event()

    def items() -> Iterator[str]:
        interrupts = current_interrupts.get()
        assert interrupts is not None
        interrupts.add(blocker.go_on.set)
        try:
            yield "first"
            yield blocker()
        finally:
            closed.set()

    iterator = ThreadIterator(items, calls, label="items")
    assert await iterator.__anext__() == "first"
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as group:
            group.start_soon(iterator.__anext__)
            await blocker.wait_until_entered()
            group.cancel_scope.cancel()
        assert not blocker.go_on.is_set()
        await iterator.aclose()
        await calls.join()
    assert closed.is_set()
    assert not calls.abandoned()


async def test_one_that_is_opened_after_the_end_is_interrupted_at_once(blocker: Blocker) -> None:
    """As where the answer to a request comes when its run has been cancelled."""
    calls = ThreadCalls(Loop())
    interrupted = threading.Event()

    def more() -> Iterator[str]:
        blocker()
        interrupts = current_interrupts.get()
        assert interrupts is not None
        interrupts.add(interrupted.set)
        assert interrupted.is_set()
        yield "late"

    iterator = ThreadIterator(more, calls, label="more")
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as group:
            group.start_soon(iterator.__anext__)
            await blocker.wait_until_entered()
            group.cancel_scope.cancel()
        await iterator.aclose()
        blocker.go_on.set()
        await calls.join()
    assert interrupted.is_set()


async def test_steps_that_are_not_cancelled_are_not_interrupted() -> None:
    calls = ThreadCalls(Loop())
    interrupted = threading.Event()

    def items() -> Iterator[str]:
        interrupts = current_interrupts.get()
        assert interrupts is not None
        interrupts.add(interrupted.set)
        yield "only"

    iterator = ThreadIterator(items, calls, label="items")
    assert [item async for item in iterator] == ["only"]
    await iterator.aclose()
    assert not interrupted.is_set()
