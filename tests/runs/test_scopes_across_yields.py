"""Models that hold a task group or a cancel scope open across their yields, as websocket, MCP and SSE clients do.

Such a scope stands inside those of the run, so the model has to be closed before these are left, in the same task.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.runnables import RunnableParallel

from cancelling import Victim, living, settle, ticks, ways_to_cancel
from langchain_anyio import (
    StreamCancelledError,
    StreamStalledError,
    open_stream,
)
from langchain_anyio._backends.current import backend
from limits import HANGS
from models import AStreamModel, AsyncRecorder, Model, chunk

pytestmark = pytest.mark.anyio


class Holding(Model):
    """Holds what its `kind` says open while it is suspended, and notes how that ended."""

    kind: str = "task group"
    before: Any = None
    scope: Any = None

    async def _heartbeat(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self.trace.append("heartbeat over")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            self.scope = tasks.cancel_scope
            tasks.start_soon(self._heartbeat)
            yield
            tasks.cancel_scope.cancel()

    async def _words(self) -> AsyncIterator[str]:
        for number, word in enumerate(self.words):
            if self.before is not None:
                await self.before(number)
            yield word

    async def _inner(self) -> AsyncIterator[str]:
        async with self._connection(), aclosing(self._words()) as words:
            async for word in words:
                yield word

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Any:
        try:
            if self.kind == "scope":
                with anyio.CancelScope() as self.scope, anyio.fail_after(3600):
                    async for word in self._words():
                        yield chunk(word)
            elif self.kind == "task group":
                async with anyio.create_task_group() as tasks:
                    self.scope = tasks.cancel_scope
                    tasks.start_soon(self._heartbeat)
                    async for word in self._words():
                        yield chunk(word)
                    tasks.cancel_scope.cancel()
            elif self.kind == "inner generator":
                async with aclosing(self._inner()) as words:
                    async for word in words:
                        yield chunk(word)
            else:
                async with AsyncExitStack() as stack:
                    for _ in range(3):
                        await stack.enter_async_context(self._connection())
                    async for word in self._words():
                        yield chunk(word)
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()  # as closing a connection does
            self.trace.append("closed")


KINDS = ("scope", "task group", "inner generator", "stack")
WHERE = ("held back", "a handler", "an inline handler", "the model", "no wait")


class Slow(AsyncCallbackHandler):
    """Waits in the event of that number."""

    def __init__(self, number: int, *, inline: bool = False) -> None:
        self.run_inline = inline
        self.left = number
        self.reached = anyio.Event()

    async def on_stream_event(self, event: Any, **kwargs: Any) -> None:
        self.left -= 1
        if not self.left:
            self.reached.set()
            await anyio.sleep_forever()


class Scene:
    """A model that waits where it is told to, and the stream of it."""

    def __init__(self, kind: str, where: str, **kwargs: Any) -> None:
        self.reached: Callable[[], Any] = settle
        handlers: list[Any] = [AsyncRecorder()]
        self.recorder = handlers[0]
        self.model = Holding(kind=kind, words=["x"] * 200)
        if where == "held back":
            kwargs["max_buffer_size"] = 2
        elif where == "the model":
            self.reached = self._block_model()
        elif "handler" in where:
            slow = Slow(5, inline="inline" in where)
            handlers.append(slow)
            self.reached = slow.reached.wait
        self.stream = open_stream(self.model, "hi", {"callbacks": handlers}, **kwargs)

    def _block_model(self) -> Callable[[], Any]:
        reached = anyio.Event()

        async def before(number: int) -> None:
            if number == 3:
                reached.set()
                await anyio.sleep_forever()

        self.model.before = before
        return reached.wait

    def check(self) -> None:
        heartbeats = {"scope": 0, "stack": 3}.get(self.model.kind, 1)
        assert sorted(self.model.trace) == ["closed"] + ["heartbeat over"] * heartbeats
        assert self.model.trace[-1] == "closed"
        assert len(self.recorder.ends()) == 1


@pytest.mark.parametrize("leaving", ("break", "error", "closed", "dropped"))
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("kind", KINDS)
async def test_it_is_left(kind: str, where: str, leaving: str) -> None:
    before = living()
    scene = Scene(kind, where)
    with anyio.fail_after(HANGS):
        if leaving == "dropped":
            cursor = scene.stream.text.__aiter__()
            await cursor.__anext__()
            await scene.reached()
            recorder, model = scene.recorder, scene.model
            over = scene.stream._run.over
            with suppress(StreamCancelledError):
                if not scene.stream.done:
                    with pytest.warns(ResourceWarning, match="dropped"):
                        del cursor, scene.stream
            await over()
            scene.recorder, scene.model = recorder, model
        else:
            with suppress(KeyError):
                async with scene.stream as stream:
                    async for _ in stream.text:
                        await scene.reached()
                        if leaving == "error":
                            raise KeyError
                        if leaving == "closed":
                            async with anyio.create_task_group() as tasks:
                                tasks.start_soon(stream.aclose)
                        break
            assert scene.stream.error is None or isinstance(
                scene.stream.error, StreamCancelledError
            )
        scene.check()
        while living() > before:
            await checkpoint()


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("kind", KINDS)
async def test_its_consumer_is_cancelled(
    kind: str, where: str, anyio_backend: tuple[str, Any]
) -> None:
    for how in ways_to_cancel(anyio_backend):
        scene = Scene(kind, where)

        async def use(scene: Scene = scene) -> None:
            async with scene.stream as stream:
                async for _ in stream.text:
                    await scene.reached()
                    await anyio.sleep_forever()

        with anyio.fail_after(HANGS):
            async with anyio.create_task_group() as group:
                victim = Victim(group, use)
                await ticks(200)
                victim.cancel(how)
        assert victim.outcome == "cancelled"
        scene.check()


@pytest.mark.parametrize("kind", KINDS)
async def test_it_stalls(kind: str) -> None:
    scene = Scene(kind, "the model", chunk_timeout=0.05)
    with anyio.fail_after(HANGS):
        async with scene.stream as stream:
            with pytest.raises(StreamStalledError):
                await stream
    scene.check()


@pytest.mark.parametrize("kind", KINDS)
async def test_with_a_limit_of_the_time_it_is_left_while_held_back(kind: str) -> None:
    scene = Scene(kind, "held back", chunk_timeout=3600)
    async with scene.stream as stream:
        async for _ in stream.text:
            await settle()
            break
    scene.check()


@pytest.mark.parametrize("inline", (False, True))
@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_fails_while_it_is_suspended(kind: str, inline: bool) -> None:
    def react(name: str) -> None:
        if name == "on_stream_event" and recorder.names().count(name) == 4:
            raise OSError("broken")

    recorder = AsyncRecorder(react)
    recorder.raise_error, recorder.run_inline = True, inline
    model = Holding(kind=kind)
    with anyio.fail_after(HANGS):
        async with open_stream(model, "hi", {"callbacks": [recorder]}) as stream:
            with pytest.raises(OSError, match="broken"):
                await stream
    assert model.trace[-1] == "closed"
    assert recorder.ends() == ["on_llm_error"]


class Failing(Holding):
    """Its heartbeat fails when it is told to."""

    fail: Any = None

    async def _heartbeat(self) -> None:
        await self.fail.wait()
        raise OSError("the connection was lost")


@pytest.mark.parametrize("kind", ("task group", "inner generator"))
async def test_its_task_group_fails_while_it_is_suspended(kind: str) -> None:
    model = Failing(kind=kind, fail=anyio.Event(), words=["x"] * 10)
    with anyio.fail_after(HANGS):
        async with open_stream(model, "hi", max_buffer_size=2) as stream:
            iterator = stream.text.__aiter__()
            await iterator.__anext__()
            await settle()
            model.fail.set()
            await settle()
            with pytest.raises(BaseException) as caught:
                async for _ in iterator:
                    pass
    # A group that the user's own code raised stays one.
    assert isinstance(caught.value.exceptions[0], OSError)  # type: ignore[attr-defined]
    assert model.trace == ["closed"]


async def test_its_own_scope_is_cancelled_while_it_is_suspended() -> None:
    class Limited(AStreamModel):
        scope: Any = None

        async def _astream(
            self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
        ) -> Any:
            with anyio.CancelScope() as self.scope:
                for _ in range(10):
                    yield chunk("word ")
            if self.scope.cancelled_caught:
                yield chunk("out of time")

    model = Limited()
    with anyio.fail_after(HANGS):
        async with open_stream(model, "hi", max_buffer_size=2) as stream:
            iterator = stream.text.__aiter__()
            await iterator.__anext__()
            await settle()
            model.scope.cancel()
            await settle()
            assert [delta async for delta in iterator][-1] == "out of time"
            assert (await stream).text.endswith("word out of time")


async def test_the_loop_ends_while_it_is_suspended() -> None:
    scenes = []

    async def main() -> None:
        for kind in KINDS:
            scene = Scene(kind, "held back")
            scenes.append(scene)
            await scene.stream.text.__aiter__().__anext__()
            await settle()

    name = backend()
    with anyio.fail_after(HANGS):
        await anyio.to_thread.run_sync(lambda: anyio.run(main, backend=name))
    for scene in scenes:
        scene.check()


# What cannot be closed properly: the worst is an error at the consumer.


class Refusing(Holding):
    """Yields on when it is closed, within its task group."""

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Any:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._heartbeat)
            for _ in range(3):
                try:
                    while True:
                        yield chunk("x")
                        await checkpoint()
                except BaseException:
                    continue


class Iterator:
    """Opens a task group in its first step, and has nothing to close it."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._group: Any = None

    def __aiter__(self) -> Iterator:
        return self

    async def __anext__(self) -> Any:
        if self._group is None:
            self._group = anyio.create_task_group()
            await self._group.__aenter__()
            self._group.start_soon(self._model._heartbeat)
        await checkpoint()
        return chunk("x")


