from __future__ import annotations

import asyncio
import gc
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from cancelling import Victim, settle, ticks, ways_to_cancel
from langchain_anyio import AsyncProjection, AsyncTextProjection, StreamCancelledError
from langchain_anyio._primitives.backpressure import Backpressure
from langchain_anyio._primitives.projection import ProjectionState, shareable_error
from limits import HANGS

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

pytestmark = pytest.mark.anyio

# Steps that a consumer may take before it lets others run.
LONGEST_DRAIN = 64


async def collect(projection: Any, into: list[Any]) -> None:
    async for delta in projection:
        into.append(delta)


def view(state: ProjectionState[Any, Any]) -> AsyncProjection[Any, Any]:
    return AsyncProjection._view(state, None)


# What it is


def test_without_waiting() -> None:
    projection = AsyncProjection[int, str]()
    assert not projection.done
    projection.push(1)
    projection.complete("one")
    assert projection.done
    assert projection.error is None
    with pytest.raises(anyio.ClosedResourceError):
        projection.push(2)
    projection.fail(ValueError())
    projection.complete("two")
    assert projection.error is None
    assert AsyncProjection.__module__ == AsyncTextProjection.__module__ == "langchain_anyio"


def test_what_is_printed_says_how_to_read_it() -> None:
    text, numbers, failed = (
        AsyncTextProjection(),
        AsyncProjection[int, str](),
        AsyncTextProjection(),
    )
    text.push("secret")
    text.push("text")
    numbers.complete("final")
    failed.fail(ValueError("secret"))
    how = "deltas; iterate over it or await it>"
    assert repr(text) == f"<AsyncTextProjection unfinished, 2 {how}"
    assert f"{numbers}" == f"<AsyncProjection finished, 0 {how}"
    assert str(failed) == f"<AsyncTextProjection failed with ValueError, 0 {how}"
    _, state, push = state_without_replay()
    for number in range(1000):
        push(number)
    assert repr(view(state)) == f"<AsyncProjection unfinished, 1000 {how}"


def test_the_first_end_counts() -> None:
    projection = AsyncProjection[int, str]()
    error = ValueError()
    projection.fail(error)
    projection.fail(KeyError())
    projection.complete("x")
    assert projection.error is error


@pytest.mark.parametrize("value", (None, 1, b"x", ["x"]))
def test_text_is_text(value: Any) -> None:
    projection = AsyncTextProjection()
    with pytest.raises(TypeError, match="requires a string delta"):
        projection.push(value)
    with pytest.raises(TypeError, match="requires a string final value"):
        projection.complete(value)
    assert not projection.done


@pytest.mark.parametrize("moment", ("before", "during", "after"))
async def test_every_consumer_sees_everything(moment: str) -> None:
    projection = AsyncProjection[Any, str]()
    got: list[list[Any]] = [[] for _ in range(10)]
    deltas = [1, None, 2, 2, None]
    async with anyio.create_task_group() as group:
        if moment == "before":
            victims = [Victim(group, partial(collect, projection, g)) for g in got]
            waiter = Victim(group, projection._wait)
            await settle()
        projection.push(deltas[0])
        projection.push(deltas[1])
        if moment == "during":
            victims = [Victim(group, partial(collect, projection, g)) for g in got]
            waiter = Victim(group, projection._wait)
            await settle()
            assert got == [[1, None]] * 10
        for delta in deltas[2:]:
            projection.push(delta)
            await checkpoint()
        projection.complete("end")
        if moment == "after":
            victims = [Victim(group, partial(collect, projection, g)) for g in got]
            waiter = Victim(group, projection._wait)
    assert got == [deltas] * 10
    assert waiter.value == "end"
    assert {v.outcome for v in victims} == {"returned"}
    assert await projection == await projection == "end"


async def test_none_is_a_final_value() -> None:
    projection = AsyncProjection[int, None]()
    projection.complete(None)
    assert await projection is None
    assert [d async for d in projection] == []


async def test_tasks_that_share_an_iterator_share_out_the_deltas() -> None:
    projection = AsyncProjection[int, None]()
    iterator = aiter(projection)
    got: list[list[int]] = [[], [], []]
    async with anyio.create_task_group() as group:
        for into in got:
            group.start_soon(collect, iterator, into)
        for number in range(50):
            projection.push(number)
            if number % 3 == 0:
                await checkpoint()
        projection.complete(None)
    assert sorted(got[0] + got[1] + got[2]) == list(range(50))


