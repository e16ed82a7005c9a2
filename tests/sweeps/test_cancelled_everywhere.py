"""`open_stream` cancelled at its first, second, ... last scheduling point, in every way there is."""

from __future__ import annotations

import gc
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from functools import partial
from types import AsyncGeneratorType
from typing import Any

import anyio
import pytest

from cancelling import Victim, living, ticks, ways_to_cancel
from langchain_anyio import AsyncIteratorCallbackHandler, StreamCancelledError, open_stream
from langchain_anyio._runs.threads import handler_limiter, model_limiter
from limits import HANGS
from loopback import ProviderServer, Scenario
from loopback.models import MAKERS
from models import (
    AEventsModel,
    AGenerateModel,
    AStreamModel,
    AsyncRecorder,
    GenerateModel,
    Model,
    Recorder,
    StreamModel,
)
from tally import tried

pytest_plugins = ["loopback.fixtures"]

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

Use = Callable[[Model, Any], Awaitable[None]]


async def read(model: Model, config: Any) -> None:
    async with open_stream(model, "hi", config) as stream:
        assert "".join([delta async for delta in stream.text]) == "one two three"
        await stream


async def read_together(model: Model, config: Any) -> None:
    async with open_stream(model, "hi", config, max_buffer_size=1) as stream:

        async def all_pairs() -> None:
            assert len([pair async for pair in stream.interleave()]) > 0

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(all_pairs)
            tasks.start_soon(stream._wait)
            assert len([event async for event in stream]) > 3


async def await_alone(model: Model, config: Any) -> None:
    assert (await open_stream(model, "hi", config)).text == "one two three"


async def break_off(model: Model, config: Any) -> None:
    async with open_stream(model, "hi", config) as stream:
        async for _ in stream.text:
            break


async def raise_inside(model: Model, config: Any) -> None:
    with pytest.raises(KeyError):
        async with open_stream(model, "hi", config) as stream:
            async for _ in stream.text:
                raise KeyError


async def close_elsewhere(model: Model, config: Any) -> None:
    async with open_stream(model, "hi", config) as stream:
        async with anyio.create_task_group() as tasks:

            async def consume() -> None:
                try:
                    await stream
                except StreamCancelledError:
                    pass

            tasks.start_soon(consume)
            await ticks(4)
            tasks.start_soon(stream.aclose)


async def in_a_generator(model: Model, config: Any) -> None:
    async def endpoint() -> AsyncIterator[str]:
        async with open_stream(model, "hi", config) as stream:
            async for delta in stream.text:
                yield delta

    async with aclosing(endpoint()) as deltas:  # type: ignore[type-var]
        assert "".join([delta async for delta in deltas]) == "one two three"


async def left_by_break(model: Model, config: Any) -> None:
    async def endpoint() -> AsyncIterator[str]:
        async with open_stream(model, "hi", config) as stream:
            async for delta in stream.text:
                yield delta

    deltas: Any = endpoint()
    async with anyio.create_task_group() as tasks:
        async with aclosing(deltas):
            async for _ in deltas:
                break

            async def close() -> None:
                with anyio.CancelScope(shield=True):  # as who cleans up for another does
                    await deltas.aclose()

            async with anyio.create_task_group() as closing:
                closing.start_soon(close)
        tasks.cancel_scope.cancel()


async def left_to_the_collector(model: Model, config: Any) -> None:
    async def endpoint() -> AsyncIterator[str]:
        async with open_stream(model, "hi", config) as stream:
            async for delta in stream.text:
                yield delta

    deltas: Any = endpoint()
    # What of it is left when it is collected runs in a task of the loop's; that, too, is over at
    # the end.
    try:
        await deltas.__anext__()
    finally:
        with warnings.catch_warnings():
            # trio says of any async generator that is left to the collector that it was.
            warnings.filterwarnings("ignore", "Async generator .*endpoint", ResourceWarning)
            del deltas
            gc.collect(0)


async def not_entered(model: Model, config: Any) -> None:
    stream = open_stream(model, "hi", config)
    try:
        assert await stream.text == "one two three"
        assert [delta async for delta in stream.text]
    finally:
        await stream.aclose()


async def held_back(model: Model, config: Any) -> None:
    async with open_stream(model, "hi", config, max_buffer_size=1, replay=False) as stream:
        cursor = stream.text.__aiter__()
        assert await cursor.__anext__() == "one "
        await ticks(10)
        assert [delta async for delta in cursor] == ["two ", "three"]


async def by_a_handler(model: Model, config: Any) -> None:
    handler = AsyncIteratorCallbackHandler(1)
    config = {"callbacks": [*config["callbacks"], handler]}
    async with open_stream(model, "hi", config) as stream:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream._wait)
            assert "".join([token async for token in handler]) == "one two three"


