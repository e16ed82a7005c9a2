"""`chunk_timeout` counts the wait for the model, and not what callback handlers take."""

from __future__ import annotations

import math
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest
from langchain_core.callbacks import BaseCallbackHandler

from handlers import config_of
from langchain_anyio import AsyncIteratorCallbackHandler, StreamStalledError, open_stream
from langchain_anyio._backends.event_loops import Loop
from langchain_anyio._runs.stall_timer import StallTimer
from limits import HANGS
from models import (
    AGenerateModel,
    AStreamModel,
    AsyncRecorder,
    Model,
    Recorder,
    StreamModel,
    chunk,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.anyio

SECONDS = 0.2
LONGER = 0.3


def once(event: str, wait: Callable[[], Any]) -> Callable[[str], Any]:
    """React to the first event of that name."""
    left = [event]

    def react(name: str) -> Any:
        if name in left:
            left.remove(name)
            return wait()
        return None

    return react


def slow_handler(kind: str, event: str) -> BaseCallbackHandler:
    if kind == "async":
        return AsyncRecorder(once(event, partial(anyio.sleep, LONGER)))
    handler = Recorder(once(event, partial(time.sleep, LONGER)))
    handler.run_inline = kind == "inline"
    return handler


class TellsTwice(AStreamModel):
    """Tells two handlers at the same time, in tasks of its own, within one step."""

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        for word in self.words:
            async with anyio.create_task_group() as group:
                for _ in range(2):
                    group.start_soon(run_manager.on_llm_new_token, word)
            yield chunk(word)


class TellsInItsAnswer(AGenerateModel):
    async def _agenerate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Any:
        for word in self.words:
            await run_manager.on_llm_new_token(word)
        return self._answer()


class AsksInAThread(Model):
    """Runs a blocking stream in a thread of its own choice, which tells the handlers there."""

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        manager = run_manager.get_sync()
        for word in self.words:
            await anyio.to_thread.run_sync(manager.on_llm_new_token, word)
            yield chunk(word)


class OpensAStream(Model):
    """Answers with another model's stream, whose handlers are told within the step of this one."""

    inner: Any

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        async with open_stream(self.inner, messages, config_of(*run_manager.handlers)) as stream:
            async for delta in stream.text:
                yield chunk(delta)


KINDS = (
    "async",
    pytest.param("thread", marks=pytest.mark.unhurried),
    pytest.param("inline", marks=pytest.mark.unhurried),
)
TELLING: dict[str, Callable[[], Model]] = {
    "not itself": AStreamModel,
    "in its step": lambda: AStreamModel(tell=True),
    "in a worker thread": lambda: StreamModel(tell=True),
    "in a thread of its own": AsksInAThread,
    "in two tasks": TellsTwice,
    "in its answer": TellsInItsAnswer,
    "in a stream within": lambda: OpensAStream(inner=AStreamModel(tell=True)),
}

QUICKLY_TRIED = ("not itself", "in a worker thread")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, id=name, marks=[] if name in QUICKLY_TRIED else [pytest.mark.unhurried])
        for name, make in TELLING.items()
    ],
)
async def test_a_slow_handler_is_no_stall(make: Callable[[], Model], kind: str) -> None:
    model = make()
    tells = type(model) is not AStreamModel or model.tell
    handler = slow_handler(kind, "on_llm_new_token" if tells else "on_stream_event")
    async with open_stream(model, "hi", config_of(handler), chunk_timeout=SECONDS) as stream:
        assert (await stream).text == "one two three"


@pytest.mark.unhurried
@pytest.mark.parametrize("make", TELLING.values(), ids=TELLING)
async def test_a_handler_that_holds_the_model_back_is_no_stall(make: Callable[[], Model]) -> None:
    handler = AsyncIteratorCallbackHandler(1)
    tokens: list[str] = []

    async def read() -> None:
        async for token in handler.aiter():
            if not tokens:
                await anyio.sleep(LONGER)
            tokens.append(token)

    with anyio.fail_after(HANGS):
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            async with open_stream(
                make(), "hi", config_of(handler), chunk_timeout=SECONDS
            ) as stream:
                assert (await stream).text == "one two three"
    assert "one " in tokens


