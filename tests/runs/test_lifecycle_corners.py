"""Corners of a run that went wrong before: each once."""

from __future__ import annotations

import asyncio
import gc
import sys
import traceback
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import pytest
from langchain_core.callbacks import AsyncCallbackManager
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableConfig, RunnableLambda, RunnablePassthrough

from cancelling import settle, ticks
from handlers import config_of
from langchain_anyio import StreamCancelledError, disable_trio, enable_trio, open_stream
from langchain_anyio._backends.current import backend
from limits import HANGS
from models import (
    AEventsModel,
    AGenerateModel,
    AStreamModel,
    AsyncRecorder,
    EventsModel,
    Gate,
    Recorder,
    StreamModel,
    chunk,
)
from shared_fixtures import SetCleanup

pytestmark = pytest.mark.anyio

LONG = [str(number) for number in range(1500)]


@pytest.mark.parametrize("limit", (1, 1024))
async def test_a_native_producer_that_is_past_its_message(limit: int) -> None:
    recorder = AsyncRecorder()
    with anyio.fail_after(HANGS):
        message = await open_stream(
            AEventsModel(words=LONG), "hi", config_of(recorder), max_buffer_size=limit
        )
    assert message.text == "".join(LONG)
    assert recorder.ends() == ["on_llm_end"]


@pytest.mark.parametrize("kind", (Recorder, AsyncRecorder))
async def test_the_last_event_reaches_handlers_though_the_block_is_left(kind: Any) -> None:
    recorder = kind()
    async with open_stream(AEventsModel(), "hi", config_of(recorder)) as stream:
        await stream.output
    events = [args[0]["event"] for name, args, _ in recorder.told if name == "on_stream_event"]
    assert events[-1] == "message-finish"
    assert recorder.ends() == ["on_llm_end"]


async def test_a_client_that_runs_share_stays_open() -> None:
    log = []

    @asynccontextmanager
    async def client() -> Any:
        log.append("open")
        try:
            yield
        finally:
            log.append("closed")

    shared = client()
    entered = []

    async def before(number: int) -> None:
        if not entered:
            entered.append(await shared.__aenter__())

    for _ in range(2):
        async with open_stream(AStreamModel(before=before), "hi") as stream:
            async for _ in stream.text:
                break
    assert log == ["open"]
    await shared.__aexit__(None, None, None)
    assert log == ["open", "closed"]


class Interrupt(BaseException):
    """Neither an exception nor an exit."""


async def test_an_end_is_reported_though_the_model_fails_to_close() -> None:
    class Failing(AStreamModel):
        async def _astream(self, *args: Any, **kwargs: Any) -> Any:
            try:
                yield chunk("a")
                await anyio.sleep_forever()
            finally:
                raise Interrupt

    recorder = Recorder()
    async with open_stream(Failing(), "hi", config_of(recorder), max_buffer_size=1) as stream:
        async for _ in stream.text:
            break
    assert recorder.ends() == ["on_llm_error"]


async def test_an_iterator_that_is_no_generator_is_closed_too() -> None:
    closed = []

    class Pieces:
        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> ChatGenerationChunk:
            return chunk("x")

        async def aclose(self) -> None:
            closed.append(True)

    class Model(AStreamModel):
        def _astream(self, *args: Any, **kwargs: Any) -> Any:
            return Pieces()

    async with open_stream(Model(), "hi") as stream:
        async for _ in stream.text:
            break
    assert closed == [True]


async def test_one_awaiter_cancelled_during_the_callbacks_leaves_the_others() -> None:
    release = anyio.Event()
    recorder = AsyncRecorder(lambda name: release.wait() if name == "on_llm_end" else None)
    stream = open_stream(AStreamModel(), "hi", config_of(recorder))
    results = []

    async def wait() -> None:
        results.append(await stream)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as doomed:
                doomed.start_soon(stream._wait)
                while not recorder.ends():
                    await anyio.sleep(0)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        release.set()
    assert [message.text for message in results] == ["one two three"]