async def by_a_handler_in_a_generator(model: Model, config: Any) -> None:
    """The generator is left by `break` after the first token, and closed by another task."""
    handler = AsyncIteratorCallbackHandler()
    config = {"callbacks": [*config["callbacks"], handler]}

    async def endpoint() -> AsyncIterator[str]:
        async for token in handler:
            yield token

    tokens: Any = endpoint()
    async with open_stream(model, "hi", config) as stream:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream._wait)
            try:
                async for _ in tokens:
                    break
            finally:
                with anyio.CancelScope(shield=True):
                    async with anyio.create_task_group() as closing:
                        closing.start_soon(tokens.aclose)
            await stream


async def with_survivors(model: Model, config: Any) -> None:
    """The stream is shared: who is cancelled takes nothing from the others."""
    stream = open_stream(model, "hi", config)
    got: list[str] = []
    over = anyio.Event()

    async def survive() -> None:
        with anyio.CancelScope(shield=True):
            got.extend([delta async for delta in stream.text])
            await stream
            over.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(survive)
        try:
            async for _ in stream.interleave():
                pass
            await stream
        finally:
            with anyio.CancelScope(shield=True):
                await over.wait()
            assert got == ["one ", "two ", "three"]


USES: dict[str, Use] = {
    use.__name__: use
    for use in (
        read,
        read_together,
        await_alone,
        break_off,
        raise_inside,
        close_elsewhere,
        in_a_generator,
        left_by_break,
        left_to_the_collector,
        not_entered,
        held_back,
        by_a_handler,
        by_a_handler_in_a_generator,
        with_survivors,
    )
}


async def before(number: int) -> None:
    await ticks(2)


def left_open() -> int:
    """Count what is left behind.

    Async generators that have not ended, and worker threads that are at work.
    """
    gc.collect()  # what was not closed is a ResourceWarning, which is an error
    generators = sum(
        isinstance(thing, AsyncGeneratorType) and thing.ag_frame is not None
        for thing in gc.get_objects()
    )
    limiters = (model_limiter(), handler_limiter())
    return generators + sum(limiter.statistics().borrowed_tokens for limiter in limiters)


async def attempt(
    how: str, tick: int, use: Use, model: Model, told: list[Any]
) -> tuple[Victim, bool]:
    """Cancel `use` after so many ticks, and return who was and whether it was over before."""
    used: list[bool] = []

    async def whole() -> None:
        await use(model, {"callbacks": told})
        used.append(True)
        await ticks(
            3
        )  # a cancellation that came is noticed here at the latest, unless it was swallowed

    with anyio.fail_after(HANGS):
        async with anyio.create_task_group() as group:
            victim = Victim(group, whole)
            if how != "before":
                await ticks(tick)
            over = bool(used) or victim.outcome != "running"
            if not over:
                victim.cancel("scope" if how == "before" else how)
                if how == "native twice":
                    await ticks(3)
                    victim.cancel("native")
    context = f"{how} after {tick} ticks: {victim.outcome}, {victim.value!r}"
    if over:
        assert victim.outcome in {"returned", "cancelled"}, context
    else:
        assert victim.outcome == "cancelled", context
    if "native" not in how:
        assert not victim.cancelling, context
    elif victim.outcome == "cancelled" and victim.cancelling is not None:
        assert victim.cancelling in (1, 2, 3), context
    return victim, over


async def sweep(
    anyio_backend: Any,
    use: Use,
    make: Callable[[], Model],
    handlers: Callable[[], list[Any]],
    stride: int = 1,
) -> None:
    """Cancel `use` at each of its first ticks, and then at each one `stride` further on, until it is over before."""
    for how in ("before", *ways_to_cancel(anyio_backend)):
        tick = 0
        while True:
            model, told = make(), handlers()
            tasks = living()
            _, over = await attempt(how, tick, use, model, told)
            context = f"{how} after {tick} ticks"
            # A task that only watched the cleanup ends a little later, and so does what was left to
            # the collector.
            with anyio.fail_after(HANGS):
                while living() > tasks:
                    await anyio.sleep(0)
            for recorder in told:
                starts = recorder.names().count("on_chat_model_start")
                assert starts <= 1, context
                assert len(recorder.ends()) == starts, f"{context}, {recorder.names()}"
            if "chunk 0" in model.trace:
                assert model.trace[-1] == "closed", context
            tried(f"Cancellation: a stream, at each of its steps, by {WORDS[how]}")
            if over or how == "before":
                break
            tick += 1 if tick < 5 else stride
            assert tick < 1000, f"never over ({how})"


WORDS = {
    "before": "a scope that was cancelled before",
    "scope": "a cancel scope",
    "deadline": "a deadline",
    "native": "Task.cancel()",
    "native twice": "Task.cancel(), and again during the cleanup",
}


def recorders(kind: str) -> list[Any]:
    if kind == "none":
        return []
    recorder: Any = AsyncRecorder() if kind == "async" else Recorder()
    recorder.run_inline = kind == "inline"
    return [recorder]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("handlers", ("none", "async", "inline"))
