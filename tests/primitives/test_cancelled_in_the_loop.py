"""A consumer that cancels its own scope within its loop gets no further item, be one ready or about to come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import anyio
import pytest
from anyio.lowlevel import cancel_shielded_checkpoint

from langchain_anyio import (
    AsyncChatModelStream,
    AsyncIteratorCallbackHandler,
    AsyncProjection,
    Event,
    Queue,
)

pytestmark = pytest.mark.anyio

RUN = UUID(int=1)
COUNT = 10


def of_projection() -> tuple[Any, Callable[[], Any]]:
    projection = AsyncProjection[str, None]()
    return projection, lambda: projection.push("item")


def of_stream(show: Callable[[AsyncChatModelStream], Any]) -> tuple[Any, Callable[[], Any]]:
    stream = AsyncChatModelStream()
    stream.dispatch({"event": "message-start"})
    delta = {"type": "text-delta", "text": "item"}
    event = {"event": "content-block-delta", "index": 0, "delta": delta}
    return show(stream), lambda: stream.dispatch(event)


def of_handler() -> tuple[Any, Callable[[], Any]]:
    handler = AsyncIteratorCallbackHandler()
    return handler, lambda: handler.on_llm_new_token("item", run_id=RUN)


def of_queue() -> tuple[Any, Callable[[], Any]]:
    queue = Queue[str]()
    return queue, lambda: queue.put_nowait("item")


SOURCES: dict[str, Callable[[], tuple[Any, Callable[[], Any]]]] = {
    "projection": of_projection,
    "text": lambda: of_stream(lambda stream: stream.text),
    "interleaved": lambda: of_stream(lambda stream: stream.interleave()),
    "handler": of_handler,
    "queue": of_queue,
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("first", ("the consumer", "the producer"))
async def test_an_iteration(source: str, first: str) -> None:
    items, produce = SOURCES[source]()
    taken = 0

    async def feed() -> None:
        for _ in range(COUNT):
            made = produce()
            if made is not None:
                await made
            # The next item comes in the turn in which the scope is cancelled.
            await cancel_shielded_checkpoint()

    async def consume(leave: int) -> None:
        nonlocal taken
        with anyio.CancelScope() as scope:
            iterator: AsyncIterator[Any] = aiter(items)
            async for _ in iterator:
                taken += 1
                if taken == leave:
                    scope.cancel()
        assert scope.cancelled_caught

    for leave in (1, 2, COUNT // 2):
        taken = 0
        async with anyio.create_task_group() as group:
            for task in (consume, feed) if first == "the consumer" else (feed, consume):
                if task is consume:
                    group.start_soon(consume, leave)
                else:
                    group.start_soon(feed)
        assert taken == leave
        items, produce = SOURCES[source]()


@pytest.mark.parametrize("make", (Event, lambda: AsyncIteratorCallbackHandler().done))
async def test_the_wait_for_an_event(make: Callable[[], Event]) -> None:
    event = make()
    passed = False

    async def set_it() -> None:
        event.set()

    async def wait() -> None:
        nonlocal passed
        with anyio.CancelScope() as scope:
            scope.cancel()
            await event.wait()
            passed = True

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        group.start_soon(set_it)
    assert not passed


async def test_the_wait_for_a_final_value() -> None:
    projection = AsyncProjection[str, str]()
    passed = False

    async def complete() -> None:
        projection.complete("all")

    async def wait() -> None:
        nonlocal passed
        with anyio.CancelScope() as scope:
            scope.cancel()
            await projection
            passed = True

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        group.start_soon(complete)
    assert not passed
