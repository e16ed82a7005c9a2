"""Streams of one model: what a delta costs on its way to those who read it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from typing import Any

import anyio
from anyio.lowlevel import current_token
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models._compat_bridge import chunks_to_events
from langchain_core.language_models.chat_model_stream import AsyncChatModelStream as PeerStream
from langchain_core.outputs import ChatGenerationChunk

from benchmarks.case import Case, Side, times
from benchmarks.peers import (
    TEXT,
    V3,
    Model,
    awaited,
    bare,
    bridged,
    by_trio_asyncio,
    chunk,
    ours,
    text_of_ours,
    text_of_v3,
    v3,
)
from langchain_anyio import AsyncChatModelStream, AsyncProjection, open_stream
from langchain_anyio._protocol.chunk_converter import ChunkBridge

AT_ONCE, PACED = Model(count=times(2000)), Model(count=times(2000), paced=True)


@cache
def events(count: int) -> list[dict[str, Any]]:
    delta = {"type": "text-delta", "text": TEXT}
    return [
        {"event": "message-start", "id": "m"},
        *({"event": "content-block-delta", "index": 0, "delta": delta} for _ in range(count)),
        {"event": "content-block-finish", "index": 0, "content": {"type": "text", "text": ""}},
        {"event": "message-finish"},
    ]


def accumulated(make: Callable[[], Any], count: int, streams: int = 1) -> Side:
    start, delta, *end = events(1)

    async def run() -> int:
        for _ in range(streams):
            stream = make()
            stream.dispatch(start)
            for _ in range(count):
                stream.dispatch(delta)
            for event in end:
                stream.dispatch(event)
            assert len(stream.output_message.text) == count * len(TEXT)
        return count * streams

    return run


CHUNKS = [chunk() for _ in range(times(5000))]


async def bridge_of_ours() -> int:
    bridge = ChunkBridge("m")
    made = sum(len(bridge.feed(chunk)) for chunk in CHUNKS) + len(bridge.finish())
    assert made == len(CHUNKS) + 4
    return len(CHUNKS)


async def bridge_of_core() -> int:
    made = sum(1 for _ in chunks_to_events(iter(CHUNKS), message_id="m"))
    assert made == len(CHUNKS) + 4
    return len(CHUNKS)


def first_delta(open_: Callable[[BaseChatModel], Awaitable[Any]]) -> Side:
    """The shortest time from when the model yields its first chunk to when its delta is there."""

    async def run() -> float:
        yielded: list[float] = []
        model = Model(count=3, paced=True, yielded=lambda: yielded.append(time.perf_counter()))
        taken: list[float] = []
        for _ in range(times(500)):
            stream = await open_(model)
            deltas = aiter(stream.text)
            assert await anext(deltas) == TEXT
            taken.append(time.perf_counter() - yielded.pop())
            await stream
        return min(taken)

    return run


def whole(open_: Callable[[BaseChatModel], Awaitable[Any]]) -> Side:
    """A stream of one chunk, from its call to its end."""
    model = Model(count=1, paced=True)
    side = awaited(open_, model)

    async def run() -> int:
        for _ in range(times(200)):
            await side()
        return times(200)

    return run


def consumers(make: Callable[[], Any], number: int, burst: int, count: int) -> Side:
    """`number` consumers read `count` deltas, which come `burst` at a time, when the last are read."""

    async def run() -> int:
        stream = make()
        read = 0

        async def consume() -> None:
            nonlocal read
            async for _ in stream.text:
                read += 1

        tasks = [asyncio.ensure_future(consume()) for _ in range(number)]
        await asyncio.sleep(0)
        pushed = 0
        for event in events(count):
            stream.dispatch(event)
            pushed += event["event"] == "content-block-delta"
            if pushed and pushed % burst == 0:
                await asyncio.sleep(0)
                if burst == 1:
                    assert read == number * pushed
        await asyncio.gather(*tasks)
        assert read == number * count
        return read

    return run


def in_batches(make: Callable[[], Any], number: int, burst: int, count: int) -> Side:
    """`number` consumers read in batches what `consumers()` reads step by step."""

    async def run() -> int:
        stream = make()
        read, batches = 0, 0

        async def consume() -> None:
            nonlocal read, batches
            async for text in stream.text.batches():
                read += len(text)
                batches += 1

        tasks = [asyncio.ensure_future(consume()) for _ in range(number)]
        await asyncio.sleep(0)
        pushed = 0
        for event in events(count):
            stream.dispatch(event)
            pushed += event["event"] == "content-block-delta"
            if pushed and pushed % burst == 0:
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert read == number * count * len(TEXT)
        assert batches <= number * (count // burst + 2)
        return number * count

    return run


class Page:
    """What is shown of a text, made anew at each change of it."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.changes = 0
        self.bytes = b""

    def append(self, text: str) -> None:
        self._pieces.append(text)
        self.bytes = f"data: {json.dumps({'text': text})}\n\n".encode()
        self.changes += 1

    @property
    def text(self) -> str:
        return "".join(self._pieces)


