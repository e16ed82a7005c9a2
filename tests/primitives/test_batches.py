"""`batches()` of projections: what has come since the last step, all at once, and not too often."""

from __future__ import annotations

import math
from functools import partial
from itertools import chain
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from cancelling import Victim, settle, ticks, ways_to_cancel
from langchain_anyio import AsyncProjection, AsyncTextProjection
from langchain_anyio._primitives.backpressure import Backpressure
from langchain_anyio._primitives.projection import ProjectionState
from langchain_anyio._primitives.wakeup import Wakeup
from limits import HANGS

pytestmark = pytest.mark.anyio

# Seconds that no test lasts: an interval that is over only if something ends it.
NEVER = 1e6


async def collect(batches: Any, into: list[Any]) -> None:
    async for batch in batches:
        into.append(batch)


def view(state: ProjectionState[Any, Any]) -> AsyncProjection[Any, Any]:
    return AsyncProjection._view(state, None)


class Flow:
    """A projection whose producer is held back `limit` events ahead."""

    def __init__(self, *, replay: bool = True) -> None:
        self.flow = Backpressure()
        self.state = ProjectionState[int, str](self.flow, replay=replay)
        self.projection = view(self.state)

    def push(self, number: int) -> None:
        self.flow.produced += 1
        self.state.push(number)

    async def produce(self, count: int, limit: int) -> None:
        for number in range(count):
            await self.flow.wait_for_room(limit)
            self.push(number)
        self.state.complete("end")


# What a batch is


async def test_all_that_has_come_is_one_batch() -> None:
    numbers, text = AsyncProjection[Any, str](), AsyncTextProjection()
    got: list[list[Any]] = [[], []]
    async with anyio.create_task_group() as group:
        group.start_soon(collect, numbers.batches(), got[0])
        group.start_soon(collect, text.batches(), got[1])
        for burst in ((1, 2, 2), (None,), (3, 4)):
            await settle()
            for delta in burst:
                numbers.push(delta)
                text.push(f"{delta} ")
        await settle()
        numbers.complete("end")
        text.complete("end")
    assert got == [[[1, 2, 2], [None], [3, 4]], ["1 2 2 ", "None ", "3 4 "]]
    late: list[Any] = []
    await collect(numbers.batches(), late)
    await collect(text.batches(NEVER), late)
    assert late == [[1, 2, 2, None, 3, 4], "1 2 2 None 3 4 "]


async def test_the_deltas_of_a_batch_are_the_consumers_own() -> None:
    projection = AsyncProjection[int, None]()
    projection.push(1)
    batch = await anext(projection.batches())
    batch.append(2)
    projection.push(3)
    assert await anext(projection.batches()) == [1, 3]


@pytest.mark.parametrize("interval", (0, NEVER))
async def test_no_batch_is_empty(interval: float) -> None:
    projection = AsyncTextProjection()
    got: list[str] = []
    async with anyio.create_task_group() as group:
        group.start_soon(collect, projection.batches(interval), got)
        for delta in ("", "", "a", "", "b", ""):
            projection.push(delta)
            await settle()
        projection.complete("ab")
    assert got == ["a", "b"]
    assert await projection == "ab"


async def test_nothing_has_come() -> None:
    projection = AsyncProjection[int, None]()
    got: list[Any] = []
    async with anyio.create_task_group() as group:
        group.start_soon(collect, projection.batches(), got)
        await settle()
        projection.complete(None)
    assert got == []
    with pytest.raises(StopAsyncIteration):
        await anext(projection.batches(1))


@pytest.mark.parametrize("interval", (0, 0.0, NEVER))
async def test_an_error_comes_after_the_deltas(interval: float) -> None:
    projection, error = AsyncProjection[int, None](), ZeroDivisionError("x")
    before: list[Any] = []
    async with anyio.create_task_group() as group:
        victim = Victim(group, partial(collect, projection.batches(interval), before))
        projection.push(1)
        await settle()
        projection.push(2)
        projection.push(3)
        projection.fail(error)
    assert before == [[1], [2, 3]]
    assert victim.value is error
    batches = projection.batches(interval)
    assert await anext(batches) == [1, 2, 3]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError) as caught:
            await anext(batches)
        assert caught.value is error