async def test_native_models(anyio_backend: Any, use: str, handlers: str) -> None:
    """A sample of the points where they can be cancelled."""
    make = partial(AStreamModel, before=before)
    opened = (
        left_open() if handlers == "async" else 0
    )  # looks at every object there is, which takes a while
    await sweep(anyio_backend, USES[use], make, lambda: recorders(handlers), stride=6)
    assert handlers != "async" or left_open() <= opened


@pytest.mark.long
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("handlers", ("none", "async", "inline"))
@pytest.mark.parametrize("kind", (AStreamModel, AEventsModel, AGenerateModel))
async def test_at_every_point(
    anyio_backend: Any, use: str, handlers: str, kind: type[Model]
) -> None:
    if kind is not AStreamModel and use in ("held_back", "with_survivors"):
        return  # what they give is in other pieces
    make = partial(AStreamModel, before=before) if kind is AStreamModel else kind
    opened = left_open()
    await sweep(anyio_backend, USES[use], make, lambda: recorders(handlers))
    assert left_open() <= opened


@pytest.mark.parametrize("kind", (AEventsModel, AGenerateModel))
async def test_other_ways_to_write_a_model(anyio_backend: Any, kind: type[Model]) -> None:
    await sweep(anyio_backend, read, kind, lambda: [AsyncRecorder()], stride=6)


# Threads and sockets take as many ticks as they like, so these end in time rather than after so
# many.

SAMPLE = (0, 1, 3, 7, 15, 40)


async def sample(
    anyio_backend: Any,
    use: Use,
    make: Callable[[], Model],
    sample: Iterable[int],
    what: str,
    check: Callable[[Model], None] = lambda _: None,
) -> None:
    for how in ("before", *ways_to_cancel(anyio_backend)):
        for tick in (0,) if how == "before" else sample:
            model, recorder = make(), Recorder()
            tasks = living()
            await attempt(how, tick, use, model, [recorder])
            with anyio.fail_after(HANGS):
                while living() > tasks:  # as what was left to the collector ends a little later
                    await anyio.sleep(0)
            context = f"{how} after {tick} ticks: {recorder.names()}"
            starts = recorder.names().count("on_chat_model_start")
            assert len(recorder.ends()) == starts, context
            check(model)
            tried(f"Cancellation: {what}")


def closed(model: Model) -> None:
    if "chunk 0" in model.trace:
        assert model.trace[-1] == "closed", model.trace


@pytest.mark.parametrize("kind", (StreamModel, GenerateModel, AStreamModel))
@pytest.mark.parametrize("use", ("read", "await_alone", "break_off"))
async def test_with_worker_threads(anyio_backend: Any, kind: type[Model], use: str) -> None:
    what = "a stream with sync handlers, or a model, in worker threads"
    await sample(anyio_backend, USES[use], kind, SAMPLE, what, closed)


@pytest.mark.long
@pytest.mark.parametrize("kind", (StreamModel, GenerateModel, AStreamModel))
@pytest.mark.parametrize("use", [use for use in USES if use not in ("held_back", "with_survivors")])
async def test_with_worker_threads_at_every_point(
    anyio_backend: Any, kind: type[Model], use: str
) -> None:
    what = "a stream with sync handlers, or a model, in worker threads"
    await sample(anyio_backend, USES[use], kind, range(250), what, closed)


async def read_a_provider(model: Any, config: Any) -> None:
    async with open_stream(model, "Tell me.", config) as stream:
        assert await stream.text == "Hello, world."
        await stream


async def leave_a_provider(model: Any, config: Any) -> None:
    async with open_stream(model, "Tell me.", config) as stream:
        async for _ in stream.text:
            break


def idle(server: ProviderServer) -> bool:
    """Whether no connection is left but the one that the loop's client keeps for the next run."""
    with server._changed:
        return server._changed.wait_for(lambda: len(server._connections) <= 1, 30)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("use", (read_a_provider, leave_a_provider))
async def test_with_a_provider(
    anyio_backend: Any, make: Any, use: Use, server: ProviderServer
) -> None:
    model = make(server.serve(Scenario()))
    what = "a stream of a provider's client on a socket"
    await sample(anyio_backend, use, lambda: model, SAMPLE, what)
    assert await anyio.to_thread.run_sync(idle, server)


@pytest.mark.long
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("use", (read_a_provider, leave_a_provider))
async def test_with_a_provider_at_every_point(
    anyio_backend: Any, make: Any, use: Use, server: ProviderServer
) -> None:
    model = make(server.serve(Scenario()))
    what = "a stream of a provider's client on a socket"
    await sample(anyio_backend, use, lambda: model, range(0, 500, 2), what)
    assert await anyio.to_thread.run_sync(idle, server)
