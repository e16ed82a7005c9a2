"""What only trio can show of the primitives: its own notion of checkpoints, and its virtual clock."""

from __future__ import annotations

import gc
import warnings
from typing import Any

import pytest
import trio
import trio.testing
from typing_extensions import Self

from langchain_anyio import AsyncProjection, AsyncTextProjection, Event, Queue
from langchain_anyio._backends.async_generators import AsyncGenerators
from langchain_anyio._backends.tasks import spawn_background

pytestmark = pytest.mark.trio


class CancelPoints:
    """How often a task could have been cancelled in a block, as trio counts it."""

    def __enter__(self) -> Self:
        self._before = trio.lowlevel.current_task()._cancel_points
        return self

    def __exit__(self, *_: object) -> None:
        self.number = trio.lowlevel.current_task()._cancel_points - self._before


async def test_every_step_is_a_cancel_point() -> None:
    queue, projection = Queue[int](), AsyncProjection[int, str]()
    for number in range(10):
        with CancelPoints() as points:
            await queue.put(number)
        assert points.number
        projection.push(number)
    queue.close()
    projection.complete("end")
    for iterator in (aiter(queue), aiter(projection)):
        for number in range(10):
            with CancelPoints() as points:
                assert await anext(iterator) == number
            assert points.number
        with CancelPoints() as points, pytest.raises(StopAsyncIteration):
            await anext(iterator)
        assert points.number


async def test_what_is_awaited_once_is_a_checkpoint() -> None:
    event, projection = Event(), AsyncTextProjection()
    event.set()
    projection.complete("end")
    with trio.testing.assert_checkpoints():
        await event.wait()
    with trio.testing.assert_checkpoints():
        assert await projection == "end"


async def test_what_does_not_wait_is_none() -> None:
    queue, event, projection = Queue[int](), Event(), AsyncProjection[int, str]()
    with trio.testing.assert_no_checkpoints():
        queue.put_nowait(1)
        queue.get_nowait()
        queue.close()
        event.set()
        event.clear()
        projection.push(1)
        projection.fail(ValueError())


async def test_a_deadline_that_ties_with_the_wake(autojump_clock: trio.testing.MockClock) -> None:
    outcomes: set[str] = set()
    for _ in range(50):  # trio shuffles what is due at the same time
        queue = Queue[int]()
        got: list[int] = []

        async def produce(queue: Queue[int] = queue) -> None:
            await trio.sleep(1)
            queue.put_nowait(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce)
            with trio.move_on_after(1) as scope:
                got.append(await queue.get())
        # The item is in one place and in no other.
        assert got == [1] if not scope.cancelled_caught else queue.get_nowait() == 1
        assert queue.empty()
        outcomes.add("cancelled" if scope.cancelled_caught else "got it")
    assert outcomes


async def test_a_cancellation_that_trio_made_is_not_stored() -> None:
    projection = AsyncProjection[int, str]()

    async def produce() -> None:
        try:
            await trio.sleep_forever()
        except BaseException as exc:
            projection.fail(exc)
            raise

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert not isinstance(projection.error, trio.Cancelled)
    with pytest.raises(type(projection.error)):  # type: ignore[arg-type]
        await projection


async def test_a_started_task_is_a_system_task() -> None:
    seen: list[Any] = []

    async def work() -> None:
        seen.append(trio.lowlevel.current_task())

    before = trio.lowlevel.current_statistics().tasks_living
    spawn_background(work, name="a name")
    await trio.testing.wait_all_tasks_blocked()
    assert seen[0].name == "a name"
    assert trio.lowlevel.current_statistics().tasks_living == before


@pytest.mark.parametrize("error", (KeyboardInterrupt, SystemExit))
async def test_a_started_task_does_not_take_the_run_down(error: type[BaseException]) -> None:
    async def work() -> None:
        raise error

    spawn_background(work, name="x")
    await trio.testing.wait_all_tasks_blocked()


async def test_generators_that_are_closed_leave_no_warning() -> None:
    async def inner() -> Any:
        try:
            yield 1
        finally:
            await trio.lowlevel.checkpoint()

    async def outer() -> Any:
        async for number in inner():
            yield number

    async def run() -> None:
        async for _ in outer():
            break

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generators = AsyncGenerators()
        await generators.watch(run())
        await generators.aclose()
        del generators
        gc.collect()
        await trio.testing.wait_all_tasks_blocked()
    # Without it trio warns, so the above shows something.
    with pytest.warns(ResourceWarning, match="garbage collected"):
        await run()
        gc.collect()
        await trio.testing.wait_all_tasks_blocked()
