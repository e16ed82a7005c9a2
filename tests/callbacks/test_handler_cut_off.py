"""Handlers of calls that are cut off within a task that goes on, of which langchain-core tells no handler."""

from __future__ import annotations

import gc
import io
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from langchain_core.callbacks import AsyncCallbackHandler, AsyncCallbackManager
from langchain_core.language_models import LLM
from langchain_core.messages import HumanMessage
from langchain_core.outputs import GenerationChunk, LLMResult
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import tool

from cancelling import settle
from handlers import all_of
from langchain_anyio import (
    AsyncFinalIteratorCallbackHandler,
    AsyncIteratorCallbackHandler,
    AsyncStreamingStdOutCallbackHandler,
    StreamCancelledError,
    open_stream,
)
from models import AStreamModel, Gate, StreamModel, ThreadGate

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("enabled_on_trio")]


@pytest.fixture(autouse=True)
def without_the_collector() -> Iterator[None]:
    """What is noticed is noticed as the call is left, and not when garbage is collected some time later."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Talker(AStreamModel):
    """Tells of its tokens, however it is called."""

    async def _agenerate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Any:
        async for piece in self._astream(messages, stop, None, **kwargs):
            await run_manager.on_llm_new_token(piece.text, chunk=piece)
        return self._answer()


class PlainModel(LLM):
    before: Any = None

    @property
    def _llm_type(self) -> str:
        return "test"

    def _call(self, *args: Any, **kwargs: Any) -> str:
        raise AssertionError("the model was asked in the wrong way")

    async def _acall(self, *args: Any, **kwargs: Any) -> str:
        await self.before(0)
        return "x"

    async def _astream(
        self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[GenerationChunk]:
        await self.before(0)
        yield GenerationChunk(text="x")


class Retriever(BaseRetriever):
    before: Any = None

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> Any:
        raise AssertionError("the retriever was asked in the wrong way")

    async def _aget_relevant_documents(self, query: str, *, run_manager: Any) -> Any:
        await self.before(0)
        return []


def make_tool(gate: Any) -> Any:
    @tool
    async def wait(x: int) -> str:
        """Wait."""
        await gate(0)
        return "x"

    return wait


async def read(stream: Any) -> None:
    async for _ in stream:
        pass


CALLS: dict[str, Any] = {
    "ainvoke": lambda gate, c: Talker(before=gate).ainvoke("x", c),
    "agenerate": lambda gate, c: Talker(before=gate).agenerate(
        [[HumanMessage("x")], [HumanMessage("y")]], callbacks=c["callbacks"]
    ),
    "astream": lambda gate, c: read(Talker(before=gate).astream("x", c)),
    "abatch": lambda gate, c: Talker(before=gate).abatch(["x", "y"], c),
    "bind": lambda gate, c: Talker(before=gate).bind(stop=["."]).ainvoke("x", c),
    "with_retry": lambda gate, c: Talker(before=gate).with_retry().ainvoke("x", c),
    "with_fallbacks": lambda gate, c: (
        Talker(before=gate).with_fallbacks([Talker()]).ainvoke("x", c)
    ),
    "llm": lambda gate, c: PlainModel(before=gate).ainvoke("x", c),
    "llm.agenerate": lambda gate, c: PlainModel(before=gate).agenerate(["x", "y"], **c),
    "llm.astream": lambda gate, c: read(PlainModel(before=gate).astream("x", c)),
    "tool": lambda gate, c: make_tool(gate).ainvoke({"x": 1}, c),
    "retriever": lambda gate, c: Retriever(before=gate).ainvoke("x", c),
    "chain": lambda gate, c: (RunnableLambda(str) | Talker(before=gate)).ainvoke("x", c),
    "lambda": lambda gate, c: RunnableLambda(Talker(before=gate).ainvoke).ainvoke("x", c),
    "parallel": lambda gate, c: RunnableParallel(
        a=Talker(before=gate), b=Retriever(before=gate)
    ).ainvoke("x", c),
}


def ways_to_cut_off(anyio_backend: tuple[str, Any]) -> tuple[str, ...]:
    ways: tuple[str, ...] = ("scope", "deadline", "twice")
    if anyio_backend[0] == "asyncio":
        ways += ("native",)
        if sys.version_info >= (3, 11):
            ways += ("asyncio.timeout",)
    return ways


async def cut_off(way: str, gate: Any, call: Callable[[], Awaitable[Any]]) -> list[BaseException]:
    """Have a call reach its gate, cut it off there, and go on in the same task.

    Return what it raised if anything.
    """

    async def when_reached(cancel: Callable[[], object]) -> None:
        await gate.reached.wait()
        await settle()
        cancel()

    async with anyio.create_task_group() as group:
        if way in ("native", "asyncio.timeout"):
            import asyncio

            try:
                if way == "native":
                    task = asyncio.current_task()
                    assert task is not None
                    group.start_soon(when_reached, task.cancel)
                    await call()
                else:
                    async with asyncio.timeout(None) as timeout:  # type: ignore[attr-defined,unused-ignore]
                        group.start_soon(when_reached, lambda: timeout.reschedule(0))
                        await call()
            except (asyncio.CancelledError, asyncio.TimeoutError) as exc:
                if sys.version_info >= (3, 11) and way == "native":
                    task.uncancel()
                return [exc]
            raise AssertionError("it was not cut off")

        def cancel() -> None:
            if way == "deadline":
                scope.deadline = anyio.current_time()
            else:
                scope.cancel()

        group.start_soon(when_reached, cancel)
        with anyio.CancelScope() as outer, anyio.CancelScope() as scope:
            try:
                await call()
            except anyio.get_cancelled_exc_class():
                if way == "twice":
                    outer.cancel()
                    with anyio.CancelScope():
                        await anyio.lowlevel.checkpoint()
                raise
        assert scope.cancel_called
    return []


async def tokens_before_the_error(iterator: Any) -> list[Any]:
    got = []
    with anyio.fail_after(20), pytest.raises(StreamCancelledError):
        async for item in iterator:
            got.append(item)
    return got


@pytest.mark.parametrize("kind", CALLS)
async def test_iteration_ends_and_the_handler_is_as_new(
    anyio_backend: tuple[str, Any], kind: str
) -> None:
    for way in ways_to_cut_off(anyio_backend):
        handler = AsyncIteratorCallbackHandler()
        gate = Gate(0)
        async with anyio.create_task_group() as group:
            read: list[Any] = []

            async def read_all(into: list[Any], iterator: Any) -> None:
                into.append(await tokens_before_the_error(iterator))

            group.start_soon(read_all, read, handler.aiter())
            await settle()
            await cut_off(way, gate, partial(CALLS[kind], gate, {"callbacks": [handler]}))
            # In the very task that was cut off, which goes on.
            with anyio.fail_after(20):
                await handler.done.wait()
        assert read == [[]]
        for _ in range(2):
            await Talker().ainvoke("x", {"callbacks": [handler]})
            assert await all_of(handler) == ["one ", "two ", "three"]


@pytest.mark.parametrize("kind", ("ainvoke", "agenerate", "llm", "tool", "retriever", "abatch"))
async def test_the_next_run_ends_what_nobody_has_read(
    anyio_backend: tuple[str, Any], kind: str
) -> None:
    for way in ways_to_cut_off(anyio_backend):
        handler = AsyncIteratorCallbackHandler()
        gate = Gate(0)
        await cut_off(way, gate, partial(CALLS[kind], gate, {"callbacks": [handler]}))
        await Talker().ainvoke("x", {"callbacks": [handler]})
        assert await tokens_before_the_error(handler) == []
        assert await all_of(handler) == ["one ", "two ", "three"]


@pytest.mark.parametrize("size", (1, 9))
async def test_tokens_come_before_the_error(anyio_backend: tuple[str, Any], size: int) -> None:
    for way in ways_to_cut_off(anyio_backend):
        for begun in (True, False):
            handler = AsyncIteratorCallbackHandler(size)
            gate = Gate(1)
            got: list[Any] = []

            async def read(handler: Any, got: list[Any]) -> None:
                got.append(await tokens_before_the_error(handler))

            async with anyio.create_task_group() as group:
                if begun:
                    group.start_soon(read, handler, got)
                    await settle()
                await cut_off(
                    way, gate, partial(Talker(before=gate).ainvoke, "x", {"callbacks": [handler]})
                )
                if not begun:
                    group.start_soon(read, handler, got)
            assert got == [["one "]]


async def test_silence_where_errors_are_not_raised() -> None:
    handler = AsyncIteratorCallbackHandler(raise_on_error=False)
    gate = Gate(1)
    model = Talker(before=gate)
    await cut_off("scope", gate, lambda: model.ainvoke("x", {"callbacks": [handler]}))
    assert await all_of(handler) == ["one "]


async def test_a_model_that_is_held_back_and_cut_off() -> None:
    handler = AsyncIteratorCallbackHandler(1)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:

            async def cancel() -> None:
                await settle()
                scope.cancel()

            group.start_soon(cancel)
            await Talker().ainvoke("x", {"callbacks": [handler]})
    assert await tokens_before_the_error(handler) == ["one "]


async def test_iterations_by_id_and_in_pairs() -> None:
    handler = AsyncIteratorCallbackHandler()
    gate, run_id = Gate(1), uuid4()
    model = Talker(before=gate)
    by_id = handler.aiter(run_id=run_id)
    await cut_off(
        "scope", gate, lambda: model.ainvoke("x", {"callbacks": [handler], "run_id": run_id})
    )
    assert await tokens_before_the_error(by_id) == ["one "]
    gate = Gate(1)
    model.before = gate
    await cut_off("scope", gate, lambda: model.ainvoke("x", {"callbacks": [handler]}))
    [(_, token)] = await tokens_before_the_error(handler.runs())
    assert token == "one "


async def test_a_part_of_a_run_that_goes_on() -> None:
    handler = AsyncIteratorCallbackHandler()
    gate, run_id = Gate(1), uuid4()
    part = handler.aiter(run_id=run_id)

    async def answer(text: str) -> str:
        await cut_off("scope", gate, lambda: Talker(before=gate).ainvoke(text, {"run_id": run_id}))
        assert await tokens_before_the_error(part) == ["one "]
        assert not handler.done.is_set()
        await Talker().ainvoke(text)
        return "done"

    if sys.version_info < (3, 11):
        pytest.skip("the context is handed on from Python 3.11 on")
    assert await RunnableLambda(answer).ainvoke("x", {"callbacks": [handler]}) == "done"
    assert await all_of(handler) == ["one ", "two ", "three"]


async def test_cut_off_before_every_handler_was_told() -> None:
    class Slow(AsyncCallbackHandler):
        async def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
            await gate(0)

        on_chain_start = on_chat_model_start

    for call in (
        lambda c: Talker().ainvoke("x", c),
        lambda c: read(Talker().astream("x", c)),
        lambda c: RunnableLambda(str).ainvoke("x", c),
        lambda c: (RunnableLambda(str) | RunnableLambda(str)).ainvoke("x", c),
    ):
        handler = AsyncIteratorCallbackHandler()
        gate = Gate(0)
        await cut_off("scope", gate, partial(call, {"callbacks": [handler, Slow()]}))
        assert await tokens_before_the_error(handler) == []


@pytest.mark.parametrize("kind", ("ainvoke", "agenerate", "tool", "retriever"))
async def test_an_error_that_is_kept(anyio_backend: tuple[str, Any], kind: str) -> None:
    """Its traceback keeps what the call has left behind.

    The next run, or the end of the task, tells.
    """
    if anyio_backend[0] == "trio":
        pytest.skip("whoever keeps a trio.Cancelled breaks the run")
    for way in set(ways_to_cut_off(anyio_backend)) - {"scope", "deadline", "twice"}:
        for next_run in (True, False):
            handler = AsyncIteratorCallbackHandler()
            gate = Gate(0)

            async def attempt(
                handler: Any, gate: Gate, way: str, kept: list[BaseException], next_run: bool
            ) -> None:
                kept += await cut_off(
                    way, gate, partial(CALLS[kind], gate, {"callbacks": [handler]})
                )
                if next_run:
                    await Talker().ainvoke("x", {"callbacks": [handler]})

            kept: list[BaseException] = []
            async with anyio.create_task_group() as group:
                group.start_soon(attempt, handler, gate, way, kept, next_run)
                assert await tokens_before_the_error(handler) == []
            assert kept
            if next_run:
                assert await all_of(handler) == ["one ", "two ", "three"]


async def test_calls_within_calls_are_not_mistaken() -> None:
    """A call goes on while the task that makes it makes others, in it, beside it and on its behalf."""
    handler = AsyncIteratorCallbackHandler()
    config: Any = {"callbacks": [handler]}

    @tool
    async def ask(x: int) -> str:
        """Ask."""
        gc.collect()
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(partial(Talker(words=["a"]).ainvoke, "x", config))
        await Talker(words=["b"]).ainvoke("x", config)
        gc.collect()
        assert not handler.done.is_set()
        return "x"

    assert await ask.ainvoke({"x": 1}, config) == "x"
    assert await all_of(handler) == ["a", "a", "b"]


async def test_steps_of_a_stream_in_several_tasks() -> None:
    handler = AsyncIteratorCallbackHandler()
    stream = Talker().astream("x", {"callbacks": [handler]})

    async def step() -> None:
        await stream.__anext__()

    for _ in range(4):
        async with anyio.create_task_group() as group:
            group.start_soon(step)
        gc.collect()
        assert not handler.done.is_set()
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()
    assert await all_of(handler) == ["one ", "two ", "three"]


async def test_a_run_begun_by_a_function_that_returns_its_manager() -> None:
    """The callback manager is gone, but there is what tells of the run."""

    async def begin(handler: Any) -> Any:
        manager = AsyncCallbackManager.configure([handler])
        [run] = await manager.on_llm_start({}, ["x"])
        return run

    handler = AsyncIteratorCallbackHandler()
    run = await begin(handler)
    gc.collect()
    await run.on_llm_new_token("a")
    await settle()
    assert not handler.done.is_set()
    await run.on_llm_end(LLMResult(generations=[]))
    assert await all_of(handler) == ["a"]

    run = await begin(handler)
    await run.on_llm_new_token("b")
    del run  # and nobody can tell of it any more
    assert await tokens_before_the_error(handler) == ["b"]


async def test_a_thread_that_goes_on_says_nothing_to_anybody(
    anyio_backend: tuple[str, Any],
) -> None:
    file = io.StringIO()
    over = threading.Event()
    gate = ThreadGate(1)

    class Blocking(StreamModel):
        def _generate(
            self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
        ) -> Any:
            try:
                for piece in self._stream(messages, stop, None, **kwargs):
                    run_manager.on_llm_new_token(piece.text, chunk=piece)
                return self._answer()
            finally:
                over.set()

    # On trio the call waits for its thread, which would wait for room.
    on_trio = anyio_backend[0] == "trio"
    handler = AsyncIteratorCallbackHandler(9 if on_trio else 1)
    printer = AsyncStreamingStdOutCallbackHandler(file)
    handlers = [handler] if on_trio else [handler, printer]
    scope = anyio.CancelScope()

    async def call() -> None:
        with scope:
            await Blocking(before=gate).ainvoke("x", {"callbacks": handlers})

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await anyio.to_thread.run_sync(gate.reached.wait, 20)
        scope.cancel()
        await settle()
        gate.open.set()
        assert await anyio.to_thread.run_sync(over.wait, 20)
        with anyio.fail_after(20):
            await handler.done.wait()
    words = ["one ", "two ", "three"] if on_trio else ["one "]
    assert await tokens_before_the_error(handler) == words
    assert file.getvalue() == ("" if on_trio else "".join(words))
    await Talker(words=["a"]).ainvoke("x", {"callbacks": handlers})
    assert await all_of(handler) == ["a"]
    assert not printer._runs


async def test_open_stream_is_not_ended_twice() -> None:
    for stop in (True, False):
        handler = AsyncIteratorCallbackHandler()
        gate = Gate(1)
        with anyio.CancelScope() as scope:
            async with (
                open_stream(Talker(before=gate), "x", {"callbacks": [handler]}) as stream,
            ):
                async for _ in stream.text:
                    (scope.cancel if stop else gate.open.set)()
        words = ["one "] if stop else ["one ", "two ", "three"]
        assert await (tokens_before_the_error if stop else all_of)(handler) == words
        await Talker(words=["a"]).ainvoke("x", {"callbacks": [handler]})
        assert await all_of(handler) == ["a"]


# The other handlers


async def test_the_final_answer(anyio_backend: tuple[str, Any]) -> None:
    for way in ways_to_cut_off(anyio_backend):
        handler = AsyncFinalIteratorCallbackHandler(answer_prefix_tokens=["one"])
        gate = Gate(2)
        model = Talker(before=gate)
        await cut_off(way, gate, partial(model.ainvoke, "x", {"callbacks": [handler]}))
        assert await tokens_before_the_error(handler) == ["two "]
        await Talker().ainvoke("x", {"callbacks": [handler]})
        assert await all_of(handler) == ["two ", "three"]


@pytest.mark.parametrize("kind", ("ainvoke", "astream", "abatch", "llm.agenerate"))
async def test_standard_output_keeps_no_run(anyio_backend: tuple[str, Any], kind: str) -> None:
    file = io.StringIO()
    handler = AsyncStreamingStdOutCallbackHandler(file)
    for way in ways_to_cut_off(anyio_backend):
        for number in (0, 1, 2):
            if kind.startswith("llm") and number:
                continue
            gate = Gate(number)
            await cut_off(way, gate, partial(CALLS[kind], gate, {"callbacks": [handler]}))
            await settle()
            assert not handler._runs
    # One id for two runs, as of a call that is tried again.
    file.seek(file.truncate(0))
    run_id = UUID(int=1)
    config: Any = {"callbacks": [handler], "run_id": run_id}
    gate = Gate(1)
    await cut_off("scope", gate, lambda: Talker(before=gate).ainvoke("x", config))
    await Talker().ainvoke("x", config)
    assert file.getvalue() == "one one two three"
    assert not handler._runs
