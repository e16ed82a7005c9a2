from __future__ import annotations

import gc
import math
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest
from anyio import ClosedResourceError, EndOfStream, WouldBlock
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from cancelling import Victim, settle, ticks, ways_to_cancel
from langchain_anyio import Queue
from limits import HANGS

pytestmark = pytest.mark.anyio

# Steps that a consumer may take before it lets others run.
LONGEST_DRAIN = 64


# What it is


@pytest.mark.parametrize("size", (-1, 1.5, -math.inf, math.nan, "1", None))
def test_refuses_a_size_that_is_none(size: Any) -> None:
    with pytest.raises(ValueError, match="max_buffer_size"):
        Queue(size)


def test_without_waiting() -> None:
    queue: Queue[int | None] = Queue(2)
    assert queue.empty()
    assert not queue.full()
    with pytest.raises(WouldBlock):
        queue.get_nowait()
    queue.put_nowait(None)
    queue.put_nowait(2)
    assert queue.full()
    assert queue.qsize() == 2
    with pytest.raises(WouldBlock):
        queue.put_nowait(3)
    assert repr(queue) == "<Queue open, 2 of 2 items>"
    assert queue.get_nowait() is None
    assert queue.get_nowait() == 2
    assert queue.empty()


def test_module_and_generic() -> None:
    assert Queue.__module__ == "langchain_anyio"
    assert isinstance(Queue[int](), Queue)


def test_closed_before_anything() -> None:
    queue = Queue[int]()
    queue.close()
    queue.close()
    with pytest.raises(ClosedResourceError):
        queue.put_nowait(1)
    with pytest.raises(EndOfStream):
        queue.get_nowait()
    assert repr(queue) == "<Queue closed, 0 of inf items>"


async def test_closed_with_items_left() -> None:
    queue: Queue[int | None] = Queue()
    queue.put_nowait(1)
    queue.put_nowait(None)
    queue.close()
    with pytest.raises(ClosedResourceError):
        await queue.put(3)
    assert [item async for item in queue] == [1, None]
    assert [item async for item in queue] == []
    with pytest.raises(EndOfStream):
        await queue.get()


async def test_closed_while_consumers_wait() -> None:
    queue = Queue[int]()
    async with anyio.create_task_group() as group:
        victims = [Victim(group, queue.get) for _ in range(5)]
        await settle()
        queue.put_nowait(1)
        queue.put_nowait(2)
        queue.close()
    assert sorted(v.value for v in victims if v.outcome == "returned") == [1, 2]
    assert [type(v.value) for v in victims if v.outcome == "raised"] == [EndOfStream] * 3


async def test_closed_while_producers_wait() -> None:
    queue = Queue[int](1)
    queue.put_nowait(0)
    async with anyio.create_task_group() as group:
        victims = [Victim(group, partial(queue.put, 1)) for _ in range(5)]
        await settle()
        assert queue.statistics().tasks_waiting_put == 5
        queue.close()
    assert [type(v.value) for v in victims] == [ClosedResourceError] * 5
    assert [item async for item in queue] == [0]


async def test_statistics() -> None:
    queue = Queue[int](1)
    async with anyio.create_task_group() as group:
        Victim(group, queue.get)
        Victim(group, queue.get)
        await settle()
        assert queue.statistics().tasks_waiting_get == 2
        assert queue.statistics().max_buffer_size == 1
        group.cancel_scope.cancel()
    assert queue.statistics().tasks_waiting_get == 0
    assert queue.statistics().current_buffer_used == 0


# Order and fairness


@pytest.mark.parametrize("size", (0, 1, 3, math.inf))
async def test_many_producers_and_consumers(size: float) -> None:
    queue = Queue[tuple[int, int]](size)
    got: list[tuple[int, int]] = []

    async def produce(name: int) -> None:
        for number in range(100):
            await queue.put((name, number))

    async def consume() -> None:
        async for item in queue:
            got.append(item)

    async with anyio.create_task_group() as consumers:
        for _ in range(3):
            consumers.start_soon(consume)
        async with anyio.create_task_group() as producers:
            for name in range(4):
                producers.start_soon(produce, name)
        queue.close()
    assert len(got) == 400
    for name in range(4):
        assert [n for p, n in got if p == name] == list(range(100))