# Chunks a second, and how many come between two batches.
RATE, PER_FRAME = 2000, 100


class Steady(Model):
    """A model of so many chunks a second."""

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        began = anyio.current_time()
        for number in range(self.count):
            await anyio.sleep_until(began + number / RATE)
            yield chunk()


STEADY = Steady(count=times(2000))


async def page_of_ours() -> int:
    page = Page()
    began = anyio.current_time()
    async with open_stream(STEADY, "hi") as stream:
        async for text in stream.text.batches(PER_FRAME / RATE):
            page.append(text)
        await stream
    frames = (anyio.current_time() - began) * RATE / PER_FRAME
    assert len(page.text) == STEADY.count * len(TEXT)
    assert page.changes <= frames + 2
    return STEADY.count


async def page_of_core() -> int:
    page = Page()
    stream = await v3(STEADY)
    async for text in stream.text:
        page.append(text)
    await stream
    assert len(page.text) == STEADY.count * len(TEXT)
    assert page.changes == STEADY.count
    return STEADY.count


async def asked() -> int:
    """What each step of ours does besides: ask whether a cancel scope around it was cancelled."""

    async def ask() -> None:
        with anyio.CancelScope():
            pass
        check = current_token().backend_class.checkpoint_if_cancelled
        for _ in range(times(1000)):
            await check()

    await asyncio.gather(*(ask() for _ in range(100)))
    return 100 * times(1000)


async def pushed_to_ours() -> int:
    projection = AsyncProjection[str, None]()
    read = 0

    async def consume() -> None:
        nonlocal read
        async for _ in projection:
            read += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consume)
        for _ in range(times(2000)):
            await anyio.lowlevel.cancel_shielded_checkpoint()
            projection.push(TEXT)
        projection.complete(None)
    assert read == times(2000)
    return read


async def sent_by_memory_stream() -> int:
    send, receive = anyio.create_memory_object_stream[str](times(2000))
    read = 0

    async def consume() -> None:
        nonlocal read
        with receive:
            async for _ in receive:
                read += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consume)
        with send:
            for _ in range(times(2000)):
                await anyio.lowlevel.cancel_shielded_checkpoint()
                send.send_nowait(TEXT)
    assert read == times(2000)
    return read


def many(use: Callable[[Model], Side], number: int) -> Side:
    """`number` streams of 40 deltas at once."""
    model = Model(count=40, paced=True)
    side = use(model)

    async def run() -> int:
        async with anyio.create_task_group() as tasks:
            for _ in range(times(number)):
                tasks.start_soon(side)
        return times(number) * model.count

    return run


