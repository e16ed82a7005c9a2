"""`batches()` by trio's virtual clock."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
import trio
import trio.testing

from langchain_anyio import AsyncIteratorCallbackHandler, AsyncProjection, AsyncTextProjection
from langchain_anyio._primitives.wakeup import Wakeup
from test_primitives_trio import CancelPoints

pytestmark = pytest.mark.trio

Clock = trio.testing.MockClock


class Timed:
    """Batches, and when they came, in seconds since the beginning."""

    def __init__(self) -> None:
        self.got: list[tuple[float, Any]] = []
        self._began = trio.current_time()

    async def read(self, batches: Any) -> None:
        async for batch in batches:
            self.got.append((round(trio.current_time() - self._began, 6), batch))


async def push(projection: AsyncTextProjection, *times: float) -> None:
    """Push letters at the given times, and complete the projection at the last of them."""
    began = trio.current_time()
    for letter, time in zip("abcdefghijklmnopqrstuvwxyz", times[:-1], strict=False):
        await trio.sleep_until(began + time)
        projection.push(letter)
    await trio.sleep_until(began + times[-1])
    projection.complete("")


@pytest.mark.parametrize(
    ("times", "expected"),
    (
        ((0, 0.1, 0.2, 1.1, 1.9, 3.5, 3.7), [(0, "a"), (1, "bc"), (2, "de"), (3.5, "f")]),
        ((5, 5.5, 6.5, 20), [(5, "a"), (6, "b"), (7, "c")]),
        ((0, 0.5, 0.6), [(0, "a"), (0.6, "b")]),
        ((0, 0.5), [(0, "a")]),
        ((0, 2.5, 2.6, 2.7), [(0, "a"), (2.5, "b"), (2.7, "c")]),
    ),
)
async def test_batches_are_an_interval_apart(
    times: tuple[float, ...], expected: list[tuple[float, str]], autojump_clock: Clock
) -> None:
    projection = AsyncTextProjection()
    timed = Timed()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timed.read, projection.batches(1))
        nursery.start_soon(push, projection, *times)
    assert timed.got == expected


async def test_a_consumer_that_takes_its_time_waits_no_longer(autojump_clock: Clock) -> None:
    projection = AsyncTextProjection()
    batches = projection.batches(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(push, projection, 0, 1, 2, 3, 4, 5)
        assert await anext(batches) == "a"
        await trio.sleep(2.5)
        began = trio.current_time()
        assert await anext(batches) == "bc"
        assert trio.current_time() == began
        assert await anext(batches) == "d"
        assert trio.current_time() == began + 1
        nursery.cancel_scope.cancel()


async def test_tasks_that_share_batches_share_the_interval(autojump_clock: Clock) -> None:
    projection = AsyncTextProjection()
    timed, batches = Timed(), projection.batches(1)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(timed.read, batches)
        nursery.start_soon(push, projection, 0, 0.5, 1.1, 1.2, 2.3, 5)
    times = [time for time, _ in timed.got]
    assert "".join(batch for _, batch in timed.got) == "abcde"
    assert all(later - time >= 1 for time, later in pairwise(times))


async def test_a_deadline_that_ties_with_the_interval(autojump_clock: Clock) -> None:
    outcomes = set()
    for _ in range(50):  # trio shuffles what is due at the same time
        projection = AsyncTextProjection()
        batches = projection.batches(1)
        projection.push("a")
        got = await anext(batches)
        projection.push("b")
        with trio.move_on_after(1) as scope:
            got += await anext(batches)
        outcomes.add(scope.cancelled_caught)
        projection.complete("")
        async for text in batches:
            got += text
        assert got == "ab"
    assert outcomes


async def test_a_producer_that_steps_only_when_asked(autojump_clock: Clock) -> None:
    projection = AsyncProjection[int, None]()
    asked = 0

    async def more() -> bool:
        nonlocal asked
        asked += 1
        await trio.sleep(0.3)
        projection.push(asked)
        if asked == 9:
            projection.complete(None)
        return True

    projection.set_arequest_more(more)
    timed = Timed()
    await timed.read(projection.batches(1))
    # A step that began within the interval is not cut short.
    assert timed.got == [(0.3, [1]), (1.5, [2, 3, 4, 5]), (2.7, [6, 7, 8, 9])]


async def test_a_producer_in_the_background_is_not_waited_for(autojump_clock: Clock) -> None:
    projection = AsyncProjection[int, None]()
    asked, stepped = trio.Event(), Wakeup()

    def request_step() -> Wakeup:
        asked.set()
        return stepped

    async def request_more() -> bool:
        await request_step().wait()
        return True

    async def produce() -> None:
        nonlocal asked
        for number, seconds in enumerate((0.25, 0.25, 0.25, 10, 0.25)):
            await asked.wait()
            asked = trio.Event()
            await trio.sleep(seconds)
            projection.push(number)
            if number == 4:
                projection.complete(None)
            stepped.fire()

    state = projection._state
    state.request_more, state.request_step = request_more, request_step
    timed = Timed()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        await timed.read(projection.batches(1))
    # What is there is given while a step of ten seconds goes on.
    assert timed.got == [(0.25, [0]), (1.25, [1, 2]), (10.75, [3]), (11, [4])]


async def test_every_step_is_a_cancel_point(autojump_clock: Clock) -> None:
    projection = AsyncTextProjection()
    batches = projection.batches()
    for _ in range(200):
        projection.push("a")
        with CancelPoints() as points:
            await anext(batches)
        assert points.number == 1
    projection.complete("")
    with CancelPoints() as points, pytest.raises(StopAsyncIteration):
        await anext(batches)
    assert points.number == 1


async def test_batches_of_a_handler_are_an_interval_apart(autojump_clock: Clock) -> None:
    handler = AsyncIteratorCallbackHandler()
    timed = Timed()
    run: Any = {"run_id": UUID(int=1)}

    async def say() -> None:
        await handler.on_llm_start({}, [], **run)
        for letter in "abcdefgh":
            await handler.on_llm_new_token(letter, **run)
            await trio.sleep(0.3)
        await handler.on_llm_error(ZeroDivisionError(), **run)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(say)
        with pytest.raises(ZeroDivisionError):
            await timed.read(handler.aiter().batches(1))
    assert timed.got == [(0, "a"), (1, "bcd"), (2, "efg"), (2.4, "h")]
