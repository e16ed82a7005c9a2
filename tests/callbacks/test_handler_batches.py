"""`batches()` of a handler's iterators."""

from __future__ import annotations

import gc
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from cancelling import Victim, settle, ticks, ways_to_cancel
from handlers import all_of, config_of
from langchain_anyio import AsyncIteratorCallbackHandler, open_stream
from models import AStreamModel
from test_handler import Chain, Reader, Speaker, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

# Seconds that no test lasts: an interval that is over only if something ends it.
NEVER = 1e6


async def collect(batches: AsyncIterator[Any], into: list[Any]) -> None:
    async for batch in batches:
        into.append(batch)


@pytest.mark.parametrize("interval", (0, NEVER))
async def test_all_that_has_come_is_one_batch(interval: float) -> None:
    handler = AsyncIteratorCallbackHandler()
    async with anyio.create_task_group() as group:
        reader = Reader(group, handler.aiter().batches(interval))
        await settle()
        speaker = await Speaker(handler).start()
        await speaker.say("a", "b")
        await settle()
        assert reader.got == ["ab"]
        await speaker.say("c")
        await settle()
        await speaker.say("d", "e")
        await settle()
        await speaker.end()
    assert reader.got == (["ab", "c", "de"] if not interval else ["ab", "cde"])
    assert reader.over
    assert reader.error is None


async def test_batches_of_several_runs() -> None:
    handler = AsyncIteratorCallbackHandler()
    chain = await Chain(handler).start()
    left, right = await Speaker(handler, chain).start(), await Speaker(handler, chain).start()
    of_right = handler.aiter(run_id=right.id).batches()
    await left.say("a")
    await right.say("x", "y")
    await left.say("b")
    assert await anext(of_right) == "xy"
    await right.end()
    with pytest.raises(StopAsyncIteration):
        await anext(of_right)
    await left.end()
    await chain.end()
    assert await all_of(handler.runs().batches()) == [[(left.id, "a"), (left.id, "b")]]


@pytest.mark.parametrize("interval", (0, NEVER))
async def test_an_error_comes_after_the_tokens(interval: float) -> None:
    handler = AsyncIteratorCallbackHandler()
    error = ZeroDivisionError()
    async with anyio.create_task_group() as group:
        reader = Reader(group, handler.aiter().batches(interval))
        speaker = await Speaker(handler).start()
        await speaker.say("a")
        await settle()
        await speaker.say("b")
        await speaker.end(error)
    assert reader.got == ["a", "b"]
    assert reader.error is error


async def test_an_iterator_and_its_batches_are_one_iteration() -> None:
    handler = AsyncIteratorCallbackHandler()
    await run(handler, "a", "b", "c")
    tokens = handler.aiter()
    assert await anext(tokens) == "a"
    assert await all_of(tokens.batches()) == ["bc"]
    assert await all_of(tokens) == []


async def test_done_set_by_hand_ends_the_interval() -> None:
    handler = AsyncIteratorCallbackHandler()
    async with anyio.create_task_group() as group:
        reader = Reader(group, handler.aiter().batches(NEVER))
        handler.queue.put_nowait("a")
        await settle()
        handler.queue.put_nowait("")
        handler.queue.put_nowait("b")
        handler.done.set()
    assert reader.got == ["a", "b"]


@pytest.mark.parametrize("interval", (0, NEVER))
async def test_text_that_is_empty_is_no_batch(interval: float) -> None:
    handler = AsyncIteratorCallbackHandler()
    async with anyio.create_task_group() as group:
        reader = Reader(group, handler.aiter().batches(interval))
        for text in ("", "a", ""):
            handler.queue.put_nowait(text)
            await settle()
        handler.done.set()
    assert reader.got == ["a"]


async def test_closed_by_another_task() -> None:
    handler = AsyncIteratorCallbackHandler()
    batches = handler.aiter().batches(NEVER)
    async with anyio.create_task_group() as group:
        reader = Reader(group, batches)
        speaker = await Speaker(handler).start()
        await speaker.say("a")
        await settle()
        await speaker.say("b")
        await batches.aclose()
        await settle()
        assert reader.over
    await speaker.end()
    assert reader.got == ["a"]
    assert await all_of(handler) == ["b"]


async def test_the_model_is_held_back_until_the_batch_is_taken() -> None:
    handler = AsyncIteratorCallbackHandler(2)
    model = AStreamModel(words=list("abcdefg"), tell=True)
    batches = handler.aiter().batches()
    got = ""
    async with anyio.create_task_group() as group:
        victim = Victim(group, partial(open_stream(model, "hi", config_of(handler))._wait))
        while len(got) < 7:
            await settle()
            assert handler.queue.qsize() <= 2
            batch = await anext(batches)
            assert len(batch) <= 3
            got += batch
        with pytest.raises(StopAsyncIteration):
            await anext(batches)
    assert got == "abcdefg"
    assert victim.outcome == "returned"


async def test_batches_that_are_dropped_hold_nothing_back() -> None:
    handler = AsyncIteratorCallbackHandler(1)
    speaker = await Speaker(handler).start()
    async with anyio.create_task_group() as group:
        victim = Victim(group, partial(speaker.say, *"abcd"))
        async for _ in handler.aiter().batches(NEVER):
            break
        gc.collect()
        await settle()
        assert victim.outcome == "returned"
    await speaker.end()


async def test_who_is_cancelled_loses_nothing(anyio_backend: tuple[str, Any]) -> None:
    for how in ways_to_cancel(anyio_backend):
        for interval in (0, NEVER):
            for tick in range(12):
                handler = AsyncIteratorCallbackHandler()
                batches = handler.aiter().batches(interval)
                got: list[str] = []
                async with anyio.create_task_group() as group:
                    speaker = await Speaker(handler).start()
                    victim = Victim(group, partial(collect, batches, got))
                    await speaker.say("a")
                    await ticks(tick)
                    await speaker.say("b")
                    victim.cancel(how)
                    await settle()
                    assert victim.outcome == "cancelled"
                    await speaker.say("c")
                    await speaker.end()
                    await collect(batches, got)
                assert "".join(got) == "abc", (how, interval, tick)


async def test_tokens_from_a_thread() -> None:
    handler = AsyncIteratorCallbackHandler()
    async with anyio.create_task_group() as group:
        reader = Reader(group, handler.aiter().batches(0.001))
        model = AStreamModel(words=list("abcdefg"))
        await anyio.to_thread.run_sync(
            partial(anyio.run, run, handler, *model.words, backend="asyncio")
        )
    assert "".join(reader.got) == "abcdefg"


@pytest.mark.parametrize(("interval", "error"), ((-1, ValueError), ("1", TypeError)))
def test_bad_intervals(interval: Any, error: type[Exception]) -> None:
    handler = AsyncIteratorCallbackHandler()
    for iterator in (handler.aiter(), handler.runs()):
        with pytest.raises(error, match="interval must be a"):
            iterator.batches(interval)