async def test_consumers_are_served_in_the_order_they_came() -> None:
    queue = Queue[int]()
    served: list[tuple[int, int]] = []

    async def consume(name: int) -> None:
        served.append((name, await queue.get()))

    async with anyio.create_task_group() as group:
        for name in range(10):
            group.start_soon(consume, name)
            await settle()
        for item in range(10):
            queue.put_nowait(item)
    assert served == [(n, n) for n in range(10)]


async def test_producers_are_served_in_the_order_they_came() -> None:
    queue = Queue[int](1)
    queue.put_nowait(-1)
    async with anyio.create_task_group() as group:
        for name in range(10):
            group.start_soon(queue.put, name)
            await settle()
        assert [await queue.get() for _ in range(11)] == list(range(-1, 10))


async def test_who_comes_later_does_not_overtake_who_was_woken() -> None:
    queue = Queue[int]()
    async with anyio.create_task_group() as group:
        first = Victim(group, queue.get)
        await settle()
        queue.put_nowait(1)
        queue.put_nowait(2)
        assert await queue.get() == 2
        await settle()
    assert first.value == 1


async def test_a_producer_that_comes_later_does_not_overtake_who_was_woken() -> None:
    queue = Queue[int](1)
    queue.put_nowait(0)
    got: list[int] = []

    async def consume() -> None:
        async for item in queue:
            got.append(item)

    async with anyio.create_task_group() as group:
        Victim(group, partial(queue.put, 1))
        await settle()
        assert queue.get_nowait() == 0
        group.start_soon(consume)
        await queue.put(2)
        await settle()
        queue.close()
    assert got == [1, 2]


async def test_a_consumer_whose_item_was_taken_keeps_its_place() -> None:
    queue = Queue[int]()
    async with anyio.create_task_group() as group:
        first = Victim(group, queue.get)
        await settle()
        second = Victim(group, queue.get)
        await settle()
        for item in range(3):
            queue.put_nowait(item)
            assert queue.get_nowait() == item
            with anyio.fail_after(HANGS):
                await anyio.wait_all_tasks_blocked()
            assert first.outcome == second.outcome == "running"
        queue.put_nowait(3)
        await settle()
        assert (first.outcome, first.value) == ("returned", 3)
        queue.put_nowait(4)
    assert second.value == 4


async def test_a_queue_without_a_buffer_waits_for_who_asks() -> None:
    queue = Queue[int](0)
    assert queue.full()
    with pytest.raises(WouldBlock):
        queue.put_nowait(1)
    async with anyio.create_task_group() as group:
        producer = Victim(group, partial(queue.put, 1))
        await settle()
        assert producer.outcome == "running"
        assert await queue.get() == 1
        await settle()
        assert producer.outcome == "returned"


# Cancellation


@pytest.mark.parametrize("size", (0, 1, 2, math.inf))
@pytest.mark.parametrize("whom", ("consumer", "producer"))
async def test_nothing_is_lost_whoever_is_cancelled_at_any_point(
    anyio_backend: tuple[str, Any], size: float, whom: str
) -> None:
    async def cancelled_at(point: int, how: str) -> str:
        queue = Queue[int](size)
        put: list[int] = []
        got: list[int] = []

        async def produce(first: int) -> None:
            for number in range(first, first + 5):
                await queue.put(number)
                put.append(number)

        async def consume() -> None:
            async for item in queue:
                got.append(item)

        async with anyio.create_task_group() as group:
            consumers = [Victim(group, consume) for _ in range(2)]
            producers = [Victim(group, partial(produce, first)) for first in (0, 100)]
            await ticks(point)
            victim = (consumers if whom == "consumer" else producers)[0]
            victim.cancel(how)
            while any(p.outcome == "running" for p in producers):
                await checkpoint()
            queue.close()
        assert got == put
        statistics = queue.statistics()
        assert statistics.current_buffer_used == 0
        assert statistics.tasks_waiting_get == statistics.tasks_waiting_put == 0
        for producer, first in zip(producers, (0, 100), strict=True):
            own = [number for number in put if first <= number < first + 5]
            assert own == [*range(first, first + len(own))]
            assert len(own) == 5 or producer.outcome == "cancelled"
        return victim.outcome

    outcomes = {
        await cancelled_at(point, how)
        for how in ways_to_cancel(anyio_backend)
        for point in range(30)
    }
    assert outcomes >= ({"cancelled", "returned"} if whom == "producer" else {"cancelled"})


