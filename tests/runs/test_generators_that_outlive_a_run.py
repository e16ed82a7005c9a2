"""Async generators that are first read in a run's step.

What the run alone holds is closed with it, nothing else.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint
from langchain_core.runnables import RunnableGenerator, RunnableLambda, RunnableParallel

from cancelling import Victim, settle, ticks, ways_to_cancel
from langchain_anyio import StreamStalledError, open_stream
from langchain_anyio._backends.current import backend
from limits import HANGS
from models import AsyncRecorder, Model, chunk

pytestmark = pytest.mark.anyio


async def numbers(closed: list[str], name: str = "feed") -> AsyncIterator[str]:
    number = 0
    try:
        while True:
            await checkpoint()
            number += 1
            yield f"{number}"
    finally:
        with anyio.CancelScope(shield=True):
            await checkpoint()
        closed.append(name)


class Reading(Model):
    """Reads one number from what it shares with other runs, then does what `after` says."""

    source: Any = None
    after: Any = None

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Any:
        kept = self.source
        yield chunk(await kept.__anext__())
        if self.after is not None:
            await self.after()
        yield chunk("")


async def fail() -> None:
    raise OSError("broken")


WAYS = ("read", "break", "fails", "stalls", "cancelled", "a handler fails")


async def use(model: Model, way: str) -> str:
    """Run a model that gives one word and then does what belongs to `way`; return the word."""
    handlers = []
    text = ""
    if way == "a handler fails":
        handlers.append(AsyncRecorder(lambda name: fail() if name == "on_stream_event" else None))
        handlers[0].raise_error = True
    limit = 0.05 if way == "stalls" else None
    with anyio.CancelScope() as scope, suppress(OSError, StreamStalledError):
        async with open_stream(model, "hi", {"callbacks": handlers}, chunk_timeout=limit) as stream:
            async for delta in stream.text:
                text += delta
                if way == "break":
                    break
                if way == "cancelled":
                    scope.cancel()
            else:
                await stream
    return text


@pytest.mark.parametrize("way", WAYS)
async def test_a_feed_that_runs_share(way: str) -> None:
    closed: list[str] = []
    after = {"fails": fail, "read": None}.get(way, anyio.sleep_forever)
    model = Reading(source=numbers(closed), after=after)
    read = Reading(source=model.source)
    with anyio.fail_after(HANGS):
        if way == "a handler fails":
            await use(model, way)  # at the first event, before anything is read
        else:
            assert await use(model, way) == "1"
        following = 1 if way == "a handler fails" else 2
        first = await use(read, "read")
        assert int(first) in (following, 2)
        assert await use(read, "read") == str(int(first) + 1)
    assert closed == []
    await model.source.aclose()
    assert closed == ["feed"]


async def test_a_feed_that_two_runs_read_at_the_same_time() -> None:
    closed: list[str] = []
    go_on = anyio.Event()
    source = numbers(closed)
    texts: list[str] = []

    async def run(after: Any) -> None:
        texts.append(await use(Reading(source=source, after=after), "read"))

    async with anyio.create_task_group() as group:
        group.start_soon(run, go_on.wait)
        await settle()
        await run(None)
        go_on.set()
    assert texts == ["2", "1"]
    assert closed == []
    await source.aclose()


@pytest.mark.parametrize("inline", (False, True))
async def test_a_generator_of_a_handlers_own(inline: bool) -> None:
    closed: list[str] = []
    source = numbers(closed)
    got: list[str] = []

    async def react(name: str) -> None:
        if name == "on_stream_event":
            got.append(await source.__anext__())

    handler = AsyncRecorder(react)
    handler.run_inline = inline
    for _ in range(3):
        async with open_stream(Reading(source=numbers([])), "hi", {"callbacks": [handler]}) as s:
            await s
    assert got == [str(number) for number in range(1, len(got) + 1)]
    assert len(got) > 6
    assert closed == []
    await source.aclose()


@pytest.mark.parametrize("way", ("read", "fails"))
async def test_a_connection_that_the_first_run_opens_and_keeps(way: str) -> None:
    closed: list[str] = []

    @asynccontextmanager
    async def connect() -> AsyncIterator[Any]:
        async with aclosing(numbers(closed, "connection")) as reader:  # type: ignore[type-var]
            await reader.__anext__()  # the handshake
            yield reader

    class Connected(Reading):
        pool: Any = None

        async def _astream(self, *args: Any, **kwargs: Any) -> Any:
            if self.source is None:
                self.source = await self.pool.enter_async_context(connect())
            async for piece in super()._astream(*args, **kwargs):
                yield piece

    async with AsyncExitStack() as pool:
        model = Connected(pool=pool, after=fail if way == "fails" else None)
        assert [await use(model, way) for _ in range(3)] == ["2", "3", "4"]
        assert closed == []
    assert closed == ["connection"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks do not begin at once")
def test_a_background_task_that_begins_at_once() -> None:
    got: list[str] = []
    closed: list[str] = []
    tasks = []

    async def background() -> None:
        async with aclosing(numbers(closed)) as source:  # type: ignore[type-var]
            async for number in source:
                got.append(number)
                await asyncio.sleep(0)
                if number == "500":
                    break

    class Starting(Model):
        async def _astream(self, *args: Any, **kwargs: Any) -> Any:
            tasks.append(asyncio.ensure_future(background()))
            yield chunk("word")

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with open_stream(Starting(), "hi") as stream:
            await stream
        assert "500" not in got
        await tasks[0]

    asyncio.run(main())
    assert got[-1] == "500"


class Wrapper:
    """Reads itself from within its generator, as the streams of the providers' clients do."""

    def __init__(self, closed: list[str]) -> None:
        self.closed = closed
        self.iterator = self._read()

    async def _read(self) -> AsyncIterator[str]:
        try:
            async for number in numbers(self.closed, "inner"):
                yield number
                self.last = number
        finally:
            self.closed.append("wrapper")