CASES = [
    *(
        Case(
            f"accumulating {count:,} deltas, per delta",
            accumulated(AsyncChatModelStream, times(count)),
            target,
            accumulated(PeerStream, times(count)),
            V3,
            values=values,
        )
        for count, target, values in ((2000, 0.5, 15), (200_000, 0.07, 1))
    ),
    Case(
        "a delta at 1,000,000, beside one at 1,000",
        accumulated(AsyncChatModelStream, times(1_000_000)),
        1.2,
        accumulated(AsyncChatModelStream, times(1000), streams=200),
        "itself",
        values=1,
    ),
    Case("a plain chunk to its event", bridge_of_ours, 0.2, bridge_of_core, "langchain-core"),
    Case(
        "open_stream, text consumed, chunks at once, per delta",
        text_of_ours(AT_ONCE),
        0.33,
        text_of_v3(AT_ONCE),
        V3,
        bare(AT_ONCE),
        switches=2 / 64,
    ),
    Case(
        "open_stream, text consumed, chunks one by one, per delta",
        text_of_ours(PACED),
        0.33,
        text_of_v3(PACED),
        V3,
        bare(PACED),
        switches=2,
    ),
    Case(
        "the same on trio, beside trio-asyncio",
        text_of_ours(PACED),
        0.33,
        by_trio_asyncio(text_of_v3(PACED)),
        "trio-asyncio",
        bare(PACED),
        backend="trio",
        peer_backend="trio",
        switches=2,
        alone=True,
    ),
    Case(
        "the same on trio, beside a thread with asyncio",
        text_of_ours(PACED),
        0.2,
        bridged(PACED),
        "thread bridge",
        bare(PACED),
        backend="trio",
        peer_backend="trio",
        switches=2,
    ),
    Case(
        "await open_stream(...), nobody iterating, per delta",
        awaited(ours, PACED),
        0.33,
        awaited(v3, PACED),
        V3,
        bare(PACED),
        switches=1,
    ),
    Case(
        "from the first chunk to the first delta",
        first_delta(ours),
        0.5,
        first_delta(v3),
        V3,
        returns="seconds",
        switches=1,
    ),
    Case("a stream of one chunk, from its call to its end", whole(ours), None, whole(v3), V3),
    *(
        Case(
            title,
            consumers(AsyncChatModelStream, number, burst, times(count)),
            target,
            consumers(PeerStream, number, burst, times(count)),
            V3,
            switches=(1 + 1 / number) / burst,
            values=9,
        )
        for title, number, burst, count, target in (
            ("1 consumer woken for each delta, per delta", 1, 1, 2000, 1.0),
            ("100 consumers woken for each delta, per delta and consumer", 100, 1, 200, 1.1),
            ("100 consumers, bursts of 50, per delta and consumer", 100, 50, 1000, None),
        )
    ),
    Case(
        "100 consumers, bursts of 50, in batches, per delta and consumer",
        in_batches(AsyncChatModelStream, 100, 50, times(1000)),
        0.2,
        consumers(PeerStream, 100, 50, times(1000)),
        V3,
        switches=(1 + 1 / 100) / 50,
        values=9,
    ),
    Case(
        "a page at 20 batches a second, 2,000 deltas a second, less the bare model, per delta",
        page_of_ours,
        None,
        page_of_core,
        V3,
        bare(STEADY),
        values=5,
    ),
    Case("to ask anyio whether the task is cancelled, 100 tasks", asked, None, values=9),
    Case(
        "a delta pushed to a projection and read, beside a memory object stream",
        pushed_to_ours,
        None,
        sent_by_memory_stream,
        "anyio's stream",
        switches=2,
    ),
    *(
        Case(
            f"{number:,} streams of 40 deltas at once, per delta",
            many(text_of_ours, number),
            0.5,
            many(text_of_v3, number),
            V3,
            switches=2,
            values=values,
        )
        for number, values in ((1000, 3), (10_000, 1))
    ),
    Case(
        "1,000 streams of 40 deltas at once, less the bare model, per delta",
        many(text_of_ours, 1000),
        None,
        many(text_of_v3, 1000),
        V3,
        many(bare, 1000),
        switches=2,
        values=3,
    ),
]