async def test_each_consumer_has_a_place_of_its_own() -> None:
    projection = AsyncTextProjection()
    got: list[list[str]] = [[] for _ in range(100)]
    async with anyio.create_task_group() as group:
        for number, into in enumerate(got):
            interval = NEVER if number % 2 else 0.0
            group.start_soon(collect, projection.batches(interval), into)
        for number in range(300):
            projection.push(f"{number} ")
            if number % 7 == 0:
                await settle()
        projection.complete("end")
    whole = "".join(f"{number} " for number in range(300))
    assert {"".join(into) for into in got} == {whole}
    assert {len(into) for into in got[::2]} == {300 // 7 + 2}
    assert {tuple(into) for into in got[1::2]} == {("0 ", whole[2:])}


async def test_tasks_that_share_batches_share_out_the_deltas() -> None:
    projection = AsyncProjection[int, None]()
    batches = projection.batches()
    got: list[list[list[int]]] = [[], [], []]
    async with anyio.create_task_group() as group:
        for into in got:
            group.start_soon(collect, batches, into)
        for number in range(50):
            projection.push(number)
            if number % 3 == 0:
                await checkpoint()
        projection.complete(None)
    shared = [batch for into in got for batch in into]
    assert all(shared)
    assert sorted(chain.from_iterable(shared)) == list(range(50))


@pytest.mark.parametrize("projection", (AsyncProjection[int, str](), AsyncTextProjection()))
@pytest.mark.parametrize(
    ("interval", "error"),
    (
        (-1, ValueError),
        (-0.001, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        (-math.inf, ValueError),
        (10**400, ValueError),
        (True, TypeError),
        (None, TypeError),
        ("1", TypeError),
        (1j, TypeError),
    ),
)
def test_bad_intervals(
    projection: AsyncProjection[Any, Any], interval: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="interval must be a"):
        projection.batches(interval)


# Intervals: `test_batches_trio` has those by the clock


async def test_the_first_comes_at_once_and_the_last_at_the_end() -> None:
    projection = AsyncTextProjection()
    got: list[str] = []
    async with anyio.create_task_group() as group:
        group.start_soon(collect, projection.batches(NEVER), got)
        await settle()
        projection.push("a")
        await settle()
        assert got == ["a"]
        for letter in "bcd":
            projection.push(letter)
            await settle()
            assert got == ["a"]
        projection.complete("abcd")
    assert got == ["a", "bcd"]


async def test_the_end_without_anything_new_ends_the_interval() -> None:
    projection = AsyncTextProjection()
    got: list[str] = []
    async with anyio.create_task_group() as group:
        group.start_soon(collect, projection.batches(NEVER), got)
        projection.push("a")
        await settle()
        projection.complete("a")
    assert got == ["a"]


async def test_an_interval_is_over_by_the_clock() -> None:
    projection = AsyncTextProjection()
    batches = projection.batches(0.002)
    projection.push("a")
    assert await anext(batches) == "a"
    with anyio.fail_after(HANGS):
        for letter in "bc":
            projection.push(letter)
            due = batches._pace.due
            assert await anext(batches) == letter
            assert anyio.current_time() >= due


# Cancellation


async def test_who_is_cancelled_loses_nothing(anyio_backend: tuple[str, Any]) -> None:
    for how in ways_to_cancel(anyio_backend):
        for interval in (0, NEVER):
            # Before its first batch, at it, while it waits out the interval or for more.
            for tick in range(12):
                projection = AsyncTextProjection()
                batches = projection.batches(interval)
                got: list[str] = []
                async with anyio.create_task_group() as group:
                    victim = Victim(group, partial(collect, batches, got))
                    projection.push("a")
                    await ticks(tick)
                    projection.push("b")
                    victim.cancel(how)
                    await settle()
                    assert victim.outcome == "cancelled"
                    projection.push("c")
                    projection.complete("abc")
                    await collect(batches, got)
                assert "".join(got) == "abc", (how, interval, tick)


async def test_a_native_cancellation_that_ties_with_the_interval_is_not_swallowed(
    anyio_backend: tuple[str, Any],
) -> None:
    if anyio_backend[0] == "trio":
        pytest.skip("trio has no native cancellation")
    import asyncio

    projection = AsyncTextProjection()
    projection.push("a")
    batches = projection.batches(0.002)
    assert await anext(batches) == "a"
    task = asyncio.ensure_future(anext(batches))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    due = batches._pace.due
    loop = asyncio.get_running_loop()
    # Due at the same time as the interval.
    loop.call_at(due, task.cancel)
    with anyio.fail_after(HANGS), pytest.raises(asyncio.CancelledError):
        await task
    projection.push("b")
    projection.complete("ab")
    assert await anext(batches) == "b"


async def test_a_step_that_is_ready_is_a_cancellation_point() -> None:
    projection = AsyncProjection[int, None]()
    projection.push(1)
    projection.complete(None)
    batches = projection.batches()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anext(batches)
    assert scope.cancelled_caught
    assert await anext(batches) == [1]


async def test_who_never_waits_lets_others_run() -> None:
    projection = AsyncProjection[int, None]()
    batches = projection.batches()
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(other)
        await checkpoint()
        for _ in range(64 * 5):
            projection.push(1)
            await anext(batches)
        assert others >= 5
        group.cancel_scope.cancel()


# Producers that are held back, started, or asked


async def test_a_batch_makes_room_for_as_much() -> None:
    flow = Flow()
    async with anyio.create_task_group() as group:
        group.start_soon(flow.produce, 20, 4)
        batches = flow.projection.batches()
        given = 0
        while given < 20:
            await settle()
            assert flow.flow.produced == min(given + 4, 20)
            given += len(await anext(batches))
    assert given == 20


async def test_who_waits_out_an_interval_is_not_at_the_head() -> None:
    flow = Flow()
    got: list[Any] = []
    async with anyio.create_task_group() as group:
        victim = Victim(group, partial(collect, flow.projection.batches(NEVER), got))
        await settle()
        group.start_soon(flow.produce, 20, 4)
        await settle()
        taken = sum(map(len, got))
        assert taken in (1, 2, 3, 4)
        assert flow.flow.produced == taken + 4
        assert not flow.flow.at_head
        victim.cancel("scope")
        await settle()
        assert flow.flow.produced == taken + 4
        await collect(flow.projection.batches(), got)
    assert [*chain.from_iterable(got[1:])] == [*range(20)]


async def test_what_all_have_passed_is_dropped() -> None:
    flow = Flow(replay=False)
    batches = [flow.projection.batches() for _ in range(3)]
    for number in range(0, 3000, 3):
        for delta in range(number, number + 3):
            flow.push(delta)
        for iterator in batches:
            assert await anext(iterator) == [number, number + 1, number + 2]
        assert len(flow.state.deltas) <= 2 * 64
    slow = batches.pop()
    for delta in range(3000, 4000):
        flow.push(delta)
    assert await anext(slow) == [*range(3000, 4000)]


async def test_the_start_is_awaited_at_each_step() -> None:
    projection = AsyncProjection[int, None]()
    calls = 0

    async def start() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            projection.push(1)
        else:
            projection.complete(None)

    projection.set_start(start)
    got: list[Any] = []
    await collect(projection.batches(), got)
    assert got == [[1]]
    assert calls == 2


@pytest.mark.parametrize("waits", (True, False))
@pytest.mark.parametrize("interval", (0, NEVER))
async def test_asking_for_more(interval: float, waits: bool) -> None:
    projection = AsyncProjection[int, str]()
    asked = 0

    async def more() -> bool:
        nonlocal asked
        asked += 1
        if waits:
            await checkpoint()
        if asked == 7:
            projection.complete("end")
        elif asked % 2:
            projection.push(asked)
            projection.push(-asked)
        return asked <= 7

    projection.set_arequest_more(more)
    got: list[Any] = []
    with anyio.fail_after(HANGS):
        await collect(projection.batches(interval), got)
    # Within the interval it is asked on, as by one who takes each delta.
    assert got == ([[1, -1], [3, -3], [5, -5]] if not interval else [[1, -1], [3, -3, 5, -5]])
    assert asked == 7


@pytest.mark.parametrize("interval", (0, NEVER))
async def test_asking_for_more_in_vain(interval: float) -> None:
    projection = AsyncTextProjection()
    answers = [True, True, False]

    async def more() -> bool:
        if not answers:
            return False
        projection.push("x")
        return answers.pop(0)

    projection.set_arequest_more(more)
    got: list[Any] = []
    await collect(projection.batches(interval), got)
    # Who says that nothing more will come may still have brought something.
    assert got == (["x", "x", "x"] if not interval else ["x", "xx"])
    assert not projection.done


async def test_a_question_is_not_cut_short_by_the_interval() -> None:
    projection = AsyncTextProjection()
    outcomes: list[str] = []

    async def more() -> bool:
        try:
            await anyio.sleep(0.002)
        except BaseException:
            outcomes.append("cancelled")
            raise
        projection.push("x")
        outcomes.append("returned")
        if len(outcomes) == 3:
            projection.complete("xxx")
        return True

    projection.set_arequest_more(more)
    got: list[str] = []
    await collect(projection.batches(0.001), got)
    assert "".join(got) == "xxx"
    assert outcomes == ["returned"] * 3


async def test_asking_a_producer_in_the_background() -> None:
    projection = AsyncTextProjection()
    state = projection._state
    asked, stepped = anyio.Event(), Wakeup()
    steps = 0

    def request_step() -> Wakeup | None:
        if steps == 5:
            return None
        asked.set()
        return stepped

    async def request_more() -> bool:
        wakeup = request_step()
        if wakeup is not None:
            await wakeup.wait()
        return steps < 5

    async def produce() -> None:
        nonlocal asked, steps
        while steps < 5:
            await asked.wait()
            asked = anyio.Event()
            await checkpoint()
            steps += 1
            projection.push(f"{steps}")
            stepped.fire()

    state.request_more, state.request_step = request_more, request_step
    got: list[str] = []
    async with anyio.create_task_group() as group:
        group.start_soon(produce)
        await collect(projection.batches(NEVER), got)
    assert got == ["1", "2345"]
    assert not stepped.waiting
    # Another callback takes the place of both.
    projection.set_arequest_more(None)
    assert state.request_step is None


# Other event loops and threads


def test_batches_of_another_event_loop(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    backend, options = anyio_backend
    projection = AsyncTextProjection()
    batches = projection.batches(NEVER)
    projection.push("a")

    async def first() -> None:
        assert await anext(batches) == "a"

    async def second() -> None:
        projection.push("b")
        with pytest.raises(RuntimeError, match="another event loop"):
            await anext(batches)
        projection.complete("ab")
        assert await anext(projection.batches()) == "ab"

    anyio.run(first, backend=backend, backend_options=options)
    other = "asyncio" if backend == "trio" else "trio"
    try:
        anyio.run(second, backend=other)
    except LookupError:
        pytest.skip("trio is not installed")
