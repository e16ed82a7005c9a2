"""`open_stream` where trio is the guest of another event loop, which both run on one thread, in turns."""

from __future__ import annotations

import asyncio
import gc
import itertools
import queue
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
import trio

from cancelling import ticks
from langchain_anyio import AsyncIteratorCallbackHandler, StreamCancelledError, open_stream
from limits import HANGS
from models import AStreamModel, AsyncRecorder, Gate, Recorder, StreamModel

LONG = [str(number) for number in range(1000)]
Program = Callable[[], Awaitable[Any]]


def by_hand(guest: Program) -> Any:
    """Run `guest` on a host that knows nothing of tasks."""
    calls: queue.SimpleQueue[Callable[[], Any]] = queue.SimpleQueue()
    outcomes: list[Any] = []
    trio.lowlevel.start_guest_run(
        guest, run_sync_soon_threadsafe=calls.put, done_callback=outcomes.append
    )
    while not outcomes:
        calls.get(timeout=60)()
    return outcomes[0].unwrap()


def of_asyncio(guest: Program) -> Any:
    """Run `guest` within asyncio, which does the same beside it."""

    async def host() -> Any:
        loop = asyncio.get_running_loop()
        over: asyncio.Future[Any] = loop.create_future()
        trio.lowlevel.start_guest_run(
            guest, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=over.set_result
        )
        here = await guest()
        there = (await over).unwrap()
        assert here == there
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return there

    return asyncio.run(host())


HOSTS = (by_hand, of_asyncio)


@pytest.mark.parametrize("kind", (AStreamModel, StreamModel))
@pytest.mark.parametrize("host", HOSTS)
def test_read_to_its_end(host: Callable[[Program], Any], kind: Any) -> None:
    async def guest() -> Any:
        handlers = [Recorder(), AsyncRecorder(), AsyncIteratorCallbackHandler(1)]
        tokens: list[str] = []

        async def read() -> None:
            tokens.extend([token async for token in handlers[2]])

        with anyio.fail_after(HANGS):
            async with open_stream(
                kind(), "hi", {"callbacks": handlers}, max_buffer_size=1
            ) as stream:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(read)
                    deltas = [delta async for delta in stream.text]
                await stream
        return deltas, tokens, [handler.ends() for handler in handlers[:2]]

    words = ["one ", "two ", "three"]
    assert host(guest) == (words, words, [["on_llm_end"]] * 2)


@pytest.mark.parametrize("host", HOSTS)
def test_cancelled_at_each_of_its_first_steps(host: Callable[[Program], Any]) -> None:
    async def guest() -> Any:
        for steps in range(40):
            model, recorder = AStreamModel(words=LONG), AsyncRecorder()

            async def use(model: Any = model, recorder: Any = recorder) -> None:
                async with open_stream(model, "hi", {"callbacks": [recorder]}) as stream:
                    await stream

            with anyio.fail_after(HANGS):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(use)
                    await ticks(steps)
                    tasks.cancel_scope.cancel()
            assert len(recorder.ends()) == recorder.names().count("on_chat_model_start")
            assert not model.trace or model.trace[-1] == "closed"

    host(guest)


@pytest.mark.parametrize("host", HOSTS)
def test_dropped_or_closed_from_a_thread_or_another_task(host: Callable[[Program], Any]) -> None:
    guests = itertools.count()

    async def guest() -> Any:
        next(guests)
        ends: list[list[str]] = []
        for how in ("dropped", "dropped in a thread", "closed"):
            recorder = Recorder()
            model = AStreamModel(words=LONG, before=Gate(5))
            held = [open_stream(model, "hi", {"callbacks": [recorder]})]
            with anyio.fail_after(HANGS):
                await held[0].text.__aiter__().__anext__()
                if how == "closed":
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(held[0].aclose)
                    assert isinstance(held[0].error, StreamCancelledError)
                elif how == "dropped":
                    held.clear()
                    gc.collect()
                else:
                    await anyio.to_thread.run_sync(held.clear)
                while not recorder.ends():
                    await anyio.sleep(0.001)
            assert model.trace[-1] == "closed"
            ends.append(recorder.ends())
        return ends

    # Around them all: what records warnings is the process's, and two guests that run in turns
    # would take it from each other. Each warns of the two that it drops, and of nothing else.
    with pytest.warns(ResourceWarning) as warned:
        assert host(guest) == [["on_llm_error"]] * 3
    messages = [str(warning.message) for warning in warned]
    assert len(messages) == 2 * next(guests)
    assert all("dropped" in message for message in messages), messages


def test_the_stream_of_the_host_is_not_the_guests() -> None:
    """Though both are in one thread."""

    async def main() -> None:
        stream = open_stream(AStreamModel(before=Gate(1)), "hi")
        await stream.text.__aiter__().__anext__()
        over: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def guest() -> None:
            with anyio.fail_after(HANGS):
                for use in (stream.output._wait, stream.aclose):
                    with pytest.raises(RuntimeError, match="event loop"):
                        await use()

        trio.lowlevel.start_guest_run(
            guest,
            run_sync_soon_threadsafe=asyncio.get_running_loop().call_soon_threadsafe,
            done_callback=over.set_result,
        )
        (await over).unwrap()
        await stream.aclose()

    asyncio.run(main())
