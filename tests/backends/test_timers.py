"""A limit on each of many waits, and the timers behind it."""

from __future__ import annotations

import asyncio
import gc
import math
import sys
import weakref
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from langchain_anyio._backends import timers
from langchain_anyio._backends.current import backend
from langchain_anyio._backends.timers import WaitLimit, wait_limit
from limits import HANGS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from langchain_anyio._backends.timers import Timer

pytestmark = pytest.mark.anyio

SECONDS = 0.02


class Counted:
    """The timers of the loop, and the times at which they were to go off."""

    def __init__(self) -> None:
        self._timers = timers.timers()
        self.set: list[float] = []

    def time(self) -> float:
        return self._timers.time()

    def call_at(self, when: float, func: Callable[[], object], /) -> Timer:
        self.set.append(when)
        return self._timers.call_at(when, func)


@pytest.fixture(params=(wait_limit, timers._ScopeWaitLimit), ids=("interrupts", "scopes"))
async def make_limit(request: pytest.FixtureRequest) -> AsyncIterator[Callable[[float], WaitLimit]]:
    made: list[WaitLimit] = []

    def make(seconds: float) -> WaitLimit:
        made.append(request.param(seconds))
        return made[-1]

    yield make
    for limit in made:
        limit.disarm()


async def test_a_wait_that_takes_too_long_ends(make_limit: Callable[[float], WaitLimit]) -> None:
    limit = make_limit(SECONDS)
    for _ in range(3):
        began = anyio.current_time()
        with anyio.fail_after(HANGS):
            with limit:
                await anyio.sleep_forever()
        assert limit.expired
        assert anyio.current_time() - began > SECONDS - 0.002


async def test_a_wait_that_ends_in_time_is_left_alone(
    make_limit: Callable[[float], WaitLimit],
) -> None:
    limit = make_limit(HANGS)
    for _ in range(3):
        with limit:
            await checkpoint()
        assert not limit.expired


async def test_an_error_is_raised(make_limit: Callable[[float], WaitLimit]) -> None:
    limit = make_limit(HANGS)
    with pytest.raises(ZeroDivisionError), limit:
        await checkpoint()
        raise ZeroDivisionError
    assert not limit.expired


async def test_an_error_because_of_the_interruption_is_raised(
    make_limit: Callable[[float], WaitLimit],
) -> None:
    limit = make_limit(SECONDS)
    with pytest.raises(ZeroDivisionError), limit:
        try:
            await anyio.sleep_forever()
        except BaseException:
            raise ZeroDivisionError from None
    assert not limit.expired
    with anyio.fail_after(HANGS), limit:
        await anyio.sleep_forever()
    assert limit.expired


async def test_a_wait_that_ends_in_spite_of_the_interruption_is_whole() -> None:
    limit, got = wait_limit(SECONDS), []
    with limit:
        try:
            await anyio.sleep_forever()
        except BaseException:
            got.append(True)
    assert got
    assert not limit.expired
    if backend() == "asyncio" and sys.version_info >= (3, 11):
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
    await checkpoint()
    limit.disarm()


async def test_many_waits_set_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    limit: Any = wait_limit(HANGS)
    limit._timers = counted = Counted()
    for _ in range(100):
        with limit:
            await checkpoint()
    assert len(counted.set) == 1
    limit.disarm()


