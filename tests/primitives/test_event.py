from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from cancelling import Victim, settle, ticks, ways_to_cancel
from langchain_anyio import Event
from langchain_anyio._primitives.wakeup import Wakeup

pytestmark = pytest.mark.anyio


def test_without_waiting() -> None:
    event = Event()
    assert not event.is_set()
    event.set()
    event.set()
    assert event.is_set()
    event.clear()
    event.clear()
    assert not event.is_set()
    assert Event.__module__ == "langchain_anyio"


async def test_set_already() -> None:
    event = Event()
    event.set()
    assert await event.wait() is True


async def test_a_waiter_that_was_woken_returns_even_if_clear_follows() -> None:
    event = Event()
    async with anyio.create_task_group() as group:
        waiters = [Victim(group, event.wait) for _ in range(3)]
        await settle()
        event.set()
        event.clear()
        late = Victim(group, event.wait)
        await settle()
        assert [w.value for w in waiters] == [True] * 3
        assert late.outcome == "running"
        event.set()
    assert late.value is True


async def test_each_wait_is_a_cancellation_point() -> None:
    event = Event()
    for _ in range(2):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await event.wait()
        assert scope.cancelled_caught
        event.set()


async def test_waiting_for_what_is_set_lets_others_run() -> None:
    event = Event()
    event.set()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(count)
        for _ in range(1000):
            await event.wait()
        group.cancel_scope.cancel()
    assert turns >= 500  # trio may run a task twice before the other


@pytest.mark.parametrize("first", ("set", "cancel"))
async def test_cancelled_in_the_moment_of_the_wake(
    anyio_backend: tuple[str, Any], first: str
) -> None:
    for how in ways_to_cancel(anyio_backend):
        event = Event()
        async with anyio.create_task_group() as group:
            victim, other = Victim(group, event.wait), Victim(group, event.wait)
            await settle()
            if first == "set":
                event.set()
                victim.cancel(how)
            else:
                victim.cancel(how)
                event.set()
            event.clear()
        assert victim.outcome in {"returned", "cancelled"}
        assert other.value is True


async def test_who_is_cancelled_takes_no_wake_up_from_others(
    anyio_backend: tuple[str, Any],
) -> None:
    for how in ways_to_cancel(anyio_backend):
        for point in range(6):
            event = Event()
            async with anyio.create_task_group() as group:
                victim, other = Victim(group, event.wait), Victim(group, event.wait)
                await ticks(point)
                victim.cancel(how)
                late = Victim(group, event.wait)
                await settle()
                event.set()
            assert other.value is late.value is True


def test_used_on_one_loop_after_another(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    event = Event()

    async def use() -> None:
        async with anyio.create_task_group() as group:
            woken = Victim(group, event.wait)
            await settle()
            event.set()
            event.clear()
            await settle()
            assert woken.value is True
            left = Victim(group, event.wait)
            await settle()
            left.cancel("scope")

    for backend, options in (anyio_backend, ("asyncio", {}), anyio_backend):
        anyio.run(use, backend=backend, backend_options=options)


async def test_setting_it_in_another_thread_is_refused_where_somebody_waits() -> None:
    event = Event()
    errors: list[BaseException] = []

    def misuse() -> None:
        try:
            event.set()
        except BaseException as exc:
            errors.append(exc)

    async with anyio.create_task_group() as group:
        waiter = Victim(group, event.wait)
        await settle()
        thread = threading.Thread(target=misuse)
        thread.start()
        thread.join()
        assert "anyio.from_thread" in str(errors.pop())
        assert not event.is_set()
        await anyio.to_thread.run_sync(anyio.from_thread.run_sync, event.set)
    assert waiter.value is True


async def test_a_wake_up_nobody_waits_for_belongs_to_no_loop(
    anyio_backend: tuple[str, Any],
) -> None:
    for how in ways_to_cancel(anyio_backend):
        wakeup = Wakeup()
        async with anyio.create_task_group() as group:
            first, second = Victim(group, wakeup.wait), Victim(group, wakeup.wait)
            await settle()
            first.cancel(how)
            await settle()
            assert wakeup.waiting
            second.cancel(how)
            await settle()
            assert not wakeup.waiting
            third = Victim(group, wakeup.wait)
            await settle()
            wakeup.fire()
            assert not wakeup.waiting
        assert third.outcome == "returned"