# Failures


@pytest.mark.parametrize("moment", ("before", "after"))
async def test_a_failure_reaches_everybody_after_the_deltas(moment: str) -> None:
    projection = AsyncProjection[int, str]()
    error = ZeroDivisionError("x")
    got: list[list[int]] = [[] for _ in range(5)]
    async with anyio.create_task_group() as group:

        def consume() -> list[Victim]:
            return [
                *(Victim(group, partial(collect, projection, g)) for g in got),
                *(Victim(group, projection._wait) for _ in range(3)),
            ]

        victims: list[Victim] = consume() if moment == "before" else []
        await settle()
        projection.push(1)
        projection.push(2)
        projection.fail(error)
        victims = victims or consume()
    assert got == [[1, 2]] * 5
    assert [v.value for v in victims] == [error] * 8
    assert projection.error is error


def raised_in_a_producer() -> ValueError:
    try:
        try:
            raise KeyError("context")
        except KeyError as exc:
            raise ValueError("error") from exc
    except ValueError as exc:
        return exc


@pytest.mark.parametrize("how", ("iterate", "wait"))
async def test_raising_an_error_leaves_it_as_it_came(how: str) -> None:
    projection = AsyncProjection[int, str]()
    error = raised_in_a_producer()
    cause, context = error.__cause__, error.__context__
    producing = traceback.extract_tb(error.__traceback__)
    projection.fail(error)
    depths = set()
    for _ in range(1000):
        try:
            raise OSError("a consumer's own trouble")
        except OSError:
            with pytest.raises(ValueError) as caught:
                if how == "iterate":
                    await collect(projection, [])
                else:
                    await projection
        assert caught.value is error
        assert error.__cause__ is cause
        assert error.__context__ is context
        frames = traceback.extract_tb(error.__traceback__)
        assert frames[-1].name == producing[-1].name == "raised_in_a_producer"
        depths.add(len(frames))
    assert len(depths) == 1


async def test_an_error_without_a_context_gets_none() -> None:
    projection = AsyncProjection[int, str]()
    error = ValueError()
    projection.fail(error)
    try:
        raise OSError
    except OSError:
        with pytest.raises(ValueError):
            await projection
    assert error.__context__ is None


@pytest.mark.parametrize("error", (StopIteration(1), StopAsyncIteration()))
async def test_an_error_never_looks_like_the_end(error: Exception) -> None:
    projection = AsyncProjection[int, str]()
    projection.fail(error)
    for consume in (partial(collect, projection, []), projection._wait):
        with pytest.raises(RuntimeError, match="Stop") as caught:
            await consume()
        assert caught.value.__cause__ is error
        assert "coroutine" not in str(caught.value)


def test_a_cancellation_is_never_stored() -> None:
    cancelled = asyncio.CancelledError()
    for error in (
        cancelled,
        BaseExceptionGroup("", [cancelled]),
        BaseExceptionGroup("", [cancelled, BaseExceptionGroup("", [cancelled])]),
    ):
        projection = AsyncProjection[int, str]()
        projection.fail(error)
        assert type(projection.error) is StreamCancelledError
        assert isinstance(projection.error, anyio.ClosedResourceError)
    rest = shareable_error(BaseExceptionGroup("x", [cancelled, ValueError(), KeyError()]))
    assert type(rest) is ExceptionGroup
    assert list(map(type, rest.exceptions)) == [ValueError, KeyError]
    for error in (KeyboardInterrupt(), SystemExit(1), ExceptionGroup("", [ValueError()])):
        projection = AsyncProjection()
        projection.fail(error)
        assert projection.error is error


# Cancellation


