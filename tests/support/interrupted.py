"""A program that streams without end and is interrupted again and again: `python interrupted.py BACKEND WORK TIMES`.

It says `ready` each time that it has begun, and `interrupted` when a KeyboardInterrupt has come out of the event loop.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

from langchain_anyio import AsyncIteratorCallbackHandler, enable_trio, open_stream
from models import AStreamModel, AsyncRecorder, Recorder, StreamModel


async def stream() -> None:
    async with open_stream(AStreamModel(), "hi", {"callbacks": [AsyncRecorder()]}) as stream:
        async for _ in stream.text:
            pass
        await stream


async def stream_in_threads() -> None:
    async with open_stream(StreamModel(), "hi", {"callbacks": [Recorder()]}) as stream:
        async for _ in stream.interleave():
            pass


async def stream_in_tasks() -> None:
    async def read() -> None:
        await open_stream(AStreamModel(), "hi", max_buffer_size=1)

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(read)


async def call_back() -> None:
    handler = AsyncIteratorCallbackHandler()
    async with anyio.create_task_group() as group:
        group.start_soon(stream_to, handler)
        async for _ in handler:
            pass


async def stream_to(handler: AsyncIteratorCallbackHandler) -> None:
    await open_stream(AStreamModel(tell=True), "hi", {"callbacks": [handler]})


async def chain_that_waits() -> None:
    """Wait in the midst of a chain; before that, trio might interrupt langchain-core between any two statements."""

    async def before(number: int) -> None:
        if number:
            print("ready", flush=True)
            await anyio.sleep_forever()

    prompt = ChatPromptTemplate.from_template("Tell me of {topic}.")
    chain = prompt | AStreamModel(before=before) | StrOutputParser()
    async for _ in chain.astream({"topic": "water"}):
        pass


WORKS: dict[str, Callable[[], Awaitable[None]]] = {
    work.__name__: work for work in (stream, stream_in_threads, stream_in_tasks, call_back)
}


def is_interrupt(error: BaseException | None) -> bool:
    """Whether an error is a KeyboardInterrupt, a task group's with one in it, or one that came of it elsewhere.

    trio interrupts its main task between any two statements, and where those are of anyio's own task groups,
    what they raise then is another error.
    """
    if isinstance(error, BaseExceptionGroup):
        return any(map(is_interrupt, error.exceptions))
    if error is None or isinstance(error, KeyboardInterrupt):
        return error is not None
    if "TrioInternal" in type(error).__name__:
        return is_left_behind(error.__cause__)
    *_, (last, _) = traceback.walk_tb(error.__traceback__)
    ours = "langchain_anyio" in last.f_code.co_filename
    return not ours and is_interrupt(error.__context__)


def is_left_behind(error: BaseException | None) -> bool:
    """Whether trio found a task that never ran: its start, by a task group of the main task, was interrupted."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_left_behind, error.exceptions))
    if not isinstance(error, AssertionError):
        return False
    *_, (last, _) = traceback.walk_tb(error.__traceback__)
    return last.f_code.co_name == "finalize_remaining"


def main(backend: str, name: str, times: int) -> None:
    if backend == "trio":
        enable_trio()
    options: dict[str, Any] = {"use_uvloop": True} if backend == "uvloop" else {}

    async def without_end() -> None:
        if name not in WORKS:
            await chain_that_waits()
        await WORKS[name]()  # what is imported late is, before anything may interrupt it
        print("ready", flush=True)
        while True:
            await WORKS[name]()

    for _ in range(times):
        try:
            anyio.run(
                without_end,
                backend="trio" if backend == "trio" else "asyncio",
                backend_options=options,
            )
        except BaseException as error:
            if not is_interrupt(error):
                raise
            print("interrupted", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
