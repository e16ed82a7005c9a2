"""The cases: what is done, how often, by us and by a peer.

Each side is an async function that does the work once and returns how many units of it were done, after
it has asserted that the work was done. A case with a `floor` is about what is added to that: the ratio is
taken of what is left when the floor's time is subtracted from both sides.
"""

from __future__ import annotations

import asyncio
import math
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import anyio
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models._compat_bridge import chunks_to_events
from langchain_core.language_models.chat_model_stream import AsyncChatModelStream as PeerStream
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk

from langchain_anyio import AsyncChatModelStream, open_stream
from langchain_anyio._chunks import ChunkBridge

Side = Callable[[], Awaitable[int]]


@dataclass(frozen=True)
class Case:
    """One claim.

    Attributes:
        title: What is measured, per what.
        ours: Our side, and the backend it runs on.
        peer: The peer's side.
        peer_name: Who the peer is.
        target: The ratio to reach, ours to the peer's.
        floor: What both sides contain and is no merit or fault of either.
        backend: The backend of our side; peers run on asyncio unless they are ours.
        peer_backend: The backend of the peer's side.
        rounds: How often each side is measured; the shortest time counts.
    """

    title: str
    ours: Side
    peer: Side
    peer_name: str
    target: float
    floor: Side | None = None
    backend: str = "asyncio"
    peer_backend: str = "asyncio"
    rounds: int = 7


TEXT = "word "


def chunk() -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(content=TEXT))


class Model(BaseChatModel):
    """Streams `count` chunks; `paced`, it waits for the event loop before each, as a socket's reader does."""

    count: int = 2000
    paced: bool = False

    @property
    def _llm_type(self) -> str:
        return "benchmark"

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        for _ in range(self.count):
            if self.paced:
                await anyio.lowlevel.cancel_shielded_checkpoint()
            yield chunk()


FAST, PACED = Model(), Model(paced=True)


def bare(model: Model) -> Side:
    async def run() -> int:
        count = 0
        async for _ in model._astream([]):
            count += 1
        assert count == model.count
        return count

    return run


async def v3(model: BaseChatModel) -> PeerStream:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it is beta
        return await model.astream_events("hi", version="v3")


def text_of_v3(model: Model) -> Side:
    async def run() -> int:
        stream = await v3(model)
        count = 0
        async for _ in stream.text:
            count += 1
        await stream
        assert count == model.count
        return count

    return run


def text_of_ours(model: Model) -> Side:
    async def run() -> int:
        async with open_stream(model, "hi") as stream:
            count = 0
            async for _ in stream.text:
                count += 1
            await stream
        assert count == model.count
        return count

    return run


def await_v3(model: Model) -> Side:
    async def run() -> int:
        message = await (await v3(model))
        assert len(message.text) == model.count * len(TEXT)
        return model.count

    return run


def await_ours(model: Model) -> Side:
    async def run() -> int:
        message = await open_stream(model, "hi")
        assert len(message.text) == model.count * len(TEXT)
        return model.count

    return run


@cache
def events(count: int) -> list[dict[str, Any]]:
    delta = {"type": "text-delta", "text": TEXT}
    return [
        {"event": "message-start", "id": "m"},
        *({"event": "content-block-delta", "index": 0, "delta": delta} for _ in range(count)),
        {"event": "content-block-finish", "index": 0, "content": {"type": "text", "text": ""}},
        {"event": "message-finish"},
    ]


def accumulate(make: Callable[[], Any], count: int) -> Side:

    async def run() -> int:
        stream = make()
        for event in events(count):
            stream.dispatch(event)
        assert len(stream.output_message.text) == count * len(TEXT)
        return count

    return run


CHUNKS = [chunk() for _ in range(5000)]


async def bridge_of_ours() -> int:
    bridge = ChunkBridge("m")
    made = sum(len(bridge.feed(chunk)) for chunk in CHUNKS) + len(bridge.finish())
    assert made == len(CHUNKS) + 4
    return len(CHUNKS)


async def bridge_of_core() -> int:
    made = sum(1 for _ in chunks_to_events(iter(CHUNKS), message_id="m"))
    assert made == len(CHUNKS) + 4
    return len(CHUNKS)


def first_delta(open_: Callable[[Model], Awaitable[Any]]) -> Side:
    model = Model(count=1, paced=True)

    async def run() -> int:
        for _ in range(100):
            stream = await open_(model)
            async for delta in stream.text:
                assert delta == TEXT
                break
            await stream
        return 100

    return run