async def test_the_error_of_an_end_does_not_grow() -> None:
    def react(name: str) -> None:
        if name == "on_llm_end":
            raise OSError("no")

    recorder = Recorder(react)
    recorder.raise_error = True
    stream = open_stream(AStreamModel(), "hi", config_of(recorder))
    depths = set()
    for _ in range(20):
        with pytest.raises(OSError, match="no") as caught:
            await stream
        depths.add(len(traceback.extract_tb(caught.value.__traceback__)))
    assert len(depths) == 1


async def test_the_block_is_left_only_when_a_slow_report_is_over(
    set_cleanup: SetCleanup,
) -> None:
    """The model returns while the watching task tells the handlers in its stead."""
    set_cleanup(model=0.05)
    release, reached = anyio.Event(), anyio.Event()

    async def before(number: int) -> None:
        if number == 1:
            with anyio.CancelScope(shield=True):
                reached.set()
                await release.wait()

    told = []

    async def slow() -> None:
        release.set()
        await anyio.sleep(0.1)
        told.append("over")

    recorder = AsyncRecorder(lambda name: slow() if name == "on_llm_error" else None)
    async with open_stream(AStreamModel(before=before), "hi", config_of(recorder)) as stream:
        async for _ in stream.text:
            break
        await reached.wait()
    assert told == ["over"]
    assert recorder.ends() == ["on_llm_error"]


def test_a_run_cancelled_before_it_began() -> None:
    async def main() -> None:
        stream = open_stream(AStreamModel(), "hi")
        cursor = stream.text.__aiter__()
        step = asyncio.ensure_future(cursor.__anext__())
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task(), step}:
            task.cancel()
        with pytest.raises(StreamCancelledError):
            await asyncio.wait_for(step, 5)
        await asyncio.wait_for(stream.aclose(), 5)

    asyncio.run(main())


def test_native_cancellation_during_the_cleanup() -> None:
    """As `asyncio.run` does at its end, while a dropped stream is being cleaned up."""
    recorder, other = AsyncRecorder(), Recorder()

    async def main() -> None:
        model = AStreamModel(before=Gate(1))
        stream = open_stream(model, "hi", config_of(recorder, other))
        await stream.text.__aiter__().__anext__()
        run: Any = stream._run
        run.close()
        await asyncio.sleep(0)

    asyncio.run(main())
    for handler in (recorder, other):
        assert handler.ends() == ["on_llm_error"]


async def test_the_runs_around_a_model_are_told_of_the_end_when_its_report_is_cut_short(
    set_cleanup: SetCleanup,
) -> None:
    set_cleanup(1.5, own=0.5)

    def react(name: str) -> Any:
        return anyio.sleep_forever() if name == "on_llm_error" else None

    slow, other = AsyncRecorder(react), AsyncRecorder()
    slow.run_inline = True
    chain = RunnablePassthrough[str]() | AStreamModel(before=Gate(1))
    if backend() == "trio":
        enable_trio()
    try:
        stream = open_stream(chain, "hi", config_of(slow, other))
        assert await stream.text.__aiter__().__anext__() == "one "
        with pytest.warns(ResourceWarning, match=r"AsyncRecorder\.on_llm_error"):
            with anyio.fail_after(HANGS):
                await stream.aclose()
    finally:
        disable_trio()
    for recorder in (slow, other):
        assert recorder.names().count("on_chain_error") == 1
        assert recorder.ends() == ["on_llm_error"]


# Where a run is opened


async def test_within_a_lambda_the_lambda_is_the_parent() -> None:
    recorder = AsyncRecorder()

    async def ask(text: str, config: RunnableConfig) -> str:
        return (await open_stream(AStreamModel(), text, config)).text

    async def implicitly(text: str) -> str:
        return (await open_stream(AStreamModel(), text)).text

    async def main() -> None:
        config: Any = {"callbacks": [recorder], "tags": ["mine"]}
        assert await RunnableLambda(ask).ainvoke("hi", config) == "one two three"
        if sys.version_info >= (3, 11):  # before, asyncio's tasks take no context
            assert await RunnableLambda(implicitly).ainvoke("hi", config) == "one two three"

    # langchain-core's own part runs on asyncio.
    await anyio.to_thread.run_sync(asyncio.run, main())
    told = {"on_chain_start": [], "on_chat_model_start": []}  # type: dict[str, list[Any]]
    for name, _, kwargs in recorder.told:
        if name in told:
            told[name].append(kwargs)
    assert len(told["on_chat_model_start"]) == 1 + (sys.version_info >= (3, 11))
    for chain, model in zip(*told.values(), strict=True):
        assert model["parent_run_id"] == chain["run_id"]
        assert "mine" in model["tags"]
    assert recorder.ends() == ["on_llm_end"] * len(told["on_chain_start"])


