"""`AsyncIteratorCallbackHandler`: told by hand, by `open_stream`, and by langchain-core."""

from __future__ import annotations

import copy
import gc
import math
import os
import pickle
import sys
import warnings
import weakref
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.language_models import LLM
from langchain_core.outputs import GenerationChunk, LLMResult
from langchain_core.runnables import RunnableLambda

from cancelling import Victim, settle, ways_to_cancel
from handlers import all_of
from langchain_anyio import (
    AsyncFinalIteratorCallbackHandler,
    AsyncIteratorCallbackHandler,
    AsyncStreamingStdOutCallbackHandler,
    Event,
    Queue,
    StreamCancelledError,
    callbacks,
    open_stream,
)
from limits import HANGS
from models import AEventsModel, AGenerateModel, AStreamModel, Gate, GenerateModel, StreamModel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.anyio

END = LLMResult(generations=[])


class PlainModel(LLM):
    """A model of text that is none of chat."""

    @property
    def _llm_type(self) -> str:
        return "test"

    def _call(self, prompt: str, *args: Any, **kwargs: Any) -> str:
        raise AssertionError("the model was asked in the wrong way")

    def _stream(
        self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[GenerationChunk]:
        for letter in "abc":
            run_manager.on_llm_new_token(letter)
            yield GenerationChunk(text=letter)


class Speaker:
    """A run that is told of by hand."""

    def __init__(
        self, handler: AsyncIteratorCallbackHandler, parent: Speaker | None = None
    ) -> None:
        self.handler = handler
        self.id = uuid4()
        self.kwargs: Any = {"run_id": self.id, "parent_run_id": parent and parent.id}

    async def start(self) -> Speaker:
        await self.handler.on_llm_start({}, ["prompt"], **self.kwargs)
        return self

    async def say(self, *tokens: Any) -> Speaker:
        for token in tokens:
            await self.handler.on_llm_new_token(token, **self.kwargs)
        return self

    async def end(self, error: BaseException | None = None) -> None:
        if error is None:
            await self.handler.on_llm_end(END, **self.kwargs)
        else:
            await self.handler.on_llm_error(error, **self.kwargs)


class Chain(Speaker):
    async def start(self) -> Chain:
        await self.handler.on_chain_start({}, {}, **self.kwargs)
        return self

    async def end(self, error: BaseException | None = None) -> None:
        if error is None:
            await self.handler.on_chain_end({}, **self.kwargs)
        else:
            await self.handler.on_chain_error(error, **self.kwargs)


async def run(
    handler: AsyncIteratorCallbackHandler, *tokens: Any, error: BaseException | None = None
) -> UUID:
    """A bare model call from its start to its end."""
    speaker = await Speaker(handler).start()
    await speaker.say(*tokens)
    await speaker.end(error)
    return speaker.id


class Reader:
    """A task that iterates, and what it has got."""

    def __init__(self, group: Any, iterable: Any) -> None:
        self.got: list[Any] = []
        self.error: BaseException | None = None
        self.over = False
        self.scope = anyio.CancelScope()
        group.start_soon(self._read, iterable)

    async def _read(self, iterable: Any) -> None:
        with self.scope:
            try:
                async for item in iterable:
                    self.got.append(item)
            except Exception as exc:
                self.error = exc
            self.over = True


# What it is


def test_is_what_the_original_is() -> None:
    handler = AsyncIteratorCallbackHandler()
    assert isinstance(handler.queue, Queue)
    assert isinstance(handler.done, Event)
    assert handler.always_verbose
    assert not handler.done.is_set()
    assert AsyncIteratorCallbackHandler.__module__ == "langchain_anyio"
    assert callbacks.AsyncIteratorCallbackHandler is AsyncIteratorCallbackHandler
    assert AsyncIteratorCallbackHandler(3).queue.statistics().max_buffer_size == 3


@pytest.mark.parametrize("size", (-1, 1.5, math.nan, None))
def test_refuses_a_size_that_is_none(size: Any) -> None:
    with pytest.raises(ValueError, match="max_buffer_size"):
        AsyncIteratorCallbackHandler(size)


async def test_gives_the_text_of_tokens() -> None:
    handler = AsyncIteratorCallbackHandler()
    blocks = [
        "a",
        {"type": "text", "text": "b", "index": 0},
        {"type": "reasoning", "reasoning": "hm", "index": 1},
        {"type": "tool_use", "input": {}},
        {"text": "c"},
    ]
    await run(handler, "x", "", blocks, [], [{"type": "thinking", "thinking": "hm"}], "y")
    assert await all_of(handler) == ["x", "abc", "y"]


# When iteration begins and ends


async def test_begins_before_during_or_after_the_run() -> None:
    handler = AsyncIteratorCallbackHandler()
    async with anyio.create_task_group() as group:
        before = Reader(group, handler)
        await settle()
        speaker = await Speaker(handler).start()
        await speaker.say("a")
        await settle()
        assert before.got == ["a"]
        before.scope.cancel()
        await settle()
        await speaker.say("b")
        during = Reader(group, handler)
        await settle()
        assert during.got == ["b"]
        during.scope.cancel()
        await settle()
        await speaker.say("c", "d")
        await speaker.end()
    assert handler.done.is_set()
    assert await all_of(handler) == ["c", "d"]


async def test_many_tokens_before_iteration_begins() -> None:
    handler = AsyncIteratorCallbackHandler()
    await run(handler, *map(str, range(20_000)))
    assert await all_of(handler.aiter()) == [str(number) for number in range(20_000)]


async def test_waits_for_the_next_run_once_one_was_read() -> None:
    handler = AsyncIteratorCallbackHandler()
    for number in range(3):
        async with anyio.create_task_group() as group:
            reader = Reader(group, handler)
            await settle()
            assert not reader.over
            await run(handler, str(number), "x")
        assert reader.got == [str(number), "x"]


async def test_each_unread_run_is_an_iteration() -> None:
    handler = AsyncIteratorCallbackHandler()
    await run(handler, "a", "b")
    await run(handler)
    await run(handler, "c", error=ValueError("no"))
    await run(handler, "d")
    assert await all_of(handler) == ["a", "b"]
    assert await all_of(handler) == []
    with pytest.raises(ValueError, match="no"):
        await all_of(handler)
    assert await all_of(handler) == ["d"]


async def test_ends_with_the_outermost_run() -> None:
    handler = AsyncIteratorCallbackHandler()
    async with anyio.create_task_group() as group:
        reader = Reader(group, handler)
        agent = await Chain(handler).start()
        for answer in ("call a tool", "the answer"):
            step = await Chain(handler, agent).start()
            model = await Speaker(handler, step).start()
            await model.say(answer)
            await model.end()
            await handler.on_tool_start({}, "2", run_id=(tool := uuid4()), parent_run_id=agent.id)
            await handler.on_tool_end("4", run_id=tool, parent_run_id=agent.id)
            await step.end()
            await settle()
            assert not handler.done.is_set()
            assert not reader.over
        await agent.end()
    assert reader.got == ["call a tool", "the answer"]
    assert handler.done.is_set()


async def test_ends_when_the_last_of_overlapping_runs_does() -> None:
    handler = AsyncIteratorCallbackHandler()
    async with anyio.create_task_group() as group:
        reader = Reader(group, handler)
        one, two = await Speaker(handler).start(), await Speaker(handler).start()
        await one.say("1")
        await one.end()
        await two.say("2")
        await settle()
        assert not reader.over
        await two.end()
    assert reader.got == ["1", "2"]


async def test_a_call_that_fails_before_the_model_is_reached() -> None:
    handler = AsyncIteratorCallbackHandler()
    async with anyio.create_task_group() as group:
        reader = Reader(group, handler)
        chain = await Chain(handler).start()
        await chain.end(ValueError("no such prompt"))
    assert repr(reader.error) == "ValueError('no such prompt')"


async def test_runs_whose_start_went_by_unnoticed() -> None:
    handler = AsyncIteratorCallbackHandler()
    speaker = await Speaker(handler).say("a")
    await speaker.end()
    assert await all_of(handler) == ["a"]
    with pytest.raises(KeyError):
        await run_nothing(handler, KeyError("x"))


async def run_nothing(handler: AsyncIteratorCallbackHandler, error: BaseException) -> None:
    await Speaker(handler).end(error)
    await all_of(handler)


async def test_works_without_any_run_id() -> None:
    handler: Any = AsyncIteratorCallbackHandler()
    for _ in range(2):
        await handler.on_llm_start({}, [])
        await handler.on_llm_new_token("a")
        await handler.on_llm_end(END)
        assert await all_of(handler) == ["a"]


async def test_an_end_told_twice_counts_once() -> None:
    handler = AsyncIteratorCallbackHandler()
    speaker = await Speaker(handler).start()
    await speaker.say("a")
    await speaker.end()
    await speaker.end(ValueError("late"))
    assert await all_of(handler) == ["a"]
    async with anyio.create_task_group() as group:
        reader = Reader(group, handler)
        await settle()
        assert not reader.over
        await run(handler, "b")
    assert reader.got == ["b"]


async def test_an_inner_run_that_never_ends() -> None:
    handler = AsyncIteratorCallbackHandler()
    chain = await Chain(handler).start()
    inner = await Speaker(handler, chain).start()
    await inner.say("a")
    async with anyio.create_task_group() as group:
        reader = Reader(group, handler.aiter(run_id=inner.id))
        await settle()
        assert not reader.over
        await chain.end()
    assert reader.got == ["a"]
    assert await all_of(handler) == []
    await run(handler, "b")
    assert await all_of(handler) == ["b"]


# `done` by hand


async def test_done_by_hand_ends_iteration_after_what_is_there() -> None:
    handler = AsyncIteratorCallbackHandler()
    async with anyio.create_task_group() as group:
        reader = Reader(group, handler)
        speaker = await Speaker(handler).start()
        await speaker.say("a")
        await settle()
        await speaker.say("b")
        handler.done.set()
        await speaker.say("c")
    assert reader.got[:2] == ["a", "b"]
    await speaker.end()
    # What came later is not lost.
    async with anyio.create_task_group() as group:
        later = Reader(group, handler)
        await settle()
        await run(handler, "d")
    assert [*reader.got, *later.got] == ["a", "b", "c", "d"]


async def test_done_by_hand_ends_iteration_under_a_flood_of_tokens() -> None:
    handler = AsyncIteratorCallbackHandler()
    speaker = await Speaker(handler).start()
    await speaker.say("x", "x")
    got = []
    with anyio.fail_after(HANGS):
        async for token in handler:
            got.append(token)
            await speaker.say("x")
            if len(got) == 10:
                handler.done.set()
            assert len(got) < 20


async def test_done_by_hand_before_anything() -> None:
    handler = AsyncIteratorCallbackHandler()
    handler.done.set()
    assert await all_of(handler) == []
    handler.queue.put_nowait("x")
    handler.done.set()
    assert await all_of(handler) == ["x"]


async def test_done_by_hand_ends_who_waits_for_a_run_that_never_comes() -> None:
    handler = AsyncIteratorCallbackHandler()
    await run(handler, "a")
    assert await all_of(handler) == ["a"]
    async with anyio.create_task_group() as group:
        readers = [Reader(group, handler) for _ in range(3)]
        readers.append(Reader(group, handler.aiter(run_id=uuid4())))
        await settle()
        handler.done.set()
    assert [reader.got for reader in readers] == [[]] * 4


async def test_done_by_hand_after_each_run_does_not_end_the_next_iteration() -> None:
    handler = AsyncIteratorCallbackHandler()
    for number in range(3):
        async with anyio.create_task_group() as group:
            reader = Reader(group, handler)
            await settle()
            assert not reader.over
            await run(handler, str(number))
        assert reader.got == [str(number)]
        handler.done.set()
    # A second time without a run between is for a call that never started.
    handler.done.set()
    assert await all_of(handler) == []


async def test_waiting_for_done() -> None:
    handler = AsyncIteratorCallbackHandler()
    async with anyio.create_task_group() as group:
        victims = [Victim(group, handler.done.wait) for _ in range(2)]
        await settle()
        victims[0].cancel("scope")
        await settle()
        await run(handler)
        handler.done.clear()
    assert [victim.outcome for victim in victims] == ["cancelled", "returned"]
    handler.done.set()
    assert await handler.done.wait() is True


# Errors


async def test_the_error_comes_after_the_tokens() -> None:
    handler = AsyncIteratorCallbackHandler()
    error = ZeroDivisionError("half way")
    await run(handler, "a", "b", error=error)
    got = []
    with pytest.raises(ZeroDivisionError) as caught:
        async for token in handler:
            got.append(token)
    assert got == ["a", "b"]
    assert caught.value is error


async def test_all_who_iterate_see_the_error_and_it_does_not_grow() -> None:
    handler = AsyncIteratorCallbackHandler()
    try:
        raise ZeroDivisionError
    except ZeroDivisionError as exc:
        error = exc
    async with anyio.create_task_group() as group:
        readers = [Reader(group, handler) for _ in range(20)]
        await settle()
        await run(handler, error=error)
    assert [reader.error for reader in readers] == [error] * 20
    depth, frame = 0, error.__traceback__
    while frame is not None:
        depth, frame = depth + 1, frame.tb_next
    assert depth < 8


async def test_silence_on_errors_where_asked_for() -> None:
    handler = AsyncIteratorCallbackHandler(raise_on_error=False)
    run_id = await run(handler, "a", error=ValueError())
    assert await all_of(handler) == ["a"]
    run_id = await run(handler, "a", error=ValueError())
    assert await all_of(handler.aiter(run_id=run_id)) == ["a"]


async def test_an_error_that_was_recovered_from_is_none() -> None:
    handler = AsyncIteratorCallbackHandler()
    chain = await Chain(handler).start()
    first = await Speaker(handler, chain).start()
    await first.say("a")
    await first.end(ValueError())
    second = await Speaker(handler, chain).start()
    await second.say("b")
    await second.end()
    await chain.end()
    assert await all_of(handler) == ["a", "b"]


async def test_a_cancellation_is_never_raised_to_others() -> None:
    handler = AsyncIteratorCallbackHandler()
    speaker = await Speaker(handler).start()
    await speaker.say("a")
    cancelled: BaseException | None = None
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.sleep_forever()
        except BaseException as exc:
            cancelled = exc
            raise
    assert cancelled is not None
    await speaker.end(cancelled)
    with pytest.raises(StreamCancelledError):
        await all_of(handler)
    await run(handler, error=GeneratorExit())
    with pytest.raises(StreamCancelledError):
        await all_of(handler)


async def test_after_its_end_an_iterator_stays_ended() -> None:
    handler = AsyncIteratorCallbackHandler()
    iterator = handler.aiter()
    await run(handler, error=ValueError())
    with pytest.raises(ValueError):
        await all_of(iterator)
    await run(handler, "a")
    assert await all_of(iterator) == []
    assert await all_of(handler) == ["a"]


# Several at a time


async def test_iterators_share_out_the_tokens() -> None:
    handler = AsyncIteratorCallbackHandler()
    async with anyio.create_task_group() as group:
        readers = [Reader(group, handler) for _ in range(3)]
        speaker = await Speaker(handler).start()
        for number in range(100):
            await speaker.say(f"{number:02}")
            await settle() if number % 9 == 0 else None
        await speaker.end()
    assert sorted(token for reader in readers for token in reader.got) == [
        f"{number:02}" for number in range(100)
    ]


async def test_parallel_runs_never_mix() -> None:
    handler = AsyncIteratorCallbackHandler()
    speakers = [Speaker(handler) for _ in range(3)]
    async with anyio.create_task_group() as group:
        readers = [Reader(group, handler.aiter(run_id=s.id)) for s in speakers[:2]]
        others = Reader(group, handler)
        for speaker in speakers:
            await speaker.start()
        for number in range(5):
            for name, speaker in zip("abc", speakers, strict=True):
                await speaker.say(f"{name}{number}")
        await speakers[0].end()
        await settle()
        assert [reader.over for reader in readers] == [True, False]
        await speakers[1].end(ValueError("b"))
        await speakers[2].end()
    assert [reader.got for reader in (*readers, others)] == [
        [f"{name}{number}" for number in range(5)] for name in "abc"
    ]
    assert repr(readers[1].error) == "ValueError('b')"


async def test_a_run_by_its_id_after_it_has_ended() -> None:
    handler = AsyncIteratorCallbackHandler()
    one, two = await Speaker(handler).start(), await Speaker(handler).start()
    for speaker, token in ((one, "a"), (two, "b"), (one, "c"), (two, "d")):
        await speaker.say(token)
    await one.end()
    await two.end()
    assert await all_of(handler.aiter(run_id=two.id)) == ["b", "d"]
    assert await all_of(handler) == ["a", "c"]
    assert await all_of(handler.aiter(run_id=two.id)) == []
    # Both runs were read: who iterates now waits for the next.
    async with anyio.create_task_group() as group:
        reader = Reader(group, handler)
        await settle()
        assert not reader.over
        reader.scope.cancel()


async def test_runs_read_by_their_ids_alone_leave_nothing_behind() -> None:
    handler = AsyncIteratorCallbackHandler()
    for _ in range(3):
        assert await all_of(handler.aiter(run_id=await run(handler, "a"))) == ["a"]
    async with anyio.create_task_group() as group:
        reader = Reader(group, handler)
        await settle()
        assert not reader.over
        await run(handler, "b")
    assert reader.got == ["b"]


async def test_a_run_by_its_id_gives_the_tokens_of_all_its_parts() -> None:
    handler = AsyncIteratorCallbackHandler()
    chain = await Chain(handler).start()
    models = [await Speaker(handler, chain).start() for _ in range(2)]
    await models[0].say("a")
    await models[1].say("b")
    async with anyio.create_task_group() as group:
        reader = Reader(group, handler.aiter(run_id=chain.id))
        await settle()
        part = Reader(group, handler.aiter(run_id=models[1].id))
        await settle()
        await models[0].say("c")
        await models[1].say("d")
        await models[1].end()
        await settle()
        assert part.over
        await models[0].end()
        await settle()
        assert not reader.over
        await chain.end()
    assert (reader.got, part.got) == (["a", "b", "c"], ["d"])


async def test_runs_gives_ids_and_tokens_in_order_of_arrival() -> None:
    handler = AsyncIteratorCallbackHandler()
    chain = await Chain(handler).start()
    models = [await Speaker(handler, chain).start() for _ in range(2)]
    for number in (0, 1, 1, 0):
        await models[number].say(str(number))
    handler.queue.put_nowait("by hand")
    await chain.end()
    assert await all_of(handler.runs()) == [
        (models[0].id, "0"),
        (models[1].id, "1"),
        (models[1].id, "1"),
        (models[0].id, "0"),
        (UUID(int=0), "by hand"),
    ]


# Cancellation and leaving


@pytest.mark.parametrize("delay", range(5))
async def test_nothing_is_lost_whoever_is_cancelled(
    delay: int, anyio_backend: tuple[str, Any]
) -> None:
    for how in ways_to_cancel(anyio_backend):
        handler = AsyncIteratorCallbackHandler()
        got: list[str] = []
        async with anyio.create_task_group() as group:

            async def read() -> None:
                async for token in handler:  # noqa: B023
                    got.append(token)  # noqa: B023

            speaker = await Speaker(handler).start()
            for number in range(60):
                victim = Victim(group, read)
                for _ in range(number % 3 + 1):
                    await anyio.lowlevel.checkpoint()
                await speaker.say(f"{number}")
                for _ in range(delay):
                    await anyio.lowlevel.checkpoint()
                victim.cancel(how)
            await settle()
            await speaker.end()
            got += await all_of(handler)
        # Two tasks that read at the same time may note what they got in either order.
        assert sorted(got, key=int) == [str(number) for number in range(60)], how


async def test_a_cancelled_consumer_leaves_no_task_behind() -> None:
    handler = AsyncIteratorCallbackHandler()
    before = len(anyio.get_running_tasks())
    for _ in range(10):
        with anyio.move_on_after(0):
            await all_of(handler)
    await settle()
    assert len(anyio.get_running_tasks()) == before
    assert handler.queue.statistics().tasks_waiting_get == 0


async def test_every_step_is_a_checkpoint() -> None:
    handler = AsyncIteratorCallbackHandler()
    await run(handler, *"abcd")
    got = []
    with anyio.CancelScope() as scope:
        async for token in handler:
            got.append(token)
            if token == "b":
                scope.cancel()
    assert got == ["a", "b"]
    assert await all_of(handler) == ["c", "d"]


async def test_a_long_drain_lets_others_run() -> None:
    handler = AsyncIteratorCallbackHandler()
    await run(handler, *"x" * 1000)
    steps = 0
    async with anyio.create_task_group() as group:

        async def other() -> None:
            nonlocal steps
            while True:
                steps += 1
                await anyio.lowlevel.checkpoint()

        group.start_soon(other)
        await all_of(handler)
        group.cancel_scope.cancel()
    assert steps >= 1000 // 64 - 1


async def test_closing_an_iterator_ends_it_alone() -> None:
    handler = AsyncIteratorCallbackHandler()
    iterator = handler.aiter()
    async with anyio.create_task_group() as group:
        closed, other = Reader(group, iterator), Reader(group, handler)
        await settle()
        await iterator.aclose()
        await iterator.aclose()
        await settle()
        assert (closed.over, other.over) == (True, False)
        await run(handler, "a")
    assert (closed.got, other.got) == ([], ["a"])
    assert await all_of(iterator) == []


# A bounded buffer


async def test_a_bounded_buffer_holds_the_model_back() -> None:
    handler = AsyncIteratorCallbackHandler(2)
    said: list[int] = []
    async with anyio.create_task_group() as group:

        async def speak() -> None:
            speaker = await Speaker(handler).start()
            for number in range(8):
                await speaker.say(str(number))
                said.append(number)
            await speaker.end()

        group.start_soon(speak)
        await settle()
        assert len(said) == 2
        iterator = handler.aiter()
        for number in range(1, 5):
            await iterator.__anext__()
            await settle()
            assert len(said) == 2 + number
        assert await all_of(iterator) == ["4", "5", "6", "7"]


async def test_without_a_buffer_each_token_waits_to_be_asked_for() -> None:
    handler = AsyncIteratorCallbackHandler(0)
    async with anyio.create_task_group() as group:
        group.start_soon(run, handler, *"abc")
        await settle()
        assert handler.queue.empty()
        assert await all_of(handler) == ["a", "b", "c"]


async def test_a_token_held_back_and_cancelled_was_not_taken() -> None:
    handler = AsyncIteratorCallbackHandler(1)
    speaker = await Speaker(handler).start()
    await speaker.say("a")
    with anyio.move_on_after(0) as scope:
        await speaker.say("b")
    assert scope.cancelled_caught
    await speaker.end()
    assert await all_of(handler) == ["a"]


@pytest.mark.parametrize("how", ("break", "close", "error", "cancel", "done"))
async def test_who_leaves_for_good_does_not_leave_the_model_blocked(how: str) -> None:
    handler = AsyncIteratorCallbackHandler(1)
    kept: list[BaseException] = []
    async with anyio.create_task_group() as group:
        group.start_soon(partial(run, handler, *"abcdef"))

        async def read() -> None:
            iterator = handler.aiter()
            if how == "close":
                async with aclosing(iterator):
                    await iterator.__anext__()
                return
            del iterator
            async for _ in handler:
                if how == "break":
                    break
                if how == "error":
                    raise ValueError
                if how == "cancel":
                    with anyio.CancelScope() as scope:
                        scope.cancel()
                        await anyio.lowlevel.checkpoint()
                    around.cancel()
                    await anyio.sleep_forever()
                handler.done.set()

        with anyio.CancelScope() as around:
            try:
                await read()
            except ValueError as exc:
                kept.append(exc)  # and so its frames
        await settle()
        with anyio.fail_after(HANGS):
            await handler.done.wait()
    if how != "done":
        assert await all_of(handler) == ["b", "c", "d", "e", "f"]


async def test_an_error_kept_within_a_step_does_not_hold_the_model_back() -> None:
    handler = AsyncIteratorCallbackHandler(1)
    speaker = await Speaker(handler).start()
    async with anyio.create_task_group() as group:
        kept: list[BaseException] = []

        async def read() -> None:
            try:
                async for _ in handler:
                    pass
            except BaseException as exc:
                kept.append(exc)
                raise

        victim = Victim(group, read)
        await settle()
        victim.cancel("scope")
        await settle()
        with anyio.fail_after(HANGS):
            await speaker.say(*"abc")
        await speaker.end()
    assert len(kept) == 1
    kept.clear()
    assert await all_of(handler) == ["a", "b", "c"]


async def test_a_single_step_of_an_iterator_that_nobody_keeps() -> None:
    handler = AsyncIteratorCallbackHandler()
    await run(handler, "a", "b")
    assert await handler.aiter().__anext__() == "a"
    assert await handler.aiter().__anext__() == "b"


@pytest.mark.parametrize("by_id", (False, True))
@pytest.mark.parametrize("when", ("before it begins", "while it waits"))
async def test_a_single_step_that_is_cancelled_does_not_hold_the_model_back(
    when: str, by_id: bool
) -> None:
    handler = AsyncIteratorCallbackHandler(1)
    speaker = await Speaker(handler).start()

    async def cancel() -> None:
        await anyio.wait_all_tasks_blocked()
        scope.cancel()

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            if when == "while it waits":
                group.start_soon(cancel)
            else:
                scope.cancel()
            await handler.aiter(run_id=speaker.id if by_id else None).__anext__()
    assert scope.cancelled_caught
    gc.collect()
    with anyio.fail_after(HANGS):
        await speaker.say("a", "b")


def never_begun(anyio_backend: tuple[str, Any]) -> tuple[str, ...]:
    """Ways in which the coroutine of a step comes to nothing before it has begun."""
    ways = ("closed", "collected", "thrown into")
    if anyio_backend[0] == "asyncio":
        ways += ("a task that is cancelled", "wait_for")
    return ways


async def never_begin(step: Any, way: str) -> None:
    if way == "closed":
        step.close()
    elif way == "collected":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # never awaited
            del step
            gc.collect()
    elif way == "thrown into":
        with pytest.raises(ZeroDivisionError):
            step.throw(ZeroDivisionError())
    else:
        import asyncio

        if way == "wait_for":
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(step, 0)
            return
        task = asyncio.ensure_future(step)
        del step
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("by_id", (False, True))
@pytest.mark.parametrize("first", (False, True))
async def test_a_step_that_never_begins_does_not_hold_the_model_back(
    anyio_backend: tuple[str, Any], by_id: bool, first: bool
) -> None:
    for way in never_begun(anyio_backend):
        handler = AsyncIteratorCallbackHandler(1)
        speaker = await Speaker(handler).start()
        iterator = handler.aiter(run_id=speaker.id if by_id else None)
        if not first:
            await speaker.say("a")
            assert await iterator.__anext__() == "a"
        await never_begin(iterator.__anext__(), way)
        await speaker.say("b")
        with anyio.move_on_after(0) as scope:
            await speaker.say("c")
        assert scope.cancelled_caught, "the iterator is there"
        del iterator
        gc.collect()
        with anyio.fail_after(HANGS):
            await speaker.say("c", "d")
            await speaker.end()


async def test_a_step_that_has_not_begun_keeps_its_iterator() -> None:
    handler = AsyncIteratorCallbackHandler(1)
    speaker = await Speaker(handler).start()
    await speaker.say("a")
    step = handler.aiter().__anext__()
    with anyio.move_on_after(0) as scope:
        await speaker.say("b")
    assert scope.cancelled_caught
    assert await step == "a"
    with anyio.fail_after(HANGS):
        await speaker.say("b", "c", "d")


async def test_steps_that_never_begin_take_nothing_from_a_queue_or_a_stream(
    anyio_backend: tuple[str, Any],
) -> None:
    for way in never_begun(anyio_backend):
        queue: Queue[str] = Queue(0)
        await never_begin(queue.__anext__(), way)
        await never_begin(queue.get(), way)
        assert queue.statistics().tasks_waiting_get == 0
        with pytest.raises(anyio.WouldBlock):
            queue.put_nowait("x")

        model = AStreamModel()
        async with open_stream(model, "x", max_buffer_size=1, replay=False) as stream:
            for begin in (stream.text.__aiter__, stream.__aiter__, stream.interleave):
                iterator: Any = begin()
                gone = weakref.ref(iterator)
                await never_begin(iterator.__anext__(), way)
                del iterator
                await settle()
                gc.collect()
                assert gone() is None
            assert model.trace == []
            with anyio.fail_after(HANGS):
                assert [delta async for delta in stream.text] == model.words


async def test_who_comes_back_holds_the_model_back_again() -> None:
    handler = AsyncIteratorCallbackHandler(1)
    speaker = await Speaker(handler).start()
    await speaker.say("a")
    async for _ in handler:
        break
    await speaker.say("b", "c")
    iterator = handler.aiter()
    assert await iterator.__anext__() == "b"
    with anyio.move_on_after(0) as scope:
        await speaker.say("d")
    assert scope.cancelled_caught


async def test_runs_read_one_after_the_other_by_id_do_not_block_each_other() -> None:
    handler = AsyncIteratorCallbackHandler(2)
    speakers = [Speaker(handler) for _ in range(3)]

    async def speak(speaker: Speaker, name: str) -> None:
        await speaker.start()
        await speaker.say(*(f"{name}{number}" for number in range(9)))
        await speaker.end()

    async with anyio.create_task_group() as group:
        for speaker, name in zip(speakers, "abc", strict=True):
            group.start_soon(speak, speaker, name)
        await settle()
        for speaker, name in zip(speakers, "abc", strict=True):
            assert await all_of(handler.aiter(run_id=speaker.id)) == [
                f"{name}{number}" for number in range(9)
            ]


@pytest.mark.parametrize("size", (0, 1, 2))
@pytest.mark.parametrize("part", (False, True))
async def test_a_run_that_is_held_back_goes_on_once_it_is_claimed(size: int, part: bool) -> None:
    """Though nothing of it lies in the queue, and nobody takes what does."""
    handler = AsyncIteratorCallbackHandler(size)
    first = await Speaker(handler).start()
    for number in range(size):
        await first.say(str(number))
    outer = await Speaker(handler).start()
    speaker = await Speaker(handler, outer).start() if part else outer
    async with anyio.create_task_group() as group:

        async def speak() -> None:
            await speaker.say("a", "b", "c")
            await outer.end()

        group.start_soon(speak)
        await settle()
        assert await all_of(handler.aiter(run_id=outer.id)) == ["a", "b", "c"]
    await first.end()
    assert await all_of(handler) == [str(number) for number in range(size)]


# The queue by hand


async def test_the_queue_is_a_queue() -> None:
    handler = AsyncIteratorCallbackHandler(1)
    queue = handler.queue
    async with anyio.create_task_group() as group:
        getters = [Victim(group, queue.get) for _ in range(2)]
        await settle()
        assert queue.statistics().tasks_waiting_get == 2
        queue.put_nowait("a")
        await queue.put("b")
    assert sorted(getter.value for getter in getters) == ["a", "b"]
    await queue.put("c")
    with pytest.raises(anyio.WouldBlock):
        queue.put_nowait("d")
    async with anyio.create_task_group() as group:
        putter = Victim(group, partial(queue.put, "d"))
        await settle()
        assert queue.statistics().tasks_waiting_put == 1
        assert await queue.get() == "c"
    assert putter.outcome == "returned"
    queue.close()
    assert [item async for item in queue] == ["d"]
    with pytest.raises(anyio.ClosedResourceError):
        await queue.put("e")


async def test_iterates_over_what_was_put_by_hand() -> None:
    handler = AsyncIteratorCallbackHandler()
    async with anyio.create_task_group() as group:
        reader = Reader(group, handler)
        await settle()
        handler.queue.put_nowait("a")
        await handler.queue.put("b")
        await settle()
        assert reader.got == ["a", "b"]
        handler.done.set()
    assert reader.over


# Memory


async def test_runs_that_are_over_are_forgotten() -> None:
    class Error(Exception):
        pass

    handler = AsyncIteratorCallbackHandler(raise_on_error=False)
    errors = []
    for _ in range(3000):
        error = Error()
        errors.append(weakref.ref(error))
        await run(handler, "a", error=error)
        del error
        await all_of(handler)
    gc.collect()
    assert sum(ref() is not None for ref in errors) <= 1024


# Any interleaving


@given(data=st.data())
@settings(max_examples=100)
def test_every_token_once_and_in_order_of_its_run(
    data: Any, anyio_backend: tuple[str, dict[str, Any]]
) -> None:
    size = data.draw(st.sampled_from([0, 1, 3, math.inf]), "max_buffer_size")
    ops = data.draw(
        st.lists(
            st.one_of(
                st.tuples(st.just("say"), st.integers(0, 2)),
                st.tuples(st.just("read"), st.integers(-2, 2)),
                st.tuples(st.just("cancel"), st.integers(0, 5)),
                st.tuples(st.just("tick"), st.integers(1, 4)),
            ),
            max_size=40,
        ),
        "ops",
    )

    async def main() -> None:
        handler = AsyncIteratorCallbackHandler(size)
        speakers = [await Speaker(handler).start() for _ in range(3)]
        said: list[list[str]] = [[], [], []]
        got: list[str] = []
        scopes: list[anyio.CancelScope] = []
        pipes = [anyio.create_memory_object_stream[str](math.inf) for _ in speakers]

        async def speak(number: int) -> None:
            async with pipes[number][1] as tokens:
                async for token in tokens:
                    await speakers[number].say(token)
            await speakers[number].end()

        async def read(which: int, scope: anyio.CancelScope) -> None:
            with scope:
                if which == -2:
                    async for _, token in handler.runs():
                        got.append(token)
                elif which == -1:
                    async for token in handler:
                        got.append(token)
                else:
                    async for token in handler.aiter(run_id=speakers[which].id):
                        got.append(token)

        # Two tasks that share out a run may note what they got in either order.
        shared = any(op == "read" for op, _ in ops)
        with anyio.fail_after(HANGS):
            async with anyio.create_task_group() as group:
                for number in range(3):
                    group.start_soon(speak, number)
                for op, number in ops:
                    if op == "say":
                        token = f"{number}:{len(said[number])}"
                        said[number].append(token)
                        pipes[number][0].send_nowait(token)
                    elif op == "read":
                        scopes.append(anyio.CancelScope())
                        group.start_soon(read, number, scopes[-1])
                    elif op == "cancel" and number < len(scopes):
                        scopes[number].cancel()
                    elif op == "tick":
                        for _ in range(number):
                            await anyio.lowlevel.checkpoint()
                for number in (-1, 0, 1, 2) if shared else (-1,):
                    group.start_soon(read, number, anyio.CancelScope())
                for send, _ in pipes:
                    await settle()
                    send.close()
        assert sorted(got) == sorted(token for tokens in said for token in tokens)
        if not shared:
            for number, tokens in enumerate(said):
                assert [token for token in got if token[0] == str(number)] == tokens

    name, options = anyio_backend
    anyio.run(main, backend=name, backend_options=options)


# By open_stream, on every backend


@pytest.mark.parametrize(
    "model",
    (
        pytest.param(AStreamModel(), id="_astream"),
        pytest.param(AStreamModel(tell=True), id="_astream that tells"),
        pytest.param(StreamModel(), id="_stream"),
        pytest.param(StreamModel(tell=True), id="_stream that tells"),
        pytest.param(AEventsModel(), id="events"),
        pytest.param(AGenerateModel(), id="_agenerate"),
        pytest.param(GenerateModel(), id="_generate"),
    ),
)
async def test_each_way_to_write_a_model(model: Any) -> None:
    handler = AsyncIteratorCallbackHandler()
    async with anyio.create_task_group() as group:
        reader = Reader(group, handler)
        await open_stream(model, "x", {"callbacks": [handler]})
    assert "".join(reader.got) == "one two three"
    assert len(reader.got) == (1 if "Generate" in type(model).__name__ else 3)


async def test_a_model_that_tells_after_it_yields() -> None:
    class Late(AStreamModel):
        async def _astream(
            self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
        ) -> AsyncIterator[Any]:
            async for piece in super()._astream(messages, stop, None):
                yield piece
                await run_manager.on_llm_new_token(piece.text, chunk=piece)

    handler = AsyncIteratorCallbackHandler()
    await open_stream(Late(), "x", {"callbacks": [handler]})
    assert "".join(await all_of(handler)) == "one two three"


async def test_open_stream_held_back() -> None:
    handler = AsyncIteratorCallbackHandler(1)
    model = AStreamModel(words=[str(number) for number in range(9)])
    async with anyio.create_task_group() as group:

        async def call() -> None:
            await open_stream(model, "x", {"callbacks": [handler]})

        group.start_soon(call)
        await settle()
        assert len(model.trace) == 2
        assert await all_of(handler) == model.words


async def test_open_stream_cancelled() -> None:
    handler = AsyncIteratorCallbackHandler()
    gate = Gate(2)
    async with anyio.create_task_group() as group:
        reader = Reader(group, handler)
        async with open_stream(AStreamModel(before=gate), "x", {"callbacks": [handler]}) as stream:
            async for _ in stream.text:
                break
            await gate.reached.wait()
    assert reader.got == ["one ", "two "]
    assert isinstance(reader.error, StreamCancelledError)


async def test_open_stream_of_a_model_that_fails() -> None:
    def fail(number: int) -> Any:
        if number == 1:
            raise ZeroDivisionError
        return anyio.lowlevel.checkpoint()

    handler = AsyncIteratorCallbackHandler()
    async with anyio.create_task_group() as group:
        reader = Reader(group, handler)
        with pytest.raises(ZeroDivisionError):
            await open_stream(AStreamModel(before=fail), "x", {"callbacks": [handler]})
    assert reader.got == ["one "]
    assert isinstance(reader.error, ZeroDivisionError)


# From synchronous runs in worker threads, on every backend


@pytest.mark.parametrize("size", (1, math.inf))
async def test_a_synchronous_run_in_a_worker_thread(size: float) -> None:
    handler = AsyncIteratorCallbackHandler(size)
    words = [f"{number} " for number in range(50)]
    chain = RunnableLambda(lambda text: text) | StreamModel(words=words)
    with anyio.fail_after(HANGS):
        async with anyio.create_task_group() as group:
            reader = Reader(group, handler)
            config: Any = {"callbacks": [handler]}
            await anyio.to_thread.run_sync(lambda: list(chain.stream("x", config)))
    assert reader.got == words


async def test_a_synchronous_llm_in_a_worker_thread() -> None:
    handler = AsyncIteratorCallbackHandler()
    model = PlainModel()
    with anyio.fail_after(HANGS):
        async with anyio.create_task_group() as group:
            reader = Reader(group, handler)
            config: Any = {"callbacks": [handler]}
            await anyio.to_thread.run_sync(lambda: list(model.stream("x", config)))
    assert reader.got == ["a", "b", "c"]


async def test_the_tokens_come_while_the_thread_goes_on() -> None:
    handler = AsyncIteratorCallbackHandler()
    async with anyio.create_task_group() as group:
        iterator = handler.aiter()

        def read_one(number: int) -> None:
            # Blocks the model's thread until the token before has reached the event loop.
            if number:
                token = anyio.from_thread.run(iterator.__anext__)
                assert token == model.words[number - 1]

        model = StreamModel(before=read_one)
        config: Any = {"callbacks": [handler]}
        group.start_soon(anyio.to_thread.run_sync, lambda: list(model.stream("x", config)))
        with anyio.fail_after(HANGS):
            await handler.done.wait()
        assert await all_of(iterator) == ["three"]


async def test_a_synchronous_run_on_the_event_loop() -> None:
    handler = AsyncIteratorCallbackHandler()
    async with anyio.create_task_group() as group:
        reader = Reader(group, handler)
        await settle()
        list(StreamModel().stream("x", {"callbacks": [handler]}))
    assert reader.got == ["one ", "two ", "three"]


def test_a_synchronous_run_before_any_event_loop(
    anyio_backend: tuple[str, dict[str, Any]],
) -> None:
    handler = AsyncIteratorCallbackHandler()
    list(StreamModel().stream("x", {"callbacks": [handler]}))
    name, options = anyio_backend
    got = anyio.run(all_of, handler, backend=name, backend_options=options)
    assert got == ["one ", "two ", "three"]


async def test_a_subclass_that_puts_from_a_worker_thread() -> None:
    class Loud(AsyncIteratorCallbackHandler):
        async def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
            if token:
                self.queue.put_nowait(token.upper())

    handler = Loud()
    async with anyio.create_task_group() as group:
        reader = Reader(group, handler)
        await settle()
        config: Any = {"callbacks": [handler]}
        await anyio.to_thread.run_sync(lambda: list(StreamModel().stream("x", config)))
    assert reader.got == ["ONE ", "TWO ", "THREE"]


# What many runs cost


class ConsumerCheckpoints:
    """Counts the lines that the package runs, which say more of a busy machine than seconds do."""

    def __init__(self) -> None:
        self.lines = 0

    def _trace(self, frame: Any, event: str, arg: Any) -> Any:
        if "langchain_anyio" not in frame.f_code.co_filename:
            return None
        self.lines += event == "line"
        return self._trace

    async def __call__(self, call: Any) -> int:
        before, outer = self.lines, sys.gettrace()
        sys.settrace(self._trace)
        try:
            await call
        finally:
            sys.settrace(outer)
        return self.lines - before


@pytest.mark.parametrize("shape", ("beside each other", "parts of one", "read by id", "`done`"))
async def test_the_cost_of_a_run_does_not_depend_on_how_many_are_open(shape: str) -> None:
    async def lines(number: int) -> float:
        handler = AsyncIteratorCallbackHandler()
        ids = [uuid4() for _ in range(number)]
        parent = uuid4() if shape == "parts of one" else None
        steps = ConsumerCheckpoints()

        async def all_runs() -> None:
            if parent is not None:
                await handler.on_chain_start({}, {}, run_id=parent)
            kwargs: Any = {"parent_run_id": parent}
            for run_id in ids:
                await handler.on_llm_start({}, [], run_id=run_id, **kwargs)
            for run_id in ids:
                await handler.on_llm_new_token("x", run_id=run_id, **kwargs)
            for run_id in ids[::2] if parent else ids:
                await handler.on_llm_end(END, run_id=run_id, **kwargs)
                if shape == "`done`":
                    handler.done.set()
            if parent is not None:
                await handler.on_chain_end({}, run_id=parent)
            if shape == "read by id":
                for run_id in ids[::-1]:
                    assert [token async for token in handler.aiter(run_id=run_id)] == ["x"]
            else:
                assert [token async for token in handler] == ["x"] * number

        return await steps(all_runs()) / number

    few, many = await lines(20), await lines(600)
    assert many <= 1.2 * few


async def test_claims_of_runs_whose_tokens_lie_in_disorder() -> None:
    """Runs are claimed, and read, while their tokens come, and while others are taken from the common queue."""
    random = Random(1)
    for size in (math.inf, 400):
        handler = AsyncIteratorCallbackHandler(size)
        speakers = [await Speaker(handler).start() for _ in range(20)]
        parts = [await Speaker(handler, speaker).start() for speaker in speakers for _ in range(2)]
        said: dict[UUID, list[str]] = {speaker.id: [] for speaker in (*speakers, *parts)}
        common = handler.runs()
        claimed: dict[UUID, Any] = {}

        def owner(speaker: Speaker) -> UUID | None:
            for run_id in (speaker.id, speaker.kwargs["parent_run_id"]):
                if run_id in claimed:  # noqa: B023
                    return run_id
            return None

        expected: dict[UUID | None, list[str]] = {None: []}
        for number in range(1500):
            what = random.random()
            speaker = random.choice((*speakers, *parts))
            if what < 0.7:
                if handler.queue.qsize() < 390:
                    await speaker.say(str(number))
                    expected.setdefault(owner(speaker), []).append(str(number))
                    said[speaker.id].append(str(number))
            elif what < 0.95:
                if handler.queue.qsize():
                    run_id, token = await common.__anext__()
                    assert token == expected[None].pop(0)
                    assert token in said[run_id]
            elif speaker.id not in claimed and len(claimed) < 12:
                source = owner(speaker)
                claimed[speaker.id] = handler.aiter(run_id=speaker.id)
                own = set(said[speaker.id])
                for part in parts:
                    if part.kwargs["parent_run_id"] == speaker.id and owner(part) == speaker.id:
                        own |= set(said[part.id])
                left = expected.get(source, [])
                expected[speaker.id] = [token for token in left if token in own]
                expected[source] = [token for token in left if token not in own]
            assert handler.queue.qsize() == len(expected[None])
            assert handler.queue.statistics().current_buffer_used == len(expected[None])
            assert len(handler._runs.queue._cells) <= 2 * handler.queue.qsize() + 65
        for speaker in (*parts, *speakers):
            await speaker.end()
        for run_id, iterator in claimed.items():
            assert await all_of(iterator) == expected[run_id]
        assert [token for _, token in await all_of(common)] == expected[None]


# Copies


def by_pickle(handler: Any) -> Any:
    return pickle.loads(pickle.dumps(handler))


class Named(AsyncIteratorCallbackHandler):
    def __init__(self, name: str, names: list[str]) -> None:
        super().__init__(2, raise_on_error=False)
        self.name = name
        self.names = names


@pytest.mark.parametrize("copy_of", (copy.deepcopy, by_pickle))
async def test_a_deep_copy_has_the_settings_and_no_runs(copy_of: Any) -> None:
    handler = Named("a", ["b"])
    speaker = await Speaker(handler).start()
    await speaker.say("x")
    other = copy_of(handler)
    assert type(other) is Named
    assert (other.name, other.names) == ("a", ["b"])
    assert other.names is not handler.names
    assert other.queue.statistics().max_buffer_size == 2
    assert other.queue.empty()
    await run(other, "y", error=ValueError())
    assert await all_of(other) == ["y"]
    assert not handler.done.is_set()
    await speaker.end()
    assert await all_of(handler) == ["x"]
    assert not other.queue.qsize()


async def test_a_shallow_copy_shares_the_runs() -> None:
    handler = AsyncIteratorCallbackHandler()
    other = copy.copy(handler)
    assert other.queue is handler.queue
    await run(handler, "a")
    assert await all_of(other) == ["a"]


@pytest.mark.parametrize("copy_of", (copy.deepcopy, by_pickle))
async def test_copies_of_the_other_handlers(
    copy_of: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    final = AsyncFinalIteratorCallbackHandler(
        answer_prefix_tokens=["It is"], stream_prefix=True, max_buffer_size=9, raise_on_error=False
    )
    await (await Speaker(final).start()).say("It is", "so")
    assert final.answer_reached
    other = copy_of(final)
    assert not other.answer_reached
    assert other.last_tokens == [""]
    await run(other, "Well. ", "It ", "is", " not", error=ValueError())
    assert await all_of(other) == ["It ", "is", " not"]

    printer = AsyncStreamingStdOutCallbackHandler()
    await Speaker(printer).say("a")  # type: ignore[arg-type]
    await Speaker(copy_of(printer)).say("b")
    assert capsys.readouterr().out == "ab"


async def test_a_deep_copy_writes_to_the_same_stream() -> None:
    with Path(os.devnull).open("w") as file:
        printer = AsyncStreamingStdOutCallbackHandler(file)
        assert copy.deepcopy(printer)._file is file
        assert copy.copy(printer)._file is file
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(printer)


async def test_a_model_that_is_copied_with_its_handlers() -> None:
    handler = AsyncIteratorCallbackHandler()
    model = AStreamModel(callbacks=[handler])
    other = model.model_copy(deep=True)
    copied: Any = other.callbacks
    await open_stream(other, "x")
    assert await all_of(copied[0]) == other.words
    assert handler.queue.empty()
    await open_stream(model, "x")
    assert await all_of(handler) == model.words
    # One handler twice, or in a circle, is one in the copy too.
    one, two = copy.deepcopy([handler, handler])
    assert one is two is not handler
    named = Named("a", [])
    named.names.append(named)  # type: ignore[arg-type]
    circle: Any = copy.deepcopy(named)
    assert circle.names == [circle]
