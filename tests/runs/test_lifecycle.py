"""How a run begins and how it ends, whoever leaves, cancels, drops or breaks it, and when."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import threading
import time
import warnings
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from langchain_core.callbacks import BaseCallbackHandler

from handlers import config_of
from langchain_anyio import (
    AsyncChatModelStream,
    StreamCancelledError,
    StreamStalledError,
    open_stream,
)
from langchain_anyio._backends.current import backend
from limits import HANGS
from models import (
    AEventsModel,
    AStreamModel,
    AsyncRecorder,
    Gate,
    GenerateModel,
    Recorder,
    StreamModel,
    ThreadGate,
)

pytestmark = pytest.mark.anyio

LONG = [str(number) for number in range(1000)]


async def settle(stream: AsyncChatModelStream) -> None:
    """Wait until the run of a stream that nobody waits for is over."""
    run: Any = stream._run
    with anyio.fail_after(HANGS):
        await run._ended.wait()


# Beginning


async def test_nothing_starts_before_the_first_use() -> None:
    model, recorder = AStreamModel(), Recorder()
    async with open_stream(model, "hi", config_of(recorder)) as stream:
        await anyio.wait_all_tasks_blocked()
        assert not model.calls
        assert not recorder.told
        assert not stream.has_events
    assert not recorder.told


async def test_a_stream_that_never_started_is_closed_by_aclose_and_nothing_runs() -> None:
    model, recorder = AStreamModel(), Recorder()
    stream = open_stream(model, "hi", config_of(recorder))
    await stream.aclose()
    await stream.aclose()
    with pytest.raises(StreamCancelledError):
        await stream
    assert not model.calls
    assert not recorder.told


async def test_the_start_runs_once_for_many_first_consumers() -> None:
    recorder = AsyncRecorder()
    async with open_stream(AStreamModel(), "hi", config_of(recorder)) as stream:
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(stream.text._wait)
                tasks.start_soon(stream._wait)
    assert recorder.names().count("on_chat_model_start") == 1
    assert recorder.ends() == ["on_llm_end"]


# Inside an async generator, left in every way


async def endpoint(model: AStreamModel, *handlers: BaseCallbackHandler) -> AsyncIterator[str]:
    async with open_stream(model, "hi", config_of(*handlers)) as stream:
        async for delta in stream.text:
            yield delta


async def test_in_an_async_generator_read_to_its_end() -> None:
    recorder = Recorder()
    assert [word async for word in endpoint(AStreamModel(), recorder)] == ["one ", "two ", "three"]
    assert recorder.ends() == ["on_llm_end"]


async def test_in_an_async_generator_left_by_break_and_closed() -> None:
    model, recorder = AStreamModel(words=LONG), Recorder()
    generator: Any = endpoint(model, recorder)
    async for _ in generator:
        break
    await generator.aclose()
    assert recorder.ends() == ["on_llm_error"]
    assert isinstance(recorder.told[-1][1][0], StreamCancelledError)
    assert model.trace[-1] == "closed"


async def test_in_an_async_generator_closed_from_another_task() -> None:
    model, recorder = AStreamModel(words=LONG), Recorder()
    generator: Any = endpoint(model, recorder)
    assert await generator.__anext__() == "0"

    async def close() -> None:
        await generator.aclose()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(close)
    assert recorder.ends() == ["on_llm_error"]
    # The task that used the generator has no scope left open: it may open and leave others.
    with anyio.move_on_after(0):
        await checkpoint()
    await checkpoint()


async def test_in_an_async_generator_collected() -> None:
    model, recorder = AStreamModel(words=LONG), Recorder()
    generator: Any = endpoint(model, recorder)
    assert await generator.__anext__() == "0"
    with warnings.catch_warnings():
        # trio says of any async generator that is left to the collector that it was.
        warnings.filterwarnings("ignore", "Async generator .*endpoint", ResourceWarning)
        del generator
        gc.collect()
        with anyio.fail_after(HANGS):
            while not recorder.ends():
                await anyio.sleep(0.001)
    assert recorder.ends() == ["on_llm_error"]
    assert model.trace[-1] == "closed"


@pytest.mark.parametrize("at", ("a delta", "silence"))
async def test_in_an_async_generator_whose_consumer_is_cancelled(at: str) -> None:
    gate = Gate(1 if at == "silence" else -1)
    model, recorder = AStreamModel(words=LONG, before=gate), Recorder()
    with anyio.CancelScope() as scope:
        async for _ in endpoint(model, recorder):
            if at == "a delta":
                scope.cancel()
            else:
                async with anyio.create_task_group() as tasks:
                    await gate.reached.wait()
                    tasks.start_soon(checkpoint)
                scope.deadline = anyio.current_time() + 0.01
    assert scope.cancelled_caught
    with anyio.fail_after(HANGS):
        while not recorder.ends():
            await anyio.sleep(0.001)
    assert recorder.ends() == ["on_llm_error"]
    assert model.trace[-1] == "closed"


# Leaving the block


async def test_leaving_the_block_early_stops_the_model_first() -> None:
    model, recorder = AStreamModel(words=LONG, before=Gate(1)), Recorder()
    async with open_stream(model, "hi", config_of(recorder)) as stream:
        async for _ in stream.text:
            break
    assert model.trace == ["chunk 0", "closed"]
    assert recorder.ends() == ["on_llm_error"]
    assert isinstance(stream.error, StreamCancelledError)
    assert stream.snapshot().text == "0"
    assert stream.snapshot().response_metadata["partial"] is True


async def test_an_exception_in_the_block_goes_on_bare() -> None:
    recorder = Recorder()
    with pytest.raises(KeyError, match="mine"):
        async with open_stream(AStreamModel(words=LONG), "hi", config_of(recorder)) as stream:
            async for _ in stream.text:
                raise KeyError("mine")
    assert recorder.ends() == ["on_llm_error"]


async def cancel_at(gate: Gate, scope: anyio.CancelScope) -> None:
    await gate.reached.wait()
    scope.cancel()


async def test_a_cancelled_scope_around_the_block_stops_the_model() -> None:
    gate = Gate(1)
    model, recorder = AStreamModel(before=gate), AsyncRecorder()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_at, gate, scope)
            async with open_stream(model, "hi", config_of(recorder)) as stream:
                await stream
    assert scope.cancelled_caught
    assert model.trace == ["chunk 0", "closed"]
    assert recorder.ends() == ["on_llm_error"]


async def test_a_scope_that_was_cancelled_before_it_began() -> None:
    model, recorder = AStreamModel(), Recorder()
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with open_stream(model, "hi", config_of(recorder)) as stream:
            await stream
    assert scope.cancelled_caught
    starts = recorder.names().count("on_chat_model_start")
    assert len(recorder.ends()) == starts


async def test_awaiting_alone_stops_the_run_when_it_is_cancelled() -> None:
    gate = Gate(1)
    model, recorder = AStreamModel(before=gate), Recorder()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_at, gate, scope)
            await open_stream(model, "hi", config_of(recorder))
    assert scope.cancelled_caught
    assert model.trace == ["chunk 0", "closed"]
    assert recorder.ends() == ["on_llm_error"]


async def test_a_consumer_that_is_cancelled_stops_nobody_else() -> None:
    gate = Gate(1)
    async with open_stream(AStreamModel(before=gate), "hi") as stream:
        async with anyio.create_task_group() as tasks:
            results = []

            async def consume() -> None:
                results.append([delta async for delta in stream.text])

            async def wait() -> None:
                results.append(await stream)

            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as doomed:
                    for _ in range(3):
                        doomed.start_soon(stream.text._wait)
                        doomed.start_soon(stream._wait)
                    tasks.start_soon(consume)
                    tasks.start_soon(wait)
                    await gate.reached.wait()
                    await anyio.wait_all_tasks_blocked()
                    scope.cancel()
            gate.open.set()
    assert ["one ", "two ", "three"] in results
    assert len(results) == 2
    assert stream.error is None


async def test_a_shared_stream_outlives_a_cancelled_await() -> None:
    gate = Gate(1)
    stream = open_stream(AStreamModel(before=gate), "hi")
    cursor = aiter_(stream.text)
    assert await cursor.__anext__() == "one "
    with anyio.move_on_after(0.01):
        await stream
    gate.open.set()
    assert [delta async for delta in cursor] == ["two ", "three"]
    assert (await stream).text == "one two three"


def aiter_(iterable: Any) -> Any:
    return iterable.__aiter__()


# Closing


async def test_aclose_from_another_task_wakes_consumers() -> None:
    gate = Gate(1)
    model, recorder = AStreamModel(before=gate), Recorder()
    stream = open_stream(model, "hi", config_of(recorder))
    seen = []

    async def consume(iterate: Any) -> None:
        with pytest.raises(StreamCancelledError):
            await iterate()
        seen.append(iterate)

    async def iterate() -> None:
        async for _ in stream.text:
            pass

    with anyio.fail_after(HANGS):
        async with anyio.create_task_group() as tasks:
            for how in (iterate, stream._wait, stream.output._wait, stream.usage._wait):
                tasks.start_soon(consume, how)
            await gate.reached.wait()
            await anyio.wait_all_tasks_blocked()
            async with anyio.create_task_group() as closers:
                for _ in range(3):
                    closers.start_soon(stream.aclose)
    assert len(seen) == 4
    assert model.trace[-1] == "closed"
    assert recorder.ends() == ["on_llm_error"]
    await stream.aclose()


async def test_aclose_in_a_cancelled_scope_does_its_work_and_then_goes_on() -> None:
    gate = Gate(1)
    model, recorder = AStreamModel(before=gate), Recorder()
    stream = open_stream(model, "hi", config_of(recorder))
    await aiter_(stream.text).__anext__()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await stream.aclose()
        assert recorder.ends() == ["on_llm_error"]
        assert model.trace[-1] == "closed"
        await checkpoint()
    assert scope.cancelled_caught


async def test_a_run_that_has_its_message_finishes_its_callbacks() -> None:
    release = anyio.Event()

    def react(name: str) -> Any:
        return release.wait() if name == "on_llm_end" else None

    recorder = AsyncRecorder(react)
    stream = open_stream(AStreamModel(), "hi", config_of(recorder))
    assert (await stream.output).text == "one two three"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.aclose)
        await anyio.wait_all_tasks_blocked()
        release.set()
    assert recorder.ends() == ["on_llm_end"]
    assert (await stream).text == "one two three"


async def test_await_returns_when_the_end_has_been_reported() -> None:
    recorder = AsyncRecorder(lambda name: anyio.sleep(0.01) if name == "on_llm_end" else None)
    await open_stream(AStreamModel(), "hi", config_of(recorder))
    assert recorder.ends() == ["on_llm_end"]


# Not entered, and dropped


async def test_dropped_half_read() -> None:
    model, recorder = AStreamModel(words=LONG, before=Gate(5)), Recorder()
    with pytest.warns(ResourceWarning, match="dropped before it was read to its end"):
        async for _ in open_stream(model, "hi", config_of(recorder)).text:
            break
        gc.collect()
    with anyio.fail_after(HANGS):
        while not recorder.ends():
            await anyio.sleep(0.001)
    assert recorder.ends() == ["on_llm_error"]
    assert model.trace[-1] == "closed"


async def test_dropped_in_another_thread() -> None:
    model, recorder = AStreamModel(words=LONG, before=Gate(5)), Recorder()
    held = [open_stream(model, "hi", config_of(recorder))]
    await aiter_(held[0].text).__anext__()
    with pytest.warns(ResourceWarning, match="dropped"):
        await anyio.to_thread.run_sync(held.clear)
    with anyio.fail_after(HANGS):
        while not recorder.ends():
            await anyio.sleep(0.001)
    assert recorder.ends() == ["on_llm_error"]


async def test_a_projection_or_a_cursor_keeps_the_run_alive() -> None:
    assert [delta async for delta in open_stream(AStreamModel(), "hi").text] == [
        "one ",
        "two ",
        "three",
    ]
    text = open_stream(AStreamModel(), "hi").text
    gc.collect()
    assert await text == "one two three"
    pairs = [pair async for pair in open_stream(AStreamModel(), "hi").interleave("text")]
    assert pairs == [("text", "one "), ("text", "two "), ("text", "three")]


async def test_a_stream_that_was_read_is_dropped_in_silence() -> None:
    recorder = Recorder()
    stream = open_stream(AStreamModel(), "hi", config_of(recorder))
    await stream
    del stream
    gc.collect()
    stream = open_stream(AStreamModel(), "hi", config_of(recorder))
    await stream.output
    del stream
    gc.collect()
    with anyio.fail_after(HANGS):
        while len(recorder.ends()) < 2:
            await anyio.sleep(0.001)
    assert recorder.ends() == ["on_llm_end", "on_llm_end"]


async def test_never_started_is_dropped_in_silence() -> None:
    open_stream(AStreamModel(), "hi")
    gc.collect()


# Holding back


@pytest.mark.parametrize("limit", (1, 2, 7))
async def test_the_model_is_held_back(limit: int) -> None:
    model = AStreamModel(words=LONG)
    async with open_stream(model, "hi", max_buffer_size=limit) as stream:
        cursor = aiter_(stream)
        for taken in range(1, 50):
            await cursor.__anext__()
            await anyio.wait_all_tasks_blocked()
            assert stream._state.flow.produced <= taken + limit
        assert len(model.trace) <= 50 + limit
        # Who waits for a final value counts as being at the head.
        assert (await stream).text == "".join(LONG)


async def test_a_fast_model_does_not_run_away_from_a_consumer_it_has_woken() -> None:
    async with open_stream(AStreamModel(words=LONG), "hi", max_buffer_size=3) as stream:
        ahead = 0
        taken = 0
        async for _ in stream:
            taken += 1
            ahead = max(ahead, stream._state.flow.produced - taken)
        assert 0 < ahead <= 3


async def test_without_a_limit_the_model_runs_to_its_end() -> None:
    async with open_stream(AStreamModel(words=LONG), "hi", max_buffer_size=math.inf) as stream:
        await aiter_(stream.text).__anext__()
        await anyio.wait_all_tasks_blocked()
        assert stream.done


async def test_held_back_and_closed() -> None:
    model, recorder = AStreamModel(words=LONG), Recorder()
    async with open_stream(model, "hi", config_of(recorder), max_buffer_size=3) as stream:
        await aiter_(stream.text).__anext__()
        await anyio.wait_all_tasks_blocked()
    assert model.trace[-1] == "closed"
    assert len(model.trace) < 10
    assert recorder.ends() == ["on_llm_error"]


async def test_without_replay_nothing_is_kept_that_all_have_passed() -> None:
    async with open_stream(
        AStreamModel(words=LONG), "hi", replay=False, max_buffer_size=10
    ) as stream:
        seen = []
        async for delta in stream.text:
            seen.append(delta)
            assert len(stream._state.text.deltas) <= 200
            assert len(stream._state.events.deltas) <= 200
        assert seen == LONG
        assert (await stream).text == "".join(LONG)
        assert await stream.text == "".join(LONG)
        late = [delta async for delta in stream.text]
        assert late == LONG[len(LONG) - len(late) :]
        with pytest.raises(RuntimeError, match="replay=False"):
            await stream.events


async def test_without_replay_open_cursors_miss_nothing() -> None:
    async with open_stream(
        AStreamModel(words=LONG), "hi", replay=False, max_buffer_size=5
    ) as stream:
        slow, fast = aiter_(stream.text), aiter_(stream.interleave())
        assert [delta async for _, delta in fast] == LONG
        assert [delta async for delta in slow] == LONG


# Stalls


async def test_a_stall_ends_the_run() -> None:
    model, recorder = AStreamModel(before=Gate(1)), Recorder()
    async with open_stream(model, "hi", config_of(recorder), chunk_timeout=0.02) as stream:
        seen = []
        with pytest.raises(StreamStalledError, match=r"no chunk for 0\.02 s") as caught:
            async for delta in stream.text:
                seen.append(delta)
        assert isinstance(caught.value, TimeoutError)
        assert seen == ["one "]
        with anyio.fail_after(HANGS):
            await settle(stream)
        assert model.trace[-1] == "closed"
    assert recorder.ends() == ["on_llm_error"]
    assert isinstance(recorder.told[-1][1][0], StreamStalledError)


async def test_time_held_back_is_no_stall() -> None:
    async with open_stream(
        AStreamModel(words=LONG), "hi", chunk_timeout=0.05, max_buffer_size=2
    ) as stream:
        cursor = aiter_(stream.text)
        await cursor.__anext__()
        await anyio.sleep(0.15)
        assert stream.error is None
        assert (await stream).text == "".join(LONG)


async def test_a_whole_answer_may_stall_too() -> None:
    gate = ThreadGate()
    try:
        async with open_stream(GenerateModel(before=gate), "hi", chunk_timeout=0.02) as stream:
            with pytest.raises(StreamStalledError):
                await stream
            gate.open.set()
    finally:
        gate.open.set()


# Ends of the callbacks


@pytest.mark.parametrize("kind", (Recorder, AsyncRecorder))
@pytest.mark.parametrize("inline", (False, True))
async def test_a_model_error_is_reported_once_and_raised_bare(kind: Any, inline: bool) -> None:
    async def before(number: int) -> None:
        if number == 2:
            raise OSError("broken")

    recorder = kind()
    recorder.run_inline = inline
    seen = []
    async with open_stream(AStreamModel(before=before), "hi", config_of(recorder)) as stream:
        with pytest.raises(OSError, match="broken") as caught:
            async for delta in stream.text:
                seen.append(delta)
        assert caught.value is stream.error
    assert seen == ["one ", "two "]
    assert recorder.ends() == ["on_llm_error"]
    assert recorder.told[-1][1][0] is stream.error


async def test_a_start_that_raises() -> None:
    def react(name: str) -> None:
        if name == "on_chat_model_start":
            raise OSError("no")

    first, failing, never = Recorder(), Recorder(react), Recorder()
    for handler in (first, failing, never):
        handler.run_inline = True
    failing.raise_error = True
    model = AStreamModel()
    stream = open_stream(model, "hi", config_of(first, failing, never))
    for _ in range(2):
        with pytest.raises(OSError, match="no"):
            await stream
    assert not model.calls
    assert first.names() == ["on_chat_model_start", "on_llm_error"]
    assert failing.names() == ["on_chat_model_start", "on_llm_error"]
    assert never.names() == []


@pytest.mark.parametrize("inline", (False, True))
async def test_an_end_that_raises(inline: bool) -> None:
    def react(name: str) -> None:
        if name == "on_llm_end":
            raise OSError("no")

    failing, other = Recorder(react), Recorder()
    failing.raise_error = True
    failing.run_inline = other.run_inline = inline
    async with open_stream(AStreamModel(), "hi", config_of(failing, other)) as stream:
        with pytest.raises(OSError, match="no"):
            await stream
        assert (await stream.output).text == "one two three"
        assert stream.error is None
    assert failing.ends() == other.ends() == ["on_llm_end"]


async def test_a_handler_that_raises_without_saying_so_is_logged(caplog: Any) -> None:
    def react(name: str) -> None:
        raise OSError(name)

    async with open_stream(AStreamModel(), "hi", config_of(Recorder(react))) as stream:
        assert (await stream).text == "one two three"
    assert "Error in Recorder.on_llm_end callback: OSError('on_llm_end')" in caplog.text


@pytest.mark.parametrize("event", ("on_chat_model_start", "on_stream_event", "on_llm_end"))
@pytest.mark.parametrize("kind", (Recorder, AsyncRecorder))
async def test_cancelled_while_a_handler_runs(event: str, kind: Any) -> None:
    """Whatever a handler is doing, it is told of one end, and so are the others."""
    reached = threading.Event()

    def block(name: str) -> Any:
        if name != event or reached.is_set():
            return None
        reached.set()
        if kind is AsyncRecorder:
            return anyio.sleep(0.05 if event == "on_llm_end" else 60)
        return time.sleep(0.05)

    blocking, other = kind(block), kind()
    with anyio.CancelScope() as scope:
        async with open_stream(AStreamModel(), "hi", config_of(blocking, other)) as stream:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream._wait)
                while not reached.is_set():
                    await anyio.sleep(0.001)
                scope.cancel()
    assert scope.cancelled_caught
    for recorder in (blocking, other):
        # A thread that had not begun to tell of the start does not begin any more.
        assert len(recorder.ends()) == recorder.names().count("on_chat_model_start")
    assert len(blocking.ends()) == 1


async def test_a_handler_never_told_of_the_start_is_not_told_of_the_end() -> None:
    """Threads that never came to run their handler, because the run was cancelled first."""
    recorder = Recorder()
    with anyio.CancelScope() as scope:
        async with open_stream(AStreamModel(), "hi", config_of(recorder)) as stream:
            scope.cancel()
            await stream
    assert len(recorder.ends()) == recorder.names().count("on_chat_model_start")


# Cleanup that takes too long


async def close_in_time(stream: AsyncChatModelStream, match: str) -> None:
    began = time.monotonic()
    with pytest.warns(ResourceWarning, match=match):
        await stream.aclose()
    assert time.monotonic() - began < 5


@pytest.mark.slow
@pytest.mark.parametrize("who", ("a model", "a handler"))
async def test_a_cleanup_is_given_up_after_five_seconds(who: str) -> None:
    """Those of the package; the other tests have shorter ones."""
    reached, release = anyio.Event(), anyio.Event()

    async def shielded(number: int = 1) -> None:
        if number:
            with anyio.CancelScope(shield=True):
                reached.set()
                await release.wait()

    recorder = AsyncRecorder(
        lambda name: shielded() if who == "a handler" and name == "on_llm_error" else None
    )
    model = AStreamModel(before=shielded if who == "a model" else Gate(1))
    stream = open_stream(model, "hi", config_of(recorder))
    await aiter_(stream.text).__anext__()
    if who == "a model":
        await reached.wait()
    began = anyio.current_time()
    try:
        with pytest.warns(ResourceWarning, match="given up after 5 seconds"):
            await stream.aclose()
        assert 4.9 < anyio.current_time() - began < 6  # more than 5 on a busy machine alone
    finally:
        release.set()


@pytest.mark.usefixtures("short_cleanup")
async def test_a_handler_that_never_returns() -> None:
    recorder, other = (
        AsyncRecorder(lambda name: anyio.sleep(3600) if name == "on_llm_error" else None),
        Recorder(),
    )
    stream = open_stream(AStreamModel(before=Gate(1)), "hi", config_of(recorder, other))
    await aiter_(stream.text).__anext__()
    await close_in_time(stream, r"given up after .*AsyncRecorder\.on_llm_error")
    assert other.ends() == ["on_llm_error"]


@pytest.mark.usefixtures("short_cleanup")
@pytest.mark.unhurried
async def test_a_handler_that_shields_itself() -> None:
    release = anyio.Event()

    async def shielded() -> None:
        with anyio.CancelScope(shield=True):
            await release.wait()

    recorder = AsyncRecorder(lambda name: shielded() if name == "on_llm_error" else None)
    stream = open_stream(AStreamModel(before=Gate(1)), "hi", config_of(recorder))
    await aiter_(stream.text).__anext__()
    await close_in_time(stream, r"AsyncRecorder\.on_llm_error")
    release.set()


@pytest.mark.usefixtures("short_cleanup")
async def test_a_model_that_shields_itself() -> None:
    release = anyio.Event()
    reached = anyio.Event()
    over = anyio.Event()

    async def before(number: int) -> None:
        if number == 1:
            try:
                with anyio.CancelScope(shield=True):
                    reached.set()
                    await release.wait()
            finally:
                over.set()

    recorder = Recorder()
    stream = open_stream(AStreamModel(before=before), "hi", config_of(recorder))
    await aiter_(stream.text).__anext__()
    await reached.wait()
    await close_in_time(stream, "the model AStreamModel")
    assert recorder.ends() == ["on_llm_error"]
    release.set()
    with anyio.fail_after(HANGS):
        await over.wait()
        await anyio.wait_all_tasks_blocked()
    assert recorder.ends() == ["on_llm_error"]


@pytest.mark.usefixtures("short_cleanup")
@pytest.mark.parametrize(
    "kind", (StreamModel, pytest.param(GenerateModel, marks=pytest.mark.unhurried))
)
async def test_a_thread_that_does_not_return(kind: Any) -> None:
    gate = ThreadGate(1 if kind is StreamModel else 0)
    recorder = Recorder()
    stream = open_stream(kind(before=gate), "hi", config_of(recorder))
    async with anyio.create_task_group() as tasks:

        async def consume() -> None:
            with pytest.raises(StreamCancelledError):
                await stream

        tasks.start_soon(consume)
        await anyio.to_thread.run_sync(gate.reached.wait)
        await close_in_time(stream, rf"{kind.__name__}\._")
    assert recorder.ends() == ["on_llm_error"]
    gate.open.set()


@pytest.mark.usefixtures("short_cleanup")
@pytest.mark.unhurried
async def test_a_thread_of_a_handler_that_does_not_return() -> None:
    gate = ThreadGate()
    recorder = Recorder(lambda name: gate() if name == "on_llm_error" else None)
    stream = open_stream(AStreamModel(before=Gate(1)), "hi", config_of(recorder))
    await aiter_(stream.text).__anext__()
    await close_in_time(stream, r"Recorder\.on_llm_error")
    gate.open.set()


async def test_a_blocking_model_is_left_at_its_next_chunk() -> None:
    gate = ThreadGate(1)
    model, recorder = StreamModel(words=LONG, before=gate), Recorder()
    async with open_stream(model, "hi", config_of(recorder)) as stream:
        await aiter_(stream.text).__anext__()
        await anyio.to_thread.run_sync(gate.reached.wait)
        threading.Timer(0.05, gate.open.set).start()
    assert model.trace == ["chunk 0", "chunk 1", "closed"]
    assert recorder.ends() == ["on_llm_error"]


async def test_a_stalled_thread_is_not_waited_for() -> None:
    gate = ThreadGate(1)
    try:
        stream = open_stream(StreamModel(before=gate), "hi", chunk_timeout=0.02)
        with anyio.fail_after(HANGS), pytest.raises(StreamStalledError):
            await stream.text
    finally:
        gate.open.set()
    with anyio.fail_after(HANGS):
        await stream.aclose()


@pytest.mark.usefixtures("short_cleanup")
async def test_cleanup_after_an_error_is_bounded_though_nobody_closes() -> None:
    async def before(number: int) -> None:
        raise OSError("broken")

    recorder = AsyncRecorder(lambda name: anyio.sleep(3600) if name == "on_llm_error" else None)
    stream = open_stream(AStreamModel(before=before), "hi", config_of(recorder))
    with pytest.warns(ResourceWarning, match=r"AsyncRecorder\.on_llm_error"):
        with pytest.raises(OSError, match="broken"):
            await stream.text
        await settle(stream)


# Native cancellation


async def cancel_natively() -> None:
    model, released = AStreamModel(before=Gate(1)), anyio.Event()
    recorder = AsyncRecorder(lambda name: released.wait() if name == "on_llm_error" else None)

    async def use() -> None:
        async with open_stream(model, "hi", config_of(recorder)) as stream:
            await stream

    task = asyncio.ensure_future(use())
    while not model.trace:
        await asyncio.sleep(0)
    task.cancel()
    for _ in range(5):  # and again, during the cleanup
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
    released.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert model.trace == ["chunk 0", "closed"]
    assert recorder.ends() == ["on_llm_error"]


async def test_the_loop_ends_with_a_stream_open() -> None:
    """In a loop of its own: what the end of the loop leaves of a run."""
    model, recorder = AStreamModel(before=Gate(1)), Recorder()
    kept = []

    async def main() -> None:
        model.before = Gate(1)
        stream = open_stream(model, "hi", config_of(recorder))
        kept.append(stream)
        await aiter_(stream.text).__anext__()

    name = backend()
    await anyio.to_thread.run_sync(lambda: anyio.run(main, backend=name))
    assert model.trace == ["chunk 0", "closed"]
    assert recorder.ends() == ["on_llm_error"]
    assert isinstance(kept[0].error, StreamCancelledError)
    kept.clear()
    gc.collect()


@pytest.mark.usefixtures("short_cleanup")
@pytest.mark.unhurried
async def test_the_loop_ends_while_a_handler_never_returns() -> None:
    """A run that has its message is in no hurry, until nobody can wait for it any more."""
    recorder = AsyncRecorder(lambda name: anyio.sleep(3600) if name == "on_llm_end" else None)

    async def main() -> None:
        stream = open_stream(AStreamModel(), "hi", config_of(recorder))
        assert (await stream.output).text == "one two three"
        while not recorder.ends():
            await checkpoint()

    name = backend()

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            anyio.run(main, backend=name)

    with anyio.fail_after(HANGS):
        await anyio.to_thread.run_sync(run)
    assert recorder.ends() == ["on_llm_end"]


async def test_errors_that_are_no_exceptions_reach_the_consumer() -> None:
    async def before(number: int) -> None:
        raise SystemExit(3)

    if backend() == "asyncio":
        # An asyncio task that raises it ends the whole loop, as asyncio would have it.
        async def main() -> None:
            await open_stream(AStreamModel(before=before), "hi")

        def run() -> Any:
            with pytest.raises(SystemExit) as caught:
                asyncio.run(main())
            return caught.value.code

        assert await anyio.to_thread.run_sync(run) == 3
        return
    with pytest.raises(SystemExit):
        async with open_stream(AStreamModel(before=before), "hi") as stream:
            await stream
    with pytest.raises(SystemExit):
        async with open_stream(AStreamModel(before=before), "hi") as stream:
            with contextlib.suppress(BaseException):
                await stream.text


async def test_an_exit_that_a_handler_raises_at_the_end_is_not_lost() -> None:
    def react(name: str) -> None:
        if name == "on_llm_end":
            raise SystemExit(4)

    handlers = config_of(Recorder(react))
    if backend() == "asyncio":

        def run() -> Any:
            with pytest.raises(SystemExit) as caught:
                asyncio.run(open_stream(AStreamModel(), "hi", handlers)._wait())
            return caught.value.code

        assert await anyio.to_thread.run_sync(run) == 4
        return
    with pytest.raises(SystemExit):
        async with open_stream(AStreamModel(), "hi", handlers) as stream:
            assert (await stream.output).text == "one two three"


async def test_native_events_that_are_malformed_end_the_run() -> None:
    class Odd(AEventsModel):
        async def _astream_chat_model_events(self, *args: Any, **kwargs: Any) -> Any:
            yield {"event": "message-start", "id": "x"}
            yield 5

    recorder = Recorder()
    async with open_stream(Odd(), "hi", config_of(recorder)) as stream:
        with pytest.raises(AttributeError):
            await stream
    assert recorder.ends() == ["on_llm_error"]


@pytest.mark.parametrize("use_uvloop", (False, True))
def test_native_cancellation_of_the_user_task(use_uvloop: bool) -> None:
    anyio.run(cancel_natively, backend="asyncio", backend_options={"use_uvloop": use_uvloop})