@pytest.mark.parametrize("first", ("item", "cancel"))
async def test_cancelled_in_the_moment_of_the_wake(
    anyio_backend: tuple[str, Any], first: str
) -> None:
    for how in ways_to_cancel(anyio_backend):
        queue = Queue[int]()
        async with anyio.create_task_group() as group:
            victim = Victim(group, queue.get)
            await settle()
            second = Victim(group, queue.get)
            await settle()
            if first == "item":
                queue.put_nowait(7)
                victim.cancel(how)
            else:
                victim.cancel(how)
                queue.put_nowait(7)
            await settle()
            if victim.outcome == "returned":
                assert victim.value == 7
                assert second.outcome == "running"
                queue.put_nowait(8)
                await settle()
                assert second.value == 8
            else:
                assert victim.outcome == "cancelled"
                assert second.value == 7


async def test_cancelled_producer_passes_its_call_on(anyio_backend: tuple[str, Any]) -> None:
    for how in ways_to_cancel(anyio_backend):
        queue = Queue[int](1)
        queue.put_nowait(0)
        async with anyio.create_task_group() as group:
            victim = Victim(group, partial(queue.put, 1))
            await settle()
            second = Victim(group, partial(queue.put, 2))
            await settle()
            assert queue.get_nowait() == 0
            victim.cancel(how)
            await settle()
            if victim.outcome == "returned":
                assert queue.get_nowait() == 1
                await settle()
            assert second.outcome == "returned"
            assert queue.get_nowait() == 2


async def test_each_step_is_a_cancellation_point() -> None:
    queue = Queue[int]()
    for _ in range(3):
        await queue.put(1)

    async def iterate() -> None:
        async for _ in queue:
            pass

    async def check(*funcs: Callable[[], Any]) -> None:
        for func in funcs:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await func()
            assert scope.cancelled_caught

    await check(queue.get, iterate, partial(queue.put, 2))
    assert queue.qsize() == 3
    queue.close()
    await check(queue.get, iterate, partial(queue.put, 2))
    assert [item async for item in queue] == [1, 1, 1]
    await check(queue.get, iterate, partial(queue.put, 2))


@pytest.mark.parametrize("what", ("get", "put", "both", "many queues", "fail to put"))
async def test_a_long_drain_lets_others_run(what: str) -> None:
    turns = 0
    over = False

    async def watch() -> None:
        nonlocal turns
        while not over:
            turns += 1
            await checkpoint()

    async def drain() -> None:
        nonlocal over
        queue = Queue[int]()
        for number in range(1000):
            if what == "many queues":
                queue = Queue[int]()
            if what == "get":
                queue.put_nowait(number)
        if what == "fail to put":
            queue.close()
        for number in range(1000):
            if what == "many queues":
                queue = Queue[int]()
                queue.put_nowait(number)
            if what == "fail to put":
                with pytest.raises(ClosedResourceError):
                    await queue.put(number)
            elif what in {"put", "both"}:
                await queue.put(number)
            if what in {"get", "both", "many queues"}:
                assert await queue.get() == number
        over = True

    async with anyio.create_task_group() as group:
        group.start_soon(drain)
        group.start_soon(watch)
    assert turns >= 1000 // LONGEST_DRAIN


async def test_a_long_drain_takes_a_native_cancellation(anyio_backend: tuple[str, Any]) -> None:
    async def drain_until_cancelled(how: str) -> None:
        queue = Queue[int]()
        for number in range(1000):
            queue.put_nowait(number)
        got: list[int] = []

        async def drain() -> None:
            async for item in queue:
                got.append(item)
                if item == 100:
                    victim.cancel(how)

        async with anyio.create_task_group() as group:
            victim = Victim(group, drain)
        assert victim.outcome == "cancelled"
        assert got == [*range(len(got))]
        assert len(got) <= 101 + LONGEST_DRAIN
        assert queue.get_nowait() == len(got)

    for how in ways_to_cancel(anyio_backend):
        await drain_until_cancelled(how)


# Everything at once, against a list

STEPS = st.one_of(
    st.sampled_from(["put_nowait", "get_nowait", "put", "get", "settle"]).map(lambda s: (s, 0, "")),
    st.tuples(st.just("ticks"), st.integers(1, 4), st.just("")),
    st.tuples(
        st.just("cancel"), st.integers(0, 10), st.sampled_from(["scope", "native", "deadline"])
    ),
)


@given(
    size=st.sampled_from([0, 1, 2, 3, math.inf]),
    steps=st.lists(STEPS, max_size=40),
    close=st.booleans(),
)
def test_equals_a_list(
    anyio_backend: tuple[str, dict[str, Any]],
    size: float,
    steps: list[tuple[str, int, str]],
    close: bool,
) -> None:
    anyio.run(
        play,
        anyio_backend,
        size,
        steps,
        close,
        backend=anyio_backend[0],
        backend_options=anyio_backend[1],
    )


