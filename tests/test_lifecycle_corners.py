"""Corners of a run that went wrong before: each once."""

from __future__ import annotations

import asyncio
import traceback
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from langchain_core.outputs import ChatGenerationChunk

from langchain_anyio import StreamCancelledError, _driver, open_stream
from langchain_anyio._background import backend
from models import AEventsModel, AStreamModel, AsyncRecorder, Gate, Recorder, chunk

pytestmark = pytest.mark.anyio

LONG = [str(number) for number in range(1500)]


def config_of(*handlers: Any) -> Any:
    return {"callbacks": list(handlers)}


@pytest.mark.parametrize("limit", (1, 1024))
async def test_a_native_producer_that_is_past_its_message(limit: int) -> None:
    recorder = AsyncRecorder()
    with anyio.fail_after(60):
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
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The model returns while the watching task tells the handlers in its stead."""
    monkeypatch.setattr(_driver, "MODEL_SECONDS", 0.05)
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


async def test_what_is_no_input_is_refused() -> None:
    with pytest.raises(TypeError, match="input must be"):
        open_stream(AStreamModel(), b"abc")
    assert backend() in {"asyncio", "trio"}