class Leaving(Model):
    """Leaves what it reads to whoever closes it."""

    shape: str = ""
    after: Any = None

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Any:
        if self.shape == "cycle":
            wrapper = Wrapper(self.trace)
            source = wrapper.iterator
        elif self.shape == "local":
            source = numbers(self.trace, "inner")
        else:
            source = self._handed_on(numbers(self.trace, "inner"))
        async for number in source:
            yield chunk(number)
            if self.after is not None:
                await self.after()
                self._fail_below(source)
            if number == "2":
                return

    async def _handed_on(self, source: Any) -> Any:
        try:
            async for number in source:
                yield number
        finally:
            self.trace.append("wrapper")

    def _fail_below(self, *args: Any) -> None:
        raise OSError("broken")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", ("local", "nested", "cycle"))
async def test_what_hangs_on_the_model_alone_is_closed_before_the_block_is_left(
    shape: str, way: str, anyio_backend: tuple[str, Any]
) -> None:
    after: Any = {"fails": checkpoint, "read": None}.get(way, anyio.sleep_forever)
    model = Leaving(shape=shape, after=after)
    with anyio.fail_after(HANGS):
        await use(model, way)
    nothing_read = way == "a handler fails" and model.trace == []
    assert nothing_read or model.trace == (["wrapper"] if shape != "local" else []) + ["inner"]


@pytest.mark.parametrize("shape", ("local", "nested", "cycle"))
async def test_the_same_when_its_consumer_is_cancelled(
    shape: str, anyio_backend: tuple[str, Any]
) -> None:
    for how in ways_to_cancel(anyio_backend):
        for held_back in (False, True):
            model = Leaving(shape=shape, after=None if held_back else anyio.sleep_forever)

            async def read(model: Model = model, held_back: bool = held_back) -> None:
                async with open_stream(model, "hi", max_buffer_size=1) as stream:
                    async for _ in stream.text:
                        await anyio.sleep_forever()

            async with anyio.create_task_group() as group:
                victim = Victim(group, read)
                await ticks(100)
                victim.cancel(how)
            assert victim.outcome == "cancelled"
            assert model.trace == (["wrapper"] if shape != "local" else []) + ["inner"]


