"""What is kept, and what importing takes."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.chat_model_stream import AsyncChatModelStream as PeerStream
from typing_extensions import Self

from benchmarks.case import Case, Side, times
from benchmarks.peers import V3, Model, ours, text_of_ours, text_of_v3, v3
from langchain_anyio import AsyncChatModelStream, open_stream


class Traced:
    """The bytes that Python has allocated since the block was entered."""

    def __enter__(self) -> Self:
        gc.collect()
        tracemalloc.start()
        self._start = tracemalloc.get_traced_memory()[0]
        return self

    def kept(self) -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - self._start

    def peak(self) -> int:
        return tracemalloc.get_traced_memory()[1] - self._start

    def __exit__(self, *_: object) -> None:
        tracemalloc.stop()


def kept(open_: Callable[[BaseChatModel], Awaitable[Any]]) -> Side:
    """What a stream that was read and still is there keeps, the message's text included, per delta."""
    model = Model(count=times(20_000), distinct=True)

    async def run() -> float:
        await awaited_once(open_)
        with Traced() as traced:
            stream = await open_(model)
            async for _ in stream.text:
                pass
            await stream
            return traced.kept() / model.count

    return run


def kept_by_hand(make: Callable[[], Any]) -> Side:
    """What a stream keeps for a delta that is dispatched to it, as LangGraph does, its text included."""

    async def run() -> float:
        count = times(20_000)
        with Traced() as traced:
            stream = make()
            stream.dispatch({"event": "message-start", "id": "m"})
            for number in range(count):
                # As from a socket: neither the event nor its text is shared with another one.
                delta = {"type": "text-delta", "text": f"{number % 10_000:4} "}
                stream.dispatch({"event": "content-block-delta", "index": 0, "delta": delta})
            stream.dispatch({"event": "message-finish"})
            assert len(stream.output_message.text) == 5 * count
            return traced.kept() / count

    return run


async def awaited_once(open_: Callable[[BaseChatModel], Awaitable[Any]]) -> None:
    """Have what is imported and cached at the first use there."""
    await (await open_(Model(count=2)))


async def beyond_the_text() -> float:
    """The most that a stream without replay keeps over a million deltas, beyond the text that has come."""
    model = Model(count=times(1_000_000), distinct=True)
    await awaited_once(ours)
    most, length, read = 0, 0, 0
    with Traced() as traced:
        async with open_stream(model, "hi", replay=False) as stream:
            async for delta in stream.text:
                length += len(delta)
                read += 1
                if read % (model.count // 10) == 0:
                    most = max(most, traced.kept() - length)
            await stream
            most = max(most, traced.kept() - length)
    assert read == model.count
    return most


def peak(use: Callable[[Model], Side], number: int) -> Side:
    """The most that `number` streams of 40 deltas take at once, per stream."""
    side = use(Model(count=40, paced=True))

    async def run() -> float:
        await side()
        with Traced() as traced:
            async with anyio.create_task_group() as tasks:
                for _ in range(times(number)):
                    tasks.start_soon(side)
            return traced.peak() / times(number)

    return run


IMPORT = """
import sys, time
for name in {core}:
    __import__(name)
began = time.process_time()
{statement}
print(time.process_time() - began)
"""
LOADED = "import langchain_anyio._open_stream, langchain_anyio.callbacks, sys; print([n for n in sys.modules if n.startswith('langchain_core')])"


def importing(statement: str) -> Side:
    """Importing, where the same modules of langchain-core are there already; the shortest of several."""

    async def run() -> float:
        # Compiled files are kept, as they are for whoever runs a program twice.
        env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

        def python(code: str) -> str:
            command = [sys.executable, "-c", code]
            return subprocess.run(
                command, env=env, check=True, capture_output=True, text=True
            ).stdout

        code = IMPORT.format(core=python(LOADED).strip(), statement=statement)
        return min(float(python(code)) for _ in range(times(7)))

    return run


CASES = [
    Case(
        "memory kept for a delta",
        kept(ours),
        0.5,
        kept(v3),
        V3,
        returns="bytes",
        values=1,
    ),
    Case(
        "memory kept for a delta dispatched by hand",
        kept_by_hand(AsyncChatModelStream),
        0.3,
        kept_by_hand(PeerStream),
        V3,
        returns="bytes",
        values=1,
    ),
    Case(
        "memory beyond the text, replay=False, 1,000,000 deltas",
        beyond_the_text,
        1e6,
        returns="bytes",
        values=1,
    ),
    *(
        Case(
            f"{number:,} streams of 40 deltas at once, peak memory of one",
            peak(text_of_ours, number),
            0.5,
            peak(text_of_v3, number),
            V3,
            returns="bytes",
            values=1,
        )
        for number in (1000, 10_000)
    ),
    *(
        Case(f"`{statement}`", importing(statement), 0.010, returns="seconds", values=1)
        for statement in ("import langchain_anyio", "from langchain_anyio import open_stream")
    ),
]