class Unclosable(Holding):
    def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Any:
        return Iterator(self)


@pytest.mark.usefixtures("short_cleanup")
@pytest.mark.parametrize("kind", (Refusing, Unclosable))
@pytest.mark.parametrize("size", (2, 1024))
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_what_cannot_be_closed_ends_no_program(kind: Any, size: int) -> None:
    if backend() == "asyncio":
        pytest.skip("a task of asyncio may end with a task group open")
    model = kind()
    before = living()
    recorder = AsyncRecorder()
    with anyio.fail_after(HANGS):
        async with open_stream(
            model, "hi", {"callbacks": [recorder]}, max_buffer_size=size
        ) as stream:
            async for _ in stream.text:
                await settle()
                break
        assert len(recorder.ends()) == 1
        while living() > before:
            await checkpoint()
    assert model.trace == ["heartbeat over"]
    del stream
    gc.collect()  # Python complains of a generator that cannot be closed
    await settle()


class Misnesting(AsyncRecorder):
    """Opens what it is told to at one event, and closes it at another one, if ever."""

    def __init__(self, make: Callable[[], Any], opened: str, closed: str | None) -> None:
        super().__init__()
        self.run_inline = True
        self.react = self._react
        self._make, self._opened, self._closed = make, opened, closed
        self._held: Any = None

    async def _react(self, name: str) -> None:
        if name == self._opened and self._held is None:
            self._held = self._make()
            if hasattr(self._held, "__aenter__"):
                await self._held.__aenter__()
                self._held.start_soon(anyio.sleep_forever)
            else:
                self._held.__enter__()
        elif name == self._closed and self._held is not None:
            held, self._held = self._held, None
            if hasattr(held, "__aexit__"):
                held.cancel_scope.cancel()
                await held.__aexit__(None, None, None)
            else:
                held.__exit__(None, None, None)


