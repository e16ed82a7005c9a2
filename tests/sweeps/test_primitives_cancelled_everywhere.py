"""Each primitive, and the handler, with one and with several producers and consumers, of which one is cancelled.

It is cancelled at its first, second, ... last scheduling point, in every way there is. The others get all that there is, and
what it had not taken or given is taken or given afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from uuid import UUID

import anyio
import pytest
from langchain_core.outputs import LLMResult

from cancelling import Victim, living, ticks, ways_to_cancel
from langchain_anyio import AsyncIteratorCallbackHandler, AsyncProjection, Event, Queue
from limits import HANGS
from tally import tried

pytestmark = pytest.mark.anyio

ITEMS = 4


class Scene:
    """Some tasks around a primitive.

    Attributes:
        producers: What those do who give.
        consumers: What those do who take, each until there is no more.
    """

    producers: list[Callable[[], Awaitable[Any]]]
    consumers: list[Callable[[], Awaitable[Any]]]

    def __init__(self, producers: int, consumers: int) -> None:
        self.given: list[int] = []
        self.taken: list[int] = []
        self.producers = [partial(self.produce, 100 * number) for number in range(producers)]
        self.consumers = [partial(self.consume, number) for number in range(consumers)]

    async def produce(self, first: int) -> None:
        for number in range(first, first + ITEMS):
            await self.give(number)
            self.given.append(number)

    async def give(self, number: int) -> None:
        raise NotImplementedError

    async def consume(self, which: int) -> None:
        raise NotImplementedError

    async def begin(self) -> None:
        """Begin what all have in common."""

    async def end(self) -> None:
        """Say that no more will come."""

    async def take_the_rest(self) -> None:
        """Take what is left, once the victim is gone."""
        await self.consume(-1)

    def check(self, victim: int) -> None:
        """Check that nothing is lost, given twice or left waiting.

        The victim is a consumer's number, or negative.
        """
        assert self.taken == self.given


class QueueScene(Scene):
    def __init__(self, producers: int, consumers: int, size: float) -> None:
        super().__init__(producers, consumers)
        self.queue = Queue[int](size)

    async def give(self, number: int) -> None:
        await self.queue.put(number)

    async def consume(self, which: int) -> None:
        async for item in self.queue:
            self.taken.append(item)

    async def end(self) -> None:
        self.queue.close()

    def check(self, victim: int) -> None:
        super().check(victim)
        statistics = self.queue.statistics()
        assert statistics.current_buffer_used == 0
        assert statistics.tasks_waiting_get == statistics.tasks_waiting_put == 0


class EventScene(Scene):
    """Producers set and clear, consumers wait for it as often as they can."""

    def __init__(self, producers: int, consumers: int) -> None:
        super().__init__(producers, consumers)
        self.event = Event()
        self.over = False
        self.woken = [0] * (consumers + 1)

    async def give(self, number: int) -> None:
        await ticks(2)
        self.event.set()
        self.event.clear()

    async def consume(self, which: int) -> None:
        while not self.over:
            await self.event.wait()
            self.woken[which] += 1

    async def end(self) -> None:
        self.over = True
        self.event.set()

    def check(self, victim: int) -> None:
        # Who waits anew once it was woken misses none but those that come while it is on its way.
        assert all(n for number, n in enumerate(self.woken[:-1]) if number != victim)


class ProjectionScene(Scene):
    """Of the consumers, one in three waits for the final value, and the others have a cursor each."""

    def __init__(self, producers: int, consumers: int) -> None:
        super().__init__(producers, consumers)
        self.projection = AsyncProjection[int, str]()
        self.cursors = [aiter_(self.projection) for _ in range(consumers)]
        self.got: list[list[int]] = [[] for _ in range(consumers)]
        self.finals: dict[int, str] = {}

    async def give(self, number: int) -> None:
        self.projection.push(number)
        # What was pushed is there, whether or not who pushed it is cancelled.
        self.taken.append(number)
        await ticks(1)

    async def consume(self, which: int) -> None:
        if which % 3 == 2:
            self.finals[which] = await self.projection
            return
        async for delta in self.cursors[which]:
            self.got[which].append(delta)

    async def end(self) -> None:
        self.projection.complete("final")

    async def take_the_rest(self) -> None:
        for which in range(len(self.consumers)):
            await self.consume(which)  # of the victim too, whose cursor has not moved on

    def check(self, victim: int) -> None:
        for which, got in enumerate(self.got):
            if which % 3 == 2:
                assert self.finals[which] == "final"
            else:
                assert got == self.taken


class SharedCursorScene(ProjectionScene):
    """All consumers share one cursor, and so share out the deltas."""

    def __init__(self, producers: int, consumers: int) -> None:
        super().__init__(producers, consumers)
        self.cursor = aiter_(self.projection)
        self.all: list[int] = []

    async def consume(self, which: int) -> None:
        async for delta in self.cursor:
            self.all.append(delta)

    async def take_the_rest(self) -> None:
        await self.consume(-1)

    def check(self, victim: int) -> None:
        assert sorted(self.all) == sorted(self.taken)


class BatchesScene(ProjectionScene):
    """Of the consumers, one in three waits for the final value, and the others read batches."""

    def __init__(self, producers: int, consumers: int, interval: float) -> None:
        super().__init__(producers, consumers)
        self.cursors = [self.projection.batches(interval) for _ in range(consumers)]

    async def consume(self, which: int) -> None:
        if which % 3 == 2:
            await super().consume(which)
            return
        async for batch in self.cursors[which]:
            assert batch
            self.got[which] += batch


class HandlerScene(Scene):
    """Each producer tells the handler of a run of its own, all at the same time."""

    def __init__(self, producers: int, consumers: int, size: float) -> None:
        super().__init__(producers, consumers)
        self.handler = AsyncIteratorCallbackHandler(size)

    async def produce(self, first: int) -> None:
        ids: Any = {"run_id": UUID(int=first + 2), "parent_run_id": CHAIN}
        await self.handler.on_llm_start({}, [], **ids)
        try:
            for number in range(first, first + ITEMS):
                await self.handler.on_llm_new_token(f"{number}", **ids)
                self.given.append(number)
                await ticks(1)
        finally:
            await self.handler.on_llm_end(LLMResult(generations=[]), **ids)

    async def consume(self, which: int) -> None:
        async for token in self.handler:
            self.taken.append(int(token))

    async def begin(self) -> None:
        await self.handler.on_chain_start({}, {}, run_id=CHAIN)

    async def end(self) -> None:
        await self.handler.on_chain_end({}, run_id=CHAIN)

    def check(self, victim: int) -> None:
        super().check(victim)
        statistics = self.handler.queue.statistics()
        assert statistics.current_buffer_used == 0
        assert statistics.tasks_waiting_get == statistics.tasks_waiting_put == 0


class HandlerBatchesScene(HandlerScene):
    """Each consumer reads batches of `runs()`."""

    def __init__(self, producers: int, consumers: int, size: float, interval: float) -> None:
        super().__init__(producers, consumers, size)
        self.interval = interval

    async def consume(self, which: int) -> None:
        async for batch in self.handler.runs().batches(self.interval):
            assert batch
            self.taken += [int(token) for _, token in batch]


CHAIN = UUID(int=1)


def aiter_(iterable: Any) -> Any:
    return iterable.__aiter__()


SCENES: dict[str, Callable[[int, int], Scene]] = {
    "Queue without a buffer": lambda p, c: QueueScene(p, c, 0),
    "Queue of one item": lambda p, c: QueueScene(p, c, 1),
    "Queue without a limit": lambda p, c: QueueScene(p, c, math.inf),
    "Event": EventScene,
    "AsyncProjection": ProjectionScene,
    "AsyncProjection by one cursor": SharedCursorScene,
    "Batches of a projection": lambda p, c: BatchesScene(p, c, 0),
    "Batches of a projection, an interval apart": lambda p, c: BatchesScene(p, c, 1e6),
    "AsyncIteratorCallbackHandler of one token": lambda p, c: HandlerScene(p, c, 1),
    "AsyncIteratorCallbackHandler without a limit": lambda p, c: HandlerScene(p, c, math.inf),
    "Batches of a handler": lambda p, c: HandlerBatchesScene(p, c, 1, 0),
    "Batches of a handler, an interval apart": lambda p, c: HandlerBatchesScene(
        p, c, math.inf, 1e6
    ),
}


async def attempt(scene: Scene, which: int, how: str, tick: int) -> bool:
    """Cancel one of the tasks after so many ticks.

    Return whether it, or all who give, had come to the end before.
    """
    ended: set[int] = set()

    async def whole(number: int, part: Callable[[], Awaitable[Any]]) -> None:
        await part()
        ended.add(number)
        # A cancellation that came is noticed here at the latest, unless it was swallowed.
        await ticks(3)

    with anyio.fail_after(HANGS):
        await scene.begin()
        async with anyio.create_task_group() as group:
            parts = [*scene.consumers, *scene.producers]
            victims = [Victim(group, partial(whole, *part)) for part in enumerate(parts)]
            if how != "before":
                await ticks(tick)
            over = which in ended
            if not over:
                victims[which].cancel("scope" if how == "before" else how)
                if how == "native twice":
                    await ticks(1)
                    victims[which].cancel("native")
            producers = range(len(scene.consumers), len(parts))
            all_over = ended.issuperset(producers)
            rest = Victim(group, scene.take_the_rest)
            await ticks(3)  # an iteration that begins after the end of a run is for the next one
            while any(victims[number].outcome == "running" for number in producers):
                await ticks(1)
            await scene.end()
    assert rest.outcome == "returned", rest.value
    for number, victim in enumerate(victims):
        expected = "cancelled" if number == which and not over else "returned"
        assert victim.outcome == expected, (number, victim.outcome, victim.value)
        assert "native" in how or not victim.cancelling
    scene.check(which)
    return over or all_over


async def sweep(anyio_backend: Any, name: str, producers: int, consumers: int, step: int) -> None:
    tasks = living()
    for how in ("before", *ways_to_cancel(anyio_backend)):
        for which in range(producers + consumers):
            tick, over = 0, False
            while not over:
                try:
                    over = await attempt(SCENES[name](producers, consumers), which, how, tick)
                except BaseException:
                    print(f"task {which}, {how} after {tick} ticks")
                    raise
                tried(
                    f"Cancellation: {name}, one of its producers or consumers, at each of its steps"
                )
                over = over or how == "before"
                tick += step
                assert tick < 1000
    assert living() <= tasks


@pytest.mark.parametrize(("producers", "consumers"), ((1, 1), (2, 3)))
@pytest.mark.parametrize("name", SCENES)
async def test_a_sample_of_the_points(
    anyio_backend: Any, name: str, producers: int, consumers: int
) -> None:
    await sweep(anyio_backend, name, producers, consumers, 4)


@pytest.mark.long
@pytest.mark.parametrize(("producers", "consumers"), ((1, 1), (1, 4), (4, 1), (3, 5)))
@pytest.mark.parametrize("name", SCENES)
async def test_at_every_point(
    anyio_backend: Any, name: str, producers: int, consumers: int
) -> None:
    await sweep(anyio_backend, name, producers, consumers, 1)
