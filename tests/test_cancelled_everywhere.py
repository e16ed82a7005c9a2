"""`open_stream` cancelled at its first, second, ... last scheduling point, in every way there is."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from cancelling import Victim, living, ticks, ways_to_cancel
from langchain_anyio import StreamCancelledError, open_stream
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

pytestmark = pytest.mark.anyio

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
    )
}


async def before(number: int) -> None:
    await ticks(2)


async def sweep(
    anyio_backend: Any, use: Use, make: Callable[[], Model], handlers: Callable[[], list[Any]]
) -> None:
    """Cancel `use` after 0, 1, 2, ... ticks, until it is over before."""
    for how in ways_to_cancel(anyio_backend):
        for tick in range(200):
            model, told = make(), handlers()
            tasks = living()
            with anyio.fail_after(20):
                async with anyio.create_task_group() as group:
                    victim = Victim(group, lambda: use(model, {"callbacks": told}))  # noqa: B023
                    await ticks(tick)
                    over = victim.outcome != "running"
                    if not over:
                        victim.cancel(how)
                        if how == "native twice":
                            await ticks(3)
                            victim.cancel("native")
            assert victim.outcome in {"returned", "cancelled"}, repr(victim.value)
            context = f"{how} after {tick} ticks: {victim.outcome}"
            for recorder in told:
                starts = recorder.names().count("on_chat_model_start")
                assert starts <= 1, context
                assert len(recorder.ends()) == starts, f"{context}, {recorder.names()}"
            if "chunk 0" in model.trace:
                assert model.trace[-1] == "closed", context
            with anyio.fail_after(5):
                while living() > tasks:  # a task that only watched the cleanup ends a little later
                    await anyio.sleep(0)
            if over:
                break
        else:
            raise AssertionError(f"never over within 200 ticks ({how})")
    gc.collect()


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("handlers", ("none", "async", "inline"))
async def test_native_models(anyio_backend: Any, use: str, handlers: str) -> None:
    def make_handlers() -> list[Any]:
        if handlers == "none":
            return []
        recorder: Any = AsyncRecorder() if handlers == "async" else Recorder()
        recorder.run_inline = handlers == "inline"
        return [recorder]

    await sweep(anyio_backend, USES[use], lambda: AStreamModel(before=before), make_handlers)


@pytest.mark.parametrize("kind", (AEventsModel, AGenerateModel))
async def test_other_ways_to_write_a_model(anyio_backend: Any, kind: type[Model]) -> None:
    await sweep(anyio_backend, read, kind, lambda: [AsyncRecorder()])


@pytest.mark.parametrize("kind", (StreamModel, GenerateModel, AStreamModel))
@pytest.mark.parametrize("use", ("read", "await_alone", "break_off"))
async def test_with_worker_threads(anyio_backend: Any, kind: type[Model], use: str) -> None:
    """Threads take as many ticks as they like, so these end in time rather than after so many."""
    for how in ways_to_cancel(anyio_backend):
        for tick in (*range(12), 15, 20, 30, 50, 80, 120):
            model, recorder = kind(), Recorder()
            with anyio.fail_after(20):
                async with anyio.create_task_group() as group:
                    victim = Victim(group, lambda: USES[use](model, {"callbacks": [recorder]}))  # noqa: B023
                    await ticks(tick)
                    victim.cancel(how)
            assert victim.outcome in {"returned", "cancelled"}, repr(victim.value)
            starts = recorder.names().count("on_chat_model_start")
            assert len(recorder.ends()) == starts, f"{how} {tick}: {recorder.names()}"
            if "chunk 0" in model.trace:
                assert model.trace[-1] == "closed", f"{how} {tick}: {model.trace}"