@pytest.mark.parametrize("what", ("iterate", "wait"))
async def test_who_is_cancelled_at_any_point_takes_nothing_from_anybody(
    anyio_backend: tuple[str, Any], what: str
) -> None:
    async def cancelled_at(point: int, how: str) -> str:
        projection = AsyncProjection[int, str]()
        own: list[int] = []
        others: list[list[int]] = [[], []]
        cursor = aiter(projection)

        async def produce() -> None:
            for number in range(6):
                projection.push(number)
                await ticks(number % 3)
            projection.complete("end")

        async with anyio.create_task_group() as group:
            victim = Victim(
                group, partial(collect, cursor, own) if what == "iterate" else projection._wait
            )
            for other in others:
                group.start_soon(collect, projection, other)
            waiter = Victim(group, projection._wait)
            await ticks(1)
            group.start_soon(produce)
            await ticks(point)
            victim.cancel(how)
        assert others == [[*range(6)]] * 2
        assert waiter.value == "end"
        if what == "iterate":
            # The cursor stands behind the last delta that was returned.
            await collect(cursor, own)
            assert own == [*range(6)]
        return victim.outcome

    outcomes = {
        await cancelled_at(point, how)
        for how in ways_to_cancel(anyio_backend)
        for point in range(20)
    }
    assert outcomes == {"cancelled", "returned"}


async def test_each_step_is_a_cancellation_point() -> None:
    async def check(func: Callable[[], Any]) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await func()
        assert scope.cancelled_caught

    projection = AsyncProjection[int, str]()
    for number in range(5):
        projection.push(number)
    cursor = aiter(projection)
    assert [await anext(cursor), await anext(cursor)] == [0, 1]
    await check(cursor.__anext__)
    assert [await anext(cursor), await anext(cursor), await anext(cursor)] == [2, 3, 4]
    await check(cursor.__anext__)
    await check(projection._wait)
    failed = AsyncProjection[int, str]()
    failed.fail(ValueError())
    failed_cursor = aiter(failed)
    with pytest.raises(ValueError):
        await anext(failed_cursor)
    await check(failed_cursor.__anext__)
    await check(failed._wait)
    projection.complete("x")
    with pytest.raises(StopAsyncIteration):
        await anext(cursor)
    await check(cursor.__anext__)
    await check(projection._wait)

    async def more() -> bool:
        return False

    pumped = AsyncProjection[int, str]()
    pumped.set_arequest_more(more)
    pumped_cursor = aiter(pumped)
    with pytest.raises(StopAsyncIteration):
        await anext(pumped_cursor)
    await check(pumped_cursor.__anext__)
    await check(pumped._wait)


DRAINS = ("one", "many", "many ends", "pump", "pump for others", "pump for the final value")


def drain_of(kind: str, size: int) -> tuple[Callable[[], Any], list[int]]:
    """What reads `size` deltas that need no waiting for, and the list of those it has read."""
    got: list[int] = []
    projection = AsyncProjection[int, str]()
    numbers = iter(range(size))
    others: list[int] = []

    async def more() -> bool:
        number = next(numbers, None)
        if number is None:
            return False
        if kind == "pump":
            projection.push(number)
        else:
            others.append(number)
            got.append(number)
        return True

    async def drain() -> None:
        if kind == "many":
            for number in range(size):
                short = AsyncProjection[int, str]()
                short.push(number)
                async for delta in short:
                    got.append(delta)
                    break
        elif kind == "many ends":
            for number in range(size):
                short = AsyncProjection[int, str]()
                short.complete("")
                await collect(short, [])
                got.append(number)
        elif kind == "pump for the final value":
            assert await projection is None
        else:
            await collect(projection, got)

    if kind == "one":
        for number in range(size):
            projection.push(number)
        projection.complete("")
    elif kind.startswith("pump"):
        projection.set_arequest_more(more)
    return drain, got


@pytest.mark.parametrize("kind", DRAINS)
async def test_a_long_drain_lets_others_run(kind: str) -> None:
    drain, got = drain_of(kind, 1000)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(count)
        await drain()
        group.cancel_scope.cancel()
    assert got == [*range(1000)]
    assert turns >= 1000 // LONGEST_DRAIN - 1


@pytest.mark.parametrize("kind", DRAINS)
async def test_a_long_drain_is_cancelled(anyio_backend: tuple[str, Any], kind: str) -> None:
    for how in ways_to_cancel(anyio_backend):
        drain, got = drain_of(kind, 1000)
        async with anyio.create_task_group() as group:
            victim = Victim(group, drain)
            await ticks(3)
            victim.cancel(how)
        assert victim.outcome == "cancelled"
        assert got == [*range(len(got))]
        assert len(got) <= 8 * LONGEST_DRAIN


# What starts the producer, and what is asked for more


async def test_start_is_awaited_before_each_step() -> None:
    projection = AsyncProjection[int, str]()
    calls = 0

    async def start() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            projection.push(1)
            projection.complete("end")

    projection.set_start(start)
    assert [d async for d in projection] == [1]
    assert await projection == "end"
    assert calls == 3
    projection.set_start(None)
    assert await projection == "end"
    assert calls == 3


