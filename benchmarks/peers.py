"""A model without a provider, and the ways to stream it: ours, langchain-core's, and the bridges to trio."""

from __future__ import annotations

import asyncio
import math
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.chat_model_stream import AsyncChatModelStream as PeerStream
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk

from benchmarks.case import Side
from langchain_anyio import AsyncChatModelStream, open_stream

V3 = "langchain-core v3"

TEXT = "word "


def chunk(text: str = TEXT) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(content=text))


class Model(BaseChatModel):
    """Streams `count` chunks of five characters.

    Attributes:
        paced: Whether it waits for the event loop before each, as a socket's reader does.
        distinct: Whether each is another text.
        yielded: Called as the first chunk is yielded.
    """

    count: int
    paced: bool = False
    distinct: bool = False
    yielded: Callable[[], object] | None = None

    @property
    def _llm_type(self) -> str:
        return "benchmark"

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        for number in range(self.count):
            if self.paced:
                await anyio.lowlevel.cancel_shielded_checkpoint()
            piece = chunk(f"{number % 10_000:4} " if self.distinct else TEXT)
            if number == 0 and self.yielded is not None:
                self.yielded()
            yield piece


async def v3(model: BaseChatModel) -> PeerStream:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it is beta
        return await model.astream_events("hi", version="v3")


async def ours(model: BaseChatModel) -> AsyncChatModelStream:
    return open_stream(model, "hi")


def bare(model: Model) -> Side:
    """The model without any stream."""

    async def run() -> int:
        count = 0
        async for _ in model._astream([]):
            count += 1
        assert count == model.count
        return count

    return run


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


def awaited(open_: Callable[[BaseChatModel], Awaitable[Any]], model: Model) -> Side:
    async def run() -> int:
        message = await (await open_(model))
        assert len(message.text) == model.count * len(TEXT)
        return model.count

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


def by_trio_asyncio(side: Side) -> Side:
    """A side that needs asyncio, on trio by trio-asyncio; its import slows down all of asyncio in the process."""

    async def run() -> float:
        import trio_asyncio

        async with trio_asyncio.open_loop():
            return await trio_asyncio.aio_as_trio(side)()  # type: ignore[no-any-return]

    return run