async def test_with_a_manager_as_callbacks() -> None:
    recorder, own = AsyncRecorder(), Recorder()
    parent = uuid4()
    manager = AsyncCallbackManager(
        [recorder, own], inheritable_handlers=[recorder], parent_run_id=parent, tags=["its"]
    )
    async with open_stream(AStreamModel(), "hi", {"callbacks": manager}) as stream:
        assert (await stream).text == "one two three"
    for handler in (recorder, own):
        assert handler.ends() == ["on_llm_end"]
        assert all(kwargs["parent_run_id"] == parent for _, _, kwargs in handler.told)
        assert all("its" in kwargs["tags"] for _, _, kwargs in handler.told)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12")
@pytest.mark.parametrize("kind", (AStreamModel, StreamModel, AEventsModel, AGenerateModel))
def test_where_tasks_begin_at_once(kind: Any) -> None:
    recorder, threaded = AsyncRecorder(), Recorder()

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        config = config_of(recorder, threaded)
        for _ in range(2):
            async with open_stream(kind(), "hi", config) as stream:
                assert "".join([delta async for delta in stream.text]) == "one two three"
                assert (await stream).text == "one two three"
        async with open_stream(AStreamModel(before=Gate(1)), "hi", config) as stream:
            async for _ in stream.text:
                break
        stream = open_stream(AStreamModel(before=Gate(1)), "hi", config)
        task = asyncio.ensure_future(stream._wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stream.done

    asyncio.run(main())
    for handler in (recorder, threaded):
        assert handler.ends()[:3] == ["on_llm_end", "on_llm_end", "on_llm_error"]
        assert len(handler.ends()) == handler.names().count("on_chat_model_start")


def test_dropped_as_plain_asyncio_ends() -> None:
    recorder = AsyncRecorder()

    async def main() -> None:
        stream = open_stream(AStreamModel(words=LONG, before=Gate(1)), "hi", config_of(recorder))
        await stream.text.__aiter__().__anext__()

    with pytest.warns(ResourceWarning, match="dropped"):
        asyncio.run(main())
        gc.collect()
    assert recorder.ends() == ["on_llm_error"]


# Limits


@pytest.mark.parametrize("kind", (AEventsModel, EventsModel))
async def test_native_producers_are_held_back(kind: Any) -> None:
    limit = 3
    async with open_stream(kind(words=LONG[:100]), "hi", max_buffer_size=limit) as stream:
        cursor = stream.__aiter__()
        for taken in range(1, 30):
            await cursor.__anext__()
            await settle()
            assert stream._state.flow.produced <= taken + limit
        # Who waits for all of it holds nothing back.
        assert (await stream).text == "".join(LONG[:100])


async def test_interleaved_cursors_miss_nothing_of_what_is_dropped() -> None:
    words = LONG[:1000]
    async with open_stream(
        AStreamModel(words=words), "hi", replay=False, max_buffer_size=10
    ) as stream:
        slow, fast = stream.interleave("text"), stream.interleave()
        passing = stream.interleave("text", "reasoning")
        assert (await passing.__anext__())[1] == words[0]
        del passing
        got: list[list[str]] = [[], []]

        async def read(cursor: Any, into: list[str], pause: int) -> None:
            async for _, delta in cursor:
                into.append(delta)
                await ticks(pause)
                # What both have passed is dropped, once it is half of what is there.
                apart = abs(len(got[0]) - len(got[1]))
                assert len(stream._state.text.deltas) <= 2 * apart + 200

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, slow, got[0], 2)
            tasks.start_soon(read, fast, got[1], 0)
    assert got == [words, words]


async def test_what_is_no_input_is_refused() -> None:
    with pytest.raises(TypeError, match="input must be"):
        open_stream(AStreamModel(), b"abc")
    assert backend() in {"asyncio", "trio"}