async def test_asking_for_more() -> None:
    projection = AsyncProjection[int, str]()
    asked = 0

    async def more() -> bool:
        nonlocal asked
        asked += 1
        await checkpoint()
        if asked == 4:
            projection.complete("end")
        elif asked % 2:
            projection.push(asked)
        return asked <= 4

    projection.set_arequest_more(more)
    assert [d async for d in projection] == [1, 3]
    assert await projection == "end"
    assert asked == 4


async def test_asking_for_more_in_vain() -> None:
    projection = AsyncTextProjection()
    answers = [True, False]

    async def more() -> bool:
        projection.push("x")
        return answers.pop(0)

    projection.set_arequest_more(more)
    # Who says that nothing more will come may still have brought something.
    cursor = aiter(projection)
    assert [await anext(cursor), await anext(cursor)] == ["x", "x"]

    async def nothing() -> bool:
        return False

    projection.set_arequest_more(nothing)
    with pytest.raises(StopAsyncIteration):
        await anext(cursor)
    assert await projection == ""


async def test_what_is_asked_for_more_may_fail() -> None:
    projection = AsyncProjection[int, str]()

    async def more() -> bool:
        projection.fail(ValueError())
        return False

    projection.set_arequest_more(more)
    with pytest.raises(ValueError):
        await collect(projection, [])
    with pytest.raises(ValueError):
        await projection


# Memory and cost


async def test_a_million_deltas_replayed() -> None:
    projection = AsyncProjection[int, str]()
    for _ in range(1_000_000):
        projection.push(1)
    projection.complete("")
    count = 0
    async for delta in projection:
        count += delta
    assert count == 1_000_000


async def test_a_thousand_consumers() -> None:
    projection = AsyncProjection[int, str]()
    got: list[list[int]] = [[] for _ in range(1000)]
    async with anyio.create_task_group() as group:
        for into in got:
            group.start_soon(collect, projection, into)
        for number in range(10):
            projection.push(number)
            await checkpoint()
        projection.complete("")
    assert got == [[*range(10)]] * 1000


def test_nothing_holds_a_projection_that_is_dropped() -> None:
    class Delta: ...

    projection = AsyncProjection[Delta, str]()
    delta = Delta()
    ref = weakref.ref(delta)
    projection.push(delta)
    cursors = [aiter(projection) for _ in range(3)]
    gc.disable()
    try:
        del delta, projection, cursors
        assert ref() is None
    finally:
        gc.enable()


def state_without_replay() -> tuple[Backpressure, ProjectionState[int, str], Callable[[int], None]]:
    flow = Backpressure()
    state = ProjectionState[int, str](flow, replay=False)

    def push(number: int) -> None:
        flow.produced += 1
        state.push(number)

    return flow, state, push


@pytest.mark.parametrize("cursors", (1, 3, 200))
async def test_what_all_have_passed_is_dropped(cursors: int) -> None:
    _, state, push = state_without_replay()
    iterators = [aiter(view(state)) for _ in range(cursors)]
    for number in range(1000):
        push(number)
        for iterator in iterators:
            assert await anext(iterator) == number
        # Steps between two looks, and as much again before it is worth dropping.
        assert len(state.deltas) <= 2 * max(64, cursors)
    assert state.marks is not None
    assert len(state.marks) == len(state.deltas)
    late: list[int] = []
    oldest = state.dropped
    push(1000)
    state.complete("end")
    await collect(view(state), late)
    assert late == [*range(oldest, 1001)]
    for iterator in iterators:
        assert await anext(iterator) == 1000
    assert await view(state) == "end"


async def test_without_a_cursor_everything_is_dropped() -> None:
    _, state, push = state_without_replay()
    for number in range(1000):
        push(number)
        assert len(state.deltas) <= 64


async def test_the_slowest_cursor_holds_deltas_while_it_lives() -> None:
    _, state, push = state_without_replay()
    slow, fast = aiter(view(state)), aiter(view(state))
    for number in range(1000):
        push(number)
        assert await anext(fast) == number
    assert len(state.deltas) == 1000
    assert [await anext(slow) for _ in range(600)] == [*range(600)]
    assert len(state.deltas) <= 500
    assert await anext(slow) == 600
    del slow
    for number in range(1000, 1200):
        push(number)
        assert await anext(fast) == number
    assert len(state.deltas) <= 64 * 2


