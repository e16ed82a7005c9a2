"""The callback handler, beside the one that it ports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

from langchain_core.outputs import LLMResult

from benchmarks.case import Case, Side, times
from benchmarks.peers import TEXT
from langchain_anyio import AsyncIteratorCallbackHandler

RUN = UUID(int=1)
END = LLMResult(generations=[])


def original() -> Any:
    from langchain_classic.callbacks import AsyncIteratorCallbackHandler

    return AsyncIteratorCallbackHandler()


def one_at_a_time(make: Callable[[], Any]) -> Side:
    """Each token is told of when the last one was read."""

    async def run() -> int:
        handler, count = make(), times(2000)
        read = 0
        taken = asyncio.Event()

        async def consume() -> None:
            nonlocal read
            async for token in handler.aiter():
                assert token == TEXT
                read += 1
                taken.set()

        await handler.on_llm_start({}, ["hi"], run_id=RUN)
        task = asyncio.ensure_future(consume())
        for _ in range(count):
            await handler.on_llm_new_token(TEXT, run_id=RUN)
            await taken.wait()
            taken.clear()
        await handler.on_llm_end(END, run_id=RUN)
        await task
        assert read == count
        return count

    return run


def one_a_turn(make: Callable[[], Any]) -> Side:
    """A token is told of at each turn of the event loop, as by a model that waits for each."""

    async def run() -> int:
        handler, count = make(), times(2000)
        read = 0

        async def consume() -> None:
            nonlocal read
            async for _ in handler.aiter():
                read += 1

        await handler.on_llm_start({}, ["hi"], run_id=RUN)
        task = asyncio.ensure_future(consume())
        for _ in range(count):
            await handler.on_llm_new_token(TEXT, run_id=RUN)
            await asyncio.sleep(0)
        while read < count:
            await asyncio.sleep(0)
        await handler.on_llm_end(END, run_id=RUN)
        await task
        assert read == count
        return count

    return run


def at_once(make: Callable[[], Any]) -> Side:
    """All tokens are told of before the first is read."""

    async def run() -> int:
        handler, count = make(), times(2000)
        await handler.on_llm_start({}, ["hi"], run_id=RUN)
        for _ in range(count):
            await handler.on_llm_new_token(TEXT, run_id=RUN)
        read = 0

        async def consume() -> None:
            nonlocal read
            async for _ in handler.aiter():
                read += 1

        task = asyncio.ensure_future(consume())
        while read < count:
            await asyncio.sleep(0)
        await handler.on_llm_end(END, run_id=RUN)
        await task
        assert read == count
        return count

    return run


def many_runs(number: int, *, claimed: bool) -> Side:
    """So many runs are open at a time, and then read together, or each by its id once all have ended."""

    async def run() -> int:
        runs, rounds = times(number), max(1, MANY // number)
        for _ in range(rounds):
            handler = AsyncIteratorCallbackHandler()
            ids = [UUID(int=id) for id in range(1, runs + 1)]
            for id in ids:
                await handler.on_chat_model_start({}, [[]], run_id=id)
            for id in ids:
                await handler.on_llm_new_token(TEXT, run_id=id)
            for id in ids:
                await handler.on_llm_end(END, run_id=id)
            iterators = [handler.aiter(run_id=id) for id in ids] if claimed else [handler.aiter()]
            read = 0
            for iterator in iterators:
                async for token in iterator:
                    assert token == TEXT
                    read += 1
            assert read == runs
        return rounds * runs

    return run


async def exchange() -> int:
    """What `one_at_a_time` does besides: two tasks that wake each other by an event."""
    count = times(2000)
    told, taken = asyncio.Event(), asyncio.Event()

    async def consume() -> None:
        for _ in range(count):
            await told.wait()
            told.clear()
            taken.set()

    task = asyncio.ensure_future(consume())
    for _ in range(count):
        told.set()
        await taken.wait()
        taken.clear()
    await task
    return count


NAME = "langchain-classic"
FEW, MANY = 100, 10_000
CASES = [
    Case(
        "handler, one token at a time, per token",
        one_at_a_time(AsyncIteratorCallbackHandler),
        None,
        one_at_a_time(original),
        NAME,
        switches=2,
        of_floor=1.5,
    ),
    Case(
        "handler, a token each turn of the event loop, per token",
        one_a_turn(AsyncIteratorCallbackHandler),
        None,
        one_a_turn(original),
        NAME,
        switches=2,
        of_floor=1.5,
    ),
    Case(
        "handler, all tokens there, per token",
        at_once(AsyncIteratorCallbackHandler),
        0.2,
        at_once(original),
        NAME,
    ),
    *(
        Case(
            f"handler, {MANY:,} runs open at once{how}, per run",
            many_runs(MANY, claimed=claimed),
            1.5,
            many_runs(FEW, claimed=claimed),
            f"{FEW} runs",
        )
        for claimed, how in ((False, ""), (True, ", then read by id"))
    ),
    Case("two tasks that wake each other by asyncio's events", exchange, None, switches=2),
]