async def play(
    anyio_backend: tuple[str, Any], size: float, steps: list[tuple[str, int, str]], close: bool
) -> None:
    queue = Queue[int](size)
    put: list[int] = []
    got: list[int] = []
    victims: list[Victim] = []

    async def put_one(item: int) -> None:
        await queue.put(item)
        put.append(item)

    async def get_one() -> None:
        got.append(await queue.get())

    def check() -> None:
        assert got == put[: len(got)]
        assert queue.qsize() == len(put) - len(got)

    with anyio.fail_after(HANGS):
        async with anyio.create_task_group() as group:
            for number, (step, count, how) in enumerate(steps):
                if step == "put_nowait":
                    try:
                        queue.put_nowait(number)
                        put.append(number)
                    except WouldBlock:
                        assert queue.full()
                elif step == "get_nowait":
                    try:
                        got.append(queue.get_nowait())
                    except WouldBlock:
                        assert queue.empty()
                elif step == "put":
                    victims.append(Victim(group, partial(put_one, number)))
                elif step == "get":
                    victims.append(Victim(group, get_one))
                elif step == "ticks":
                    await ticks(count)
                elif step == "cancel" and victims:
                    if how not in ways_to_cancel(anyio_backend):
                        how = "scope"
                    victims[count % len(victims)].cancel(how)
                elif step == "settle":
                    await settle()
                    waiting = queue.statistics()
                    # Nobody waits for what is there.
                    assert not (waiting.tasks_waiting_get and not queue.empty())
                    assert not (waiting.tasks_waiting_put and not queue.full())
                    running = sum(v.outcome == "running" for v in victims)
                    assert running == waiting.tasks_waiting_get + waiting.tasks_waiting_put
                check()
            if close:
                queue.close()
            else:
                for victim in victims:
                    victim.cancel("scope")
        while not queue.empty():
            got.append(queue.get_nowait())
        assert got == put
        assert queue.statistics().tasks_waiting_get == queue.statistics().tasks_waiting_put == 0


# Outside of an event loop, on several, in several threads


def test_used_on_one_loop_after_another(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    queue = Queue[int](3)
    queue.put_nowait(0)

    async def use(number: int) -> None:
        async with anyio.create_task_group() as group:
            assert await queue.get() == number
            waiting = Victim(group, queue.get)
            await settle()
            assert queue.statistics().tasks_waiting_get == 1
            waiting.cancel("scope")
        await queue.put(number + 1)

    for number, (backend, options) in enumerate((anyio_backend, ("asyncio", {}), anyio_backend)):
        anyio.run(use, number, backend=backend, backend_options=options)
    assert queue.get_nowait() == 3


async def test_use_in_another_thread_is_refused_where_somebody_waits() -> None:
    queue = Queue[int](1)
    errors: list[BaseException] = []

    def misuse(func: Callable[[], object]) -> None:
        try:
            func()
        except BaseException as exc:
            errors.append(exc)

    def in_thread(func: Callable[[], object]) -> None:
        thread = threading.Thread(target=misuse, args=(func,))
        thread.start()
        thread.join()

    async with anyio.create_task_group() as group:
        getter = Victim(group, queue.get)
        await settle()
        in_thread(lambda: queue.put_nowait(1))
        assert "thread" in str(errors.pop())
        assert queue.empty()
        in_thread(queue.close)
        assert "thread" in str(errors.pop())
        queue.put_nowait(2)
        await settle()
        assert getter.value == 2
        queue.put_nowait(3)
        putter = Victim(group, partial(queue.put, 4))
        await settle()
        in_thread(queue.get_nowait)
        assert "thread" in str(errors.pop())
        assert queue.get_nowait() == 3
        await settle()
        assert putter.outcome == "returned"
        assert not errors


# Memory and warnings


def test_dropping_a_queue_warns_of_nothing() -> None:
    queue = Queue[int]()
    queue.put_nowait(1)
    del queue
    gc.collect()  # warnings are errors
    cycle: list[Any] = [Queue[int]()]
    cycle.append(cycle)
    del cycle
    gc.collect()


def test_no_warning_at_exit() -> None:
    script = "from langchain_anyio import Queue; q = Queue(); q.put_nowait(1); c = [q]; c.append(c)"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", script],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Unclosed" not in result.stderr