async def test_cursors_that_come_and_go_leave_nothing() -> None:
    _, state, push = state_without_replay()
    push(0)
    state.complete("")
    for _ in range(1000):
        aiter(view(state))
    assert state._cursors is not None
    assert len(state._cursors) <= 64


async def test_cursors_collected_in_another_thread() -> None:
    _, state, push = state_without_replay()
    reader = aiter(view(state))
    handed_over: list[Any] = []
    over = threading.Event()

    def collect_garbage() -> None:
        while not over.is_set() or handed_over:
            if handed_over:
                handed_over.pop()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=collect_garbage)
    thread.start()
    try:
        for number in range(3000):
            push(number)
            assert await anext(reader) == number
            handed_over.append(aiter(view(state)))
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(interval)


# Backpressure: how far a producer may be ahead

CONSUMERS = st.sampled_from(["text", "reasoning", "final"])
FLOW_STEPS = st.one_of(
    st.tuples(st.sampled_from(["spawn", "spawn slow"]), CONSUMERS, st.just("")),
    st.tuples(st.just("ticks"), st.integers(1, 5), st.just("")),
    st.tuples(st.just("settle"), st.just(0), st.just("")),
    st.tuples(
        st.just("cancel"), st.integers(0, 10), st.sampled_from(["scope", "native", "deadline"])
    ),
)


@given(
    limit=st.sampled_from([1, 2, 3, 5]),
    replay=st.booleans(),
    script=st.lists(st.sampled_from(["text", "reasoning", ""]), max_size=30),
    steps=st.lists(FLOW_STEPS, max_size=25),
)
def test_a_producer_is_held_back_but_never_for_good(
    anyio_backend: tuple[str, dict[str, Any]],
    limit: int,
    replay: bool,
    script: list[str],
    steps: list[tuple[str, Any, str]],
) -> None:
    backend, options = anyio_backend
    anyio.run(
        play, anyio_backend, limit, replay, script, steps, backend=backend, backend_options=options
    )


async def play(
    anyio_backend: tuple[str, Any],
    limit: int,
    replay: bool,
    script: list[str],
    steps: list[tuple[str, Any, str]],
) -> None:
    flow = Backpressure()
    states: dict[str, ProjectionState[Any, str]] = {
        name: ProjectionState(flow, replay=replay) for name in ("text", "reasoning", "final")
    }
    victims: list[Victim] = []
    # Event number up to which each consumer has read, and whether it waits for the next.
    places: list[dict[str, Any]] = []
    made = 0

    def furthest() -> float:
        """The furthest that any consumer has been, by what the consumers say themselves."""
        return max((p["best"] for p in places), default=0)

    async def produce() -> None:
        nonlocal made
        for name in script:
            await flow.wait_for_room(limit)
            made += 1
            flow.produced += 1
            if name:
                states[name].push(made)
            # A consumer that waited when this was made had all that was before it.
            for place in places:
                if place["waits"]:
                    place["best"] = max(place["best"], made - 1)
                if place["waits"] and place["name"] == name:
                    place["waits"] = False
            assert made - furthest() <= limit
        for state in states.values():
            state.complete("end")

    async def consume(name: str, slow: bool, place: dict[str, Any]) -> None:
        got: list[int] = []
        cursor = aiter(view(states[name]))
        oldest = states[name].dropped
        try:
            while True:
                place["waits"] = not states[name].holds(oldest + len(got))
                try:
                    delta = await anext(cursor)
                except StopAsyncIteration:
                    break
                finally:
                    if place["waits"]:
                        place["best"] = max(place["best"], made)
                    place["waits"] = False
                got.append(delta)
                place["best"] = max(place["best"], delta)
                if slow:
                    await ticks(3)
        finally:
            kept = [n for n, s in enumerate(script, 1) if s == name][oldest:]
            assert got == kept[: len(got)]
        assert got == kept

    async def wait(place: dict[str, Any]) -> None:
        place["waits"] = True
        try:
            assert await view(states["final"]) == "end"
        finally:
            place["best"] = max(place["best"], made)
            place["waits"] = False

    with anyio.fail_after(HANGS):
        async with anyio.create_task_group() as group:
            producer = Victim(group, produce)
            for step, what, how in steps:
                if step.startswith("spawn"):
                    place = {"name": what, "best": 0, "waits": False}
                    places.append(place)
                    victims.append(
                        Victim(
                            group,
                            partial(wait, place)
                            if what == "final"
                            else partial(consume, what, step == "spawn slow", place),
                        )
                    )
                elif step == "ticks":
                    await ticks(what)
                elif step == "cancel" and victims:
                    if how not in ways_to_cancel(anyio_backend):
                        how = "scope"
                    victims[what % len(victims)].cancel(how)
                elif step == "settle":
                    await ticks(150)
                    waiting = sum(v.outcome == "running" for v in victims)
                    # Who is not cancelled has either all of it or waits for a producer that goes
                    # on.
                    assert producer.outcome == "returned" or not waiting
                    assert flow.at_head == (waiting > 0 and producer.outcome == "running")
            await ticks(150)
            assert not flow.at_head
            if producer.outcome == "running":
                assert all(v.outcome != "running" for v in victims)
                # Whoever comes now sets it going again.
                place = {"name": "final", "best": 0, "waits": False}
                places.append(place)
                await wait(place)
    for victim in (producer, *victims):
        assert victim.outcome in {"returned", "cancelled"}, repr(victim.value)
    assert producer.outcome == "returned"