@pytest.mark.parametrize("make", TELLING.values(), ids=TELLING)
async def test_a_handler_that_hangs_is_not_the_models_stall(make: Callable[[], Model]) -> None:
    release = threading.Event()
    told = anyio.Event()
    loop = Loop()

    def hang(name: str) -> None:
        if name in ("on_llm_new_token", "on_stream_event"):
            loop.call_soon(told.set)
            assert release.wait(60)

    async def read(stream: Any) -> None:
        await stream.output

    try:
        with anyio.fail_after(HANGS):
            config = config_of(Recorder(hang))
            async with open_stream(make(), "hi", config, chunk_timeout=0.02) as stream:
                async with anyio.create_task_group() as group:
                    group.start_soon(read, stream)
                    await told.wait()
                    await anyio.sleep(0.1)
                    assert stream.error is None
                    release.set()
                    group.cancel_scope.cancel()
    finally:
        release.set()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_model_that_stalls_after_it_has_told_is_cut_off(kind: str) -> None:
    class Stalls(Model):
        async def _astream(
            self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
        ) -> AsyncIterator[Any]:
            yield chunk("one ")
            await run_manager.on_llm_new_token("two ")
            await anyio.sleep_forever()

    handler = slow_handler(kind, "on_llm_new_token")
    with anyio.fail_after(HANGS):
        async with open_stream(Stalls(), "hi", config_of(handler), chunk_timeout=SECONDS) as stream:
            with pytest.raises(StreamStalledError, match=r"no chunk for 0\.2 s"):
                await stream


@pytest.mark.unhurried
async def test_a_thread_that_stalls_after_it_has_told_is_cut_off() -> None:
    release = threading.Event()

    class Stalls(Model):
        def _stream(
            self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
        ) -> Any:
            yield chunk("one ")
            run_manager.on_llm_new_token("two ")
            assert release.wait(60)

    handler = slow_handler("thread", "on_llm_new_token")
    try:
        with anyio.fail_after(HANGS):
            stream = open_stream(Stalls(), "hi", config_of(handler), chunk_timeout=SECONDS)
            with pytest.raises(StreamStalledError):
                await stream.text
            release.set()
            await stream.aclose()
    finally:
        release.set()


async def test_a_handler_that_raises_leaves_the_clock_going() -> None:
    class Raises(BaseCallbackHandler):
        raise_error = True

        def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
            raise ZeroDivisionError

    class Stalls(Model):
        async def _astream(
            self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
        ) -> AsyncIterator[Any]:
            with pytest.raises(ZeroDivisionError):
                await run_manager.on_llm_new_token("one ")
            await anyio.sleep_forever()
            yield

    with anyio.fail_after(HANGS):
        async with open_stream(Stalls(), "hi", config_of(Raises()), chunk_timeout=0.02) as stream:
            with pytest.raises(StreamStalledError):
                await stream


# The timer itself


async def later(moment: float) -> None:
    while anyio.current_time() <= moment:
        await anyio.sleep(0.001)


async def test_the_timer_goes_on_with_what_remains() -> None:
    timer = StallTimer(100, Loop())
    timer.start()
    deadline = timer.scope.deadline
    before = anyio.current_time()
    timer.hold()
    held = anyio.current_time()
    assert timer.scope.deadline == math.inf
    timer.hold()
    timer.resume()
    assert timer.scope.deadline == math.inf
    await later(held)
    resuming = anyio.current_time()
    timer.resume()
    resumed = anyio.current_time()
    slack = 1e-6  # sums of floating point numbers
    assert resuming - held - slack <= timer.scope.deadline - deadline <= resumed - before + slack
    timer.stop()
    assert timer.scope.deadline == math.inf


async def test_the_timer_does_not_start_while_it_is_held() -> None:
    timer = StallTimer(100, Loop())
    timer.hold()
    timer.start()
    assert timer.scope.deadline == math.inf
    timer.resume()
    assert math.inf > timer.scope.deadline > anyio.current_time()
    timer.hold()
    timer.stop()
    timer.resume()
    assert timer.scope.deadline == math.inf
    timer.hold()
    timer.resume()
    assert timer.scope.deadline == math.inf


async def test_the_timer_is_held_from_threads() -> None:
    timer = StallTimer(100, Loop())
    timer.start()
    await anyio.to_thread.run_sync(timer.hold)
    await anyio.wait_all_tasks_blocked()
    assert timer.scope.deadline == math.inf
    await anyio.to_thread.run_sync(timer.resume)
    await anyio.wait_all_tasks_blocked()
    assert timer.scope.deadline < math.inf
