"""Timers and limits by trio's virtual clock."""

from __future__ import annotations

import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from langchain_anyio._backends.timers import _FEW, timers, wait_limit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.trio

Clock = trio.testing.MockClock


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def test_timers_go_off_in_order_at_their_time(autojump_clock: Clock) -> None:
    began, gone = trio.current_time(), list[tuple[str, float]]()

    def note(name: str) -> Any:
        return lambda: gone.append((name, trio.current_time() - began))

    ours = timers()
    ours.call_at(began + 3, note("c"))
    ours.call_at(began + 1, note("a"))
    ours.call_at(began + 2, note("never")).cancel()
    await trio.sleep(0.5)  # the task sleeps until 1 by now
    ours.call_at(began + 0.75, note("earlier"))
    ours.call_at(began + 2, lambda: ours.call_at(began + 2.5, note("b")))
    await trio.sleep(10)
    assert gone == [("earlier", 0.75), ("a", 1), ("b", 2.5), ("c", 3)]


async def test_the_task_ends_with_the_last_timer(autojump_clock: Clock) -> None:
    before = tasks()
    ours = timers()
    one, two = (ours.call_at(trio.current_time() + after, int) for after in (1, 2))
    await trio.testing.wait_all_tasks_blocked()
    assert tasks() == before + 1
    one.cancel()
    one.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert tasks() == before + 1
    two.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert tasks() == before
    # One that is set just as the task is about to end starts none beside it.
    ours.call_at(trio.current_time() + 1, int).cancel()
    ours.call_at(trio.current_time() + 1, int)
    await trio.testing.wait_all_tasks_blocked()
    assert tasks() == before + 1
    await trio.sleep(2)
    assert tasks() == before


async def test_cancelled_timers_are_forgotten(autojump_clock: Clock) -> None:
    ours: Any = timers()
    gone = list[int]()
    kept = ours.call_at(trio.current_time() + 50, lambda: gone.append(0))
    for _ in range(1000):
        ours.call_at(trio.current_time() + 100, int).cancel()
        assert len(ours._heap) <= 2 + _FEW + 1
    await trio.sleep(60)
    assert gone == [0]
    kept.cancel()


async def test_a_function_that_raises_is_logged(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    gone = list[int]()
    ours = timers()
    ours.call_at(trio.current_time() + 1, lambda: 1 / 0)
    ours.call_at(trio.current_time() + 1, lambda: gone.append(1))
    with caplog.at_level(logging.ERROR):
        await trio.sleep(2)
    assert gone == [1]
    assert "ZeroDivisionError" in caplog.text


async def test_a_wait_ends_exactly_at_its_deadline(autojump_clock: Clock) -> None:
    limit = wait_limit(120)
    for pause in (0, 1, 119, 50, 120, 1000):
        with limit:
            await trio.sleep(min(pause, 119.5))
        assert not limit.expired
        await trio.sleep(pause)
    began = trio.current_time()
    with limit:
        await trio.sleep_forever()
    assert limit.expired
    assert trio.current_time() == pytest.approx(began + 120)
    limit.disarm()


async def test_a_wait_that_cannot_be_interrupted_ends_when_it_can(autojump_clock: Clock) -> None:
    limit = wait_limit(1)
    task = trio.lowlevel.current_task()

    def go_on() -> None:
        trio.lowlevel.reschedule(task)

    began = trio.current_time()
    timers().call_at(began + 5, go_on)
    with limit:
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
        assert trio.current_time() == pytest.approx(began + 5)
        await trio.sleep_forever()
    assert limit.expired
    assert trio.current_time() < began + 5.1
    limit.disarm()


async def test_what_cleans_up_is_not_interrupted_again(autojump_clock: Clock) -> None:
    limit = wait_limit(1)
    began = trio.current_time()
    with limit:
        try:
            await trio.sleep_forever()
        finally:
            await trio.sleep(10)
    assert limit.expired
    assert trio.current_time() == pytest.approx(began + 11)
    limit.disarm()


async def test_nothing_is_left_of_a_limit(autojump_clock: Clock) -> None:
    before = tasks()

    async def deltas() -> AsyncIterator[int]:
        limit = wait_limit(120)
        try:
            for number in range(5):
                with limit:
                    await trio.sleep(1)
                yield number
        finally:
            limit.disarm()

    async with aclosing(deltas()) as reading:
        async for number in reading:
            if number == 3:
                break
    await trio.testing.wait_all_tasks_blocked()
    assert tasks() == before