async def test_who_was_woken_and_has_not_run_is_not_at_the_head() -> None:
    flow = Backpressure()
    state = ProjectionState[int, str](flow)
    flow.produced = 10  # events without a delta
    got: list[int] = []
    async with anyio.create_task_group() as group:
        group.start_soon(collect, view(state), got)
        await settle()
        assert flow.has_room(0)
        flow.produced += 1
        state.push(1)
        assert flow.has_room(2)
        assert not flow.has_room(1)
        await settle()
        assert flow.has_room(1)
        state.complete("")
    assert got == [1]
    assert not flow.at_head


async def test_taking_one_makes_room_for_one() -> None:
    flow = Backpressure()
    state = ProjectionState[int, str](flow)

    async def produce() -> None:
        for number in range(3):
            await flow.wait_for_room(1)
            flow.produced += 1
            state.push(number)

    async with anyio.create_task_group() as group:
        group.start_soon(produce)
        cursor = aiter(view(state))
        for number in range(3):
            await settle()
            assert flow.produced == number + 1
            assert await anext(cursor) == number


async def test_who_leaves_the_head_has_seen_all(anyio_backend: tuple[str, Any]) -> None:
    for how in ways_to_cancel(anyio_backend):
        flow = Backpressure()
        state = ProjectionState[int, str](flow)
        flow.produced = 10  # events without a delta
        async with anyio.create_task_group() as group:
            victim = Victim(group, partial(collect, view(state), []))
            await settle()
            assert flow.has_room(0)
            victim.cancel(how)
        assert not flow.at_head
        assert flow.has_room(1)
        assert not flow.has_room(0)


# Outside of an event loop, on several, in several threads


def test_used_on_one_loop_after_another(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    projection = AsyncProjection[int, str]()

    async def use(number: int) -> None:
        got: list[int] = []
        async with anyio.create_task_group() as group:
            reader = Victim(group, partial(collect, projection, got))
            waiter = Victim(group, projection._wait)
            await settle()
            projection.push(number)
            await settle()
            reader.cancel("scope")
            waiter.cancel("scope")
        assert got == [*range(number + 1)]

    for number, (backend, options) in enumerate((anyio_backend, ("asyncio", {}), anyio_backend)):
        anyio.run(use, number, backend=backend, backend_options=options)
    projection.complete("end")


async def test_use_in_another_thread_is_refused_where_somebody_waits() -> None:
    projection = AsyncProjection[int, str]()
    got: list[int] = []
    async with anyio.create_task_group() as group:
        group.start_soon(collect, projection, got)
        waiter = Victim(group, projection._wait)
        await settle()
        for func in (
            partial(projection.push, 1),
            partial(projection.complete, "x"),
            partial(projection.fail, ValueError()),
        ):
            with pytest.raises(RuntimeError, match="from_thread"):
                await anyio.to_thread.run_sync(func)
            assert not projection.done
        assert projection.error is None
        await anyio.to_thread.run_sync(anyio.from_thread.run_sync, projection.push, 2)
        projection.complete("end")
    assert got == [2]
    assert waiter.value == "end"