class ByHand:
    """Timers whose clock is moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.set: list[float] = []
        self._funcs: list[Callable[[], object]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, func: Callable[[], object], /) -> Timer:
        self.set.append(when)
        self._funcs.append(func)
        return self

    def cancel(self) -> None:
        raise AssertionError

    def go_off(self) -> None:
        self.now = self.set[-1]
        self._funcs[-1]()


async def test_the_timer_is_set_again_only_when_it_goes_off() -> None:
    limit: Any = wait_limit(10)
    limit._timers = clock = ByHand()
    limit.now = clock.time
    for _ in range(5):
        with limit:
            clock.now += 1
    assert clock.set == [10]
    with limit:
        clock.now += 2
        clock.go_off()
        assert clock.set == [10, 15]
    clock.now += 2
    for _ in range(2):
        with limit:
            clock.now += 1
    clock.now = 14
    with limit:
        clock.go_off()
    assert clock.set == [10, 15, 24]
    clock.go_off()
    assert clock.set == [10, 15, 24]
    with limit:
        clock.now += 1
    assert clock.set == [10, 15, 24, 34]
    assert not limit.expired


async def test_without_a_wait_the_timer_stays_off() -> None:
    limit: Any = wait_limit(10)
    limit._timers = clock = ByHand()
    limit.now = clock.time
    with limit:
        pass
    clock.go_off()
    assert clock.set == [10]
    assert limit._timer is None
    with limit:
        pass
    assert clock.set == [10, 20]
    assert not limit.expired


async def test_waits_are_interrupted_on_this_release_of_the_backend() -> None:
    # On a release of trio without the private names that this needs, each wait has a scope.
    assert type(wait_limit(SECONDS)) is not timers._ScopeWaitLimit


async def test_no_limit_sets_no_timer() -> None:
    limit: Any = wait_limit(math.inf)
    limit._timers = counted = Counted()
    with limit:
        await checkpoint()
    assert counted.set == []


async def test_a_limit_that_is_dropped_is_freed() -> None:
    limit: Any = wait_limit(SECONDS)
    with limit:
        await checkpoint()
    assert limit._timer is not None
    gone = weakref.ref(limit)
    del limit
    gc.collect()
    assert gone() is None
    await anyio.sleep(2 * SECONDS)  # and its timer goes off


# Cancellation at the same time


def interrupt(limit: Any) -> None:
    """Let the deadline pass now, as the timer does."""
    limit.deadline = limit.now()
    limit._go_off()


async def wait_once(limit: WaitLimit, outcome: list[str]) -> None:
    with limit:
        await anyio.sleep_forever()
    await checkpoint_if_cancelled()
    outcome.append("expired")


@pytest.mark.parametrize("first", ("the deadline", "the scope"))
async def test_a_scope_cancelled_at_the_same_time_wins(first: str) -> None:
    limit, outcome = wait_limit(HANGS), list[str]()
    scope = anyio.CancelScope()

    async def wait() -> None:
        with scope:
            await wait_once(limit, outcome)
        await checkpoint()  # nothing of a cancellation is left
        outcome.append("left")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        if first == "the deadline":
            interrupt(limit)
            scope.cancel()
        else:
            scope.cancel()
            interrupt(limit)
    assert outcome == ["left"]
    assert scope.cancelled_caught
    limit.disarm()


@pytest.mark.parametrize("first", ("the deadline", "the cancellation"))
@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio does not count its cancellations")
async def test_a_native_cancellation_at_the_same_time_wins(first: str) -> None:
    if backend() == "trio":
        pytest.skip("asyncio's own")
    limit, outcome = wait_limit(HANGS), list[str]()
    task = asyncio.ensure_future(wait_once(limit, outcome))
    await anyio.wait_all_tasks_blocked()
    if first == "the deadline":
        interrupt(limit)
        task.cancel()
    else:
        task.cancel()
        interrupt(limit)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert outcome == []
    assert task.cancelling() == 1
    limit.disarm()


async def test_a_scope_around_it_may_be_cancelled_before() -> None:
    limit = wait_limit(SECONDS)
    with anyio.CancelScope() as scope:
        scope.cancel()
        with limit:
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert not limit.expired
    limit.disarm()


async def test_scopes_within_the_wait_are_left_in_order() -> None:
    limit = wait_limit(SECONDS)
    with anyio.fail_after(HANGS) as outer:
        with limit:
            with anyio.move_on_after(HANGS), anyio.CancelScope(shield=True):
                await anyio.sleep_forever()
        assert limit.expired
        await checkpoint()
    assert not outer.cancelled_caught


# The end of trio's run


def test_a_wait_while_the_run_ends_is_cancelled() -> None:
    trio = pytest.importorskip("trio")
    pytest.importorskip("trio.testing")
    outcome: list[object] = []

    async def waits() -> AsyncIterator[None]:
        limit = wait_limit(1)
        try:
            yield
        finally:
            try:
                with limit:
                    await trio.sleep_forever()
            except trio.Cancelled:
                outcome.append(limit.expired)
                raise

    async def main() -> None:
        keep.append(waits())
        await keep[0].__anext__()

    keep: list[Any] = []
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert outcome == [False]