async def test_the_locals_of_an_errors_frames_are_still_there() -> None:
    model = Leaving(shape="local", after=checkpoint)
    with pytest.raises(OSError, match="broken") as caught:
        async with open_stream(model, "hi") as stream:
            await stream
    assert "number" in caught.traceback[-2].frame.f_locals
    assert model.trace == ["inner"]


@pytest.mark.parametrize("way", ("read", "break"))
@pytest.mark.parametrize("error", (SystemExit, KeyboardInterrupt))
async def test_an_exit_in_the_cleanup_of_what_the_run_left_is_not_lost(
    error: type[BaseException], way: str
) -> None:
    class Exiting(Model):
        async def _read(self) -> AsyncIterator[str]:
            try:
                while True:
                    await checkpoint()
                    yield "word "
            finally:
                self.trace.append("closed")
                raise error

        async def _astream(self, *args: Any, **kwargs: Any) -> Any:
            number = 0
            async for word in self._read():
                yield chunk(word)
                number += 1
                if number == 3:
                    break

    model = Exiting()

    async def main() -> None:
        async with open_stream(model, "hi", max_buffer_size=1) as stream:
            async for _ in stream.text:
                if way == "break":
                    break
        await anyio.sleep(0)

    # asyncio's loop ends with it, as by any task that raises it; on trio the block does.
    name = backend()

    def run() -> None:
        with pytest.raises(error):
            anyio.run(main, backend=name)

    with anyio.fail_after(HANGS):
        await anyio.to_thread.run_sync(run)
    assert model.trace == ["closed"]


# langchain-core itself, on trio


CALLS = ("ainvoke", "astream", "abatch", "astream_events", "parallel")


@pytest.mark.usefixtures("enabled_on_trio")
@pytest.mark.parametrize("fails", (False, True))
@pytest.mark.parametrize("call", CALLS)
async def test_a_feed_that_calls_of_a_chain_share(call: str, fails: bool) -> None:
    closed: list[str] = []
    source: Any = numbers(closed)
    got: list[str] = []

    async def read(value: Any) -> Any:
        got.append(await source.__anext__())
        if fails:
            raise OSError("broken")
        return value

    chain: Any = RunnableLambda(read) | RunnableLambda(lambda value: value)
    if call == "parallel":
        chain = RunnableParallel(a=chain)

    async def use() -> None:
        if call == "ainvoke":
            await chain.ainvoke(1)
        elif call == "abatch":
            await chain.abatch([1])
        else:
            arguments = {"version": "v2"} if call == "astream_events" else {}
            method = chain.astream_events if arguments else chain.astream
            async with aclosing(method(1, **arguments)) as stream:
                async for _ in stream:
                    pass

    with anyio.fail_after(HANGS):
        for _ in range(3):
            with suppress(OSError):
                await use()
    assert got == ["1", "2", "3"]
    assert closed == []
    assert await source.__anext__() == "4"
    await source.aclose()


@pytest.mark.usefixtures("enabled_on_trio")
async def test_what_hangs_on_a_chains_step_alone_is_closed_with_the_call(
    anyio_backend: tuple[str, Any],
) -> None:
    if anyio_backend[0] != "trio":
        pytest.skip("what langchain-core itself does there")
    for how in ("read", "break", "fails"):
        closed: list[str] = []

        async def generate(chunks: Any, closed: list[str] = closed, how: str = how) -> Any:
            wrapper = Wrapper(closed)
            source = numbers(closed, "local")
            await source.__anext__()
            async for number in wrapper.iterator:
                yield number
                if number == "2" and how == "fails":
                    raise OSError("broken")
                if number == "3":
                    break

        errors = []
        try:
            async with aclosing(RunnableGenerator(generate).astream(1)) as stream:
                async for _ in stream:
                    if how == "break":
                        break
        except OSError as exc:
            errors.append(exc)
        assert len(errors) == (how == "fails")
        assert sorted(closed) == ["inner", "local", "wrapper"], how
        assert closed.index("wrapper") < closed.index("inner")