async def ours_opened(model: Model) -> AsyncChatModelStream:
    return open_stream(model, "hi")


def consumers(make: Callable[[], Any], number: int, burst: int, count: int) -> Side:
    """`number` consumers read `count` deltas, which come `burst` at a time."""

    async def run() -> int:
        stream = make()
        read = 0

        async def consume() -> None:
            nonlocal read
            async for _ in stream.text:
                read += 1

        tasks = [asyncio.ensure_future(consume()) for _ in range(number)]
        await asyncio.sleep(0)
        for index, event in enumerate(events(count)):
            stream.dispatch(event)
            if index % burst == 0:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert read == number * count
        return read

    return run


def many(use: Callable[[Model], Side], number: int) -> Side:
    """`number` streams of 40 deltas at once."""
    model = Model(count=40, paced=True)
    side = use(model)

    async def run() -> int:
        async with anyio.create_task_group() as tasks:
            for _ in range(number):
                tasks.start_soon(side)
        return number * model.count

    return run


def bridged(model: Model) -> Side:
    """langchain-core on an asyncio loop in a thread, its deltas handed over to trio."""

    async def run() -> int:
        import trio

        send, receive = trio.open_memory_channel[str](math.inf)
        token = trio.lowlevel.current_trio_token()

        async def produce() -> None:
            async for delta in (await v3(model)).text:
                token.run_sync_soon(send.send_nowait, delta)
            token.run_sync_soon(send.close)

        count = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, lambda: asyncio.run(produce()))
            async for _ in receive:
                count += 1
        assert count == model.count
        return count

    return run


V3 = "langchain-core v3"

CASES = [
    Case(
        "accumulating 2,000 deltas, per delta",
        accumulate(AsyncChatModelStream, 2000),
        accumulate(PeerStream, 2000),
        V3,
        0.5,
    ),
    Case(
        "accumulating 200,000 deltas, per delta",
        accumulate(AsyncChatModelStream, 200_000),
        accumulate(PeerStream, 200_000),
        V3,
        0.07,
        rounds=3,
    ),
    Case(
        "a delta at 1,000,000, beside one at 1,000",
        accumulate(AsyncChatModelStream, 1_000_000),
        accumulate(AsyncChatModelStream, 1000),
        "itself",
        1.2,
        rounds=5,
    ),
    Case(
        "open_stream, text consumed, chunks at once",
        text_of_ours(FAST),
        text_of_v3(FAST),
        V3,
        0.33,
        bare(FAST),
    ),
    Case(
        "open_stream, text consumed, chunks one by one",
        text_of_ours(PACED),
        text_of_v3(PACED),
        V3,
        0.33,
        bare(PACED),
    ),
    Case(
        "the same on trio, beside a thread with asyncio",
        text_of_ours(PACED),
        bridged(PACED),
        "thread bridge",
        0.2,
        bare(PACED),
        backend="trio",
        peer_backend="trio",
    ),
    Case("a plain chunk to its event", bridge_of_ours, bridge_of_core, "langchain-core", 0.2),
    Case(
        "await open_stream(...), nobody iterating, per delta",
        await_ours(PACED),
        await_v3(PACED),
        V3,
        0.33,
        bare(PACED),
    ),
    Case(
        "from the call to the first delta",
        first_delta(ours_opened),
        first_delta(v3),
        V3,
        0.5,
    ),
    Case(
        "1 consumer woken for each delta",
        consumers(AsyncChatModelStream, 1, 1, 2000),
        consumers(PeerStream, 1, 1, 2000),
        V3,
        0.9,
    ),
    Case(
        "100 consumers woken for each delta",
        consumers(AsyncChatModelStream, 100, 1, 200),
        consumers(PeerStream, 100, 1, 200),
        V3,
        0.9,
    ),
    Case(
        "100 consumers, bursts of 50",
        consumers(AsyncChatModelStream, 100, 50, 1000),
        consumers(PeerStream, 100, 50, 1000),
        V3,
        1.0,
    ),
    Case(
        "1,000 streams of 40 deltas at once, per delta",
        many(text_of_ours, 1000),
        many(text_of_v3, 1000),
        V3,
        0.5,
        rounds=3,
    ),
    Case(
        "10,000 streams of 40 deltas at once, per delta",
        many(text_of_ours, 10_000),
        many(text_of_v3, 10_000),
        V3,
        0.5,
        rounds=1,
    ),
]