@pytest.mark.usefixtures("short_cleanup")
@pytest.mark.parametrize("make", (anyio.CancelScope, anyio.create_task_group))
@pytest.mark.parametrize("opened", ("on_chat_model_start", "on_stream_event", "on_llm_end"))
@pytest.mark.parametrize("closed", ("on_stream_event", "on_llm_end", None))
@pytest.mark.parametrize("inline", (False, True))
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::RuntimeWarning")
async def test_a_handler_that_misnests_ends_no_program(
    make: Any, opened: str, closed: str | None, inline: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if backend() == "asyncio":
        pytest.skip("asyncio's tasks notice nothing of it, or hang in anyio's own scopes")
    before = living()
    handler, other = Misnesting(make, opened, closed), AsyncRecorder()
    handler.run_inline = inline
    model = Holding()
    with anyio.fail_after(HANGS):
        with suppress(BaseException):
            async with open_stream(model, "hi", {"callbacks": [handler, other]}) as stream:
                await stream
        assert stream.done
        while living() > before:
            await checkpoint()
    assert model.trace in ([], ["heartbeat over", "closed"])
    assert len(other.ends()) == other.names().count("on_chat_model_start")


# langchain-core and langgraph themselves, on trio


@pytest.mark.usefixtures("enabled_on_trio")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", KINDS)
async def test_steps_in_tasks_of_their_own(kind: str) -> None:
    """A parallel takes each step of its branches in another task.

    An error, and no end of the program.
    """
    if backend() == "asyncio":
        pytest.skip("what langchain-core itself does there")
    before = living()
    chain = RunnableParallel(a=Holding(kind=kind), b=AStreamModel())
    with anyio.fail_after(HANGS):
        with pytest.raises(BaseException, match=r"corrupted|misnesting|unhandled") as caught:
            async with aclosing(chain.astream("hi")) as stream:
                async for _ in stream:
                    pass
        assert not isinstance(caught.value, anyio.get_cancelled_exc_class())
        while living() > before:
            await checkpoint()
    texts = [piece.text async for piece in AStreamModel().astream("hi")]
    assert "".join(texts) == "one two three"


@pytest.mark.usefixtures("enabled_on_trio")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("leaving", ("read", "break", "a handler fails"))
@pytest.mark.parametrize("kind", KINDS)
async def test_in_a_node_of_a_graph(kind: str, leaving: str) -> None:
    if backend() == "asyncio":
        pytest.skip("what langchain-core itself does there")
    from langgraph.graph import START, MessagesState, StateGraph

    def react(name: str) -> Any:
        if name == "on_stream_event" and leaving == "a handler fails":
            raise OSError("broken")

    model = Holding(kind=kind, words=["x "] * 5)

    async def node(state: Any) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    handler = AsyncRecorder(react)
    handler.raise_error = True
    before = living()
    graph = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile()
    outcome: Any = None
    with anyio.fail_after(HANGS):
        async with open_stream(
            graph, {"messages": [("user", "hi")]}, {"callbacks": [handler]}
        ) as stream:
            try:
                if leaving == "break":
                    async for _ in stream.messages:
                        break
                else:
                    outcome = await stream.output()
            except BaseException as exc:
                outcome = exc
        while living() > before:
            await checkpoint()
    if leaving == "read":
        assert outcome["messages"][-1].text == "x x x x x "
    elif leaving == "a handler fails":
        assert isinstance(outcome, Exception)
