"""Streams of the providers' models, over real sockets, on every backend, without a warning."""

from __future__ import annotations

import asyncio
import functools
import gc
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_openai import StreamChunkTimeoutError

from langchain_anyio import (
    StreamCancelledError,
    StreamStalledError,
    StreamTruncatedError,
    open_stream,
)
from limits import HANGS
from loopback import ProviderServer, Reply, Scenario, Text
from loopback.models import MAKERS, SCENARIOS, chat_completions, described, responses, sdk_client
from test_accumulator import newest

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from langchain_core.language_models import BaseChatModel

    Maker = Callable[..., BaseChatModel]

pytest_plugins = ["loopback.fixtures"]

makers = pytest.mark.parametrize("make", MAKERS)


async def outcome(stream: Any) -> dict[str, Any]:
    """All that a stream shows, ids of its run aside."""
    shown: dict[str, Any] = {"text": [], "reasoning": [], "tool_calls": [], "events": []}
    for name in ("text", "reasoning", "tool_calls"):
        try:
            async for delta in getattr(stream, name):
                shown[name].append(delta)
        except Exception as error:
            shown[f"error of {name}"] = described(error)
    try:
        async for event in stream:
            shown["events"].append(_without_ids(event))
    except Exception as error:
        shown["error of events"] = described(error)
    try:
        shown["message"] = _without_ids((await stream.output).model_dump())
    except Exception as error:
        shown["error"] = described(error)
    return shown


def _without_ids(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key not in {"id", "message_id"}}


@functools.cache
def as_the_original(make: Maker, scenario: Scenario, server: ProviderServer) -> Any:
    """What langchain-core shows of a scenario, on asyncio, with a client that is closed after."""
    endpoint = server.serve(scenario)

    async def run() -> Any:
        model = make(endpoint)
        try:
            return await outcome(await model.astream_events("Tell me.", version="v3"))
        finally:
            await sdk_client(model).close()

    return asyncio.run(run())


@newest
@makers
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
def test_a_stream_shows_what_the_original_shows(
    make: Maker, scenario: Scenario, server: ProviderServer, run: Any
) -> None:
    expected = as_the_original(make, scenario, server)
    endpoint = server.serve(scenario)

    async def main() -> Any:
        async with open_stream(make(endpoint), "Tell me.") as stream:
            return await outcome(stream)

    shown = run(main)
    if scenario.fault == "truncate":  # which the original takes for the end
        cut = described(StreamTruncatedError())
        for name in ("text", "reasoning", "tool_calls"):
            assert shown[name] == expected[name]
            assert shown[f"error of {name}"] == cut
        assert shown["events"] == expected["events"][: len(shown["events"])]
        assert shown["error"] == cut
        assert "message" not in shown
    else:
        assert shown == expected
    assert ("error" in expected) != ("message" in expected)
    assert len(endpoint.exchanges) == 1
    assert server.wait_all_closed()


@makers
def test_streams_of_one_model_on_one_loop_after_another(
    make: Maker, server: ProviderServer, run: Any
) -> None:
    endpoint = server.serve(Scenario())
    model = make(endpoint)

    async def main() -> None:
        for _ in range(3):
            async with open_stream(model, "Tell me.") as stream:
                assert await stream.text == "Hello, world."

    for _ in range(2):
        asyncio.run(main())
        run(main)
    assert server.wait_all_closed()
    connections = [exchange.connection for exchange in endpoint.exchanges]
    assert len(connections) == 12
    for number in range(0, 12, 3):
        of_loop = set(connections[number : number + 3])
        # Whether a connection can be used again is the SDK's doing, the same on each loop.
        assert len(of_loop) == len(set(connections[:3]))
        assert not of_loop & set(connections[number + 3 :])
    gc.collect()


@makers
@pytest.mark.anyio
async def test_many_streams_at_a_time(make: Maker, server: ProviderServer) -> None:
    endpoint = server.serve(Scenario(Reply(Text(*(f"{number} " for number in range(50))))))
    model = make(endpoint)
    whole = "".join(f"{number} " for number in range(50))

    async def read() -> None:
        async with open_stream(model, "Tell me.") as stream:
            assert await stream.text == whole

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(read)
    assert len(endpoint.exchanges) == 10


@makers
@pytest.mark.anyio
async def test_a_delta_is_shown_as_it_comes(make: Maker, server: ProviderServer) -> None:
    endpoint = server.serve(Scenario(gated=True))

    async def let_through(text: bytes) -> None:
        exchange = await endpoint.exchange()
        exchange.release_through(text)

    with anyio.fail_after(HANGS):
        async with open_stream(make(endpoint), "Tell me.") as stream:
            deltas = aiter(stream.text)
            async with anyio.create_task_group() as group:
                group.start_soon(let_through, b"Hello")
                assert await anext(deltas) == "Hello"
            endpoint.exchanges[0].release(100)
            assert [delta async for delta in deltas] == [", ", "world", "."]


async def _leave_by_break(stream: Any) -> None:
    async with stream:
        async for _ in stream:
            break


async def _leave_by_error(stream: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        async with stream:
            async for _ in stream:
                raise ZeroDivisionError


async def _leave_by_cancellation(stream: Any) -> None:
    with anyio.CancelScope() as scope:
        async with stream:
            async for _ in stream:
                scope.cancel()
                await anyio.sleep_forever()
    assert scope.cancelled_caught


async def _leave_a_generator(stream: Any) -> None:
    async def generator() -> AsyncIterator[Any]:
        async with stream:
            async for event in stream:
                yield event

    events: Any = generator()
    await anext(events)
    await events.aclose()


async def _close(stream: Any) -> None:
    async for _ in stream:
        break
    await stream.aclose()


async def _close_while_waiting(stream: Any) -> None:
    async def read() -> None:
        with pytest.raises(StreamCancelledError):
            await stream.output

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        async for _ in stream:
            break
        await stream.aclose()


@makers
@pytest.mark.parametrize(
    "leave",
    (
        _leave_by_break,
        _leave_by_error,
        _leave_by_cancellation,
        _leave_a_generator,
        _close,
        _close_while_waiting,
    ),
)
@pytest.mark.anyio
async def test_leaving_closes_the_connection(
    make: Maker, leave: Any, server: ProviderServer
) -> None:
    endpoint = server.serve(Scenario(fault="stall", after=5))

    errors: list[BaseException] = []

    class Ends(AsyncCallbackHandler):
        async def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
            errors.append(error)

    with anyio.fail_after(HANGS):
        await leave(open_stream(make(endpoint), "Tell me.", {"callbacks": [Ends()]}))
        assert [type(error) for error in errors] == [StreamCancelledError]
        # Nothing of ours runs from here on: the loop is held up until the server has seen it.
        assert endpoint.exchanges[0].closed.wait_blocking()
    gc.collect()


@makers
@pytest.mark.anyio
async def test_a_stall_ends_the_stream(make: Maker, server: ProviderServer) -> None:
    endpoint = server.serve(Scenario(fault="stall", after=5))
    with anyio.fail_after(HANGS):
        async with open_stream(make(endpoint), "Tell me.", chunk_timeout=0.4) as stream:
            with pytest.raises(StreamStalledError):
                await stream
            snapshot = stream.snapshot()
        assert endpoint.exchanges[0].closed.wait_blocking()
    assert snapshot.response_metadata["partial"] is True


@pytest.mark.parametrize("make", (chat_completions, responses))
@pytest.mark.anyio
async def test_the_chunk_timeout_of_the_model_ends_the_stream(
    make: Maker, server: ProviderServer
) -> None:
    endpoint = server.serve(Scenario(fault="stall", after=5))
    model = make(endpoint, stream_chunk_timeout=0.4)
    with anyio.fail_after(HANGS):
        async with open_stream(model, "Tell me.") as stream:
            with pytest.raises(StreamChunkTimeoutError) as caught:
                await stream
        assert endpoint.exchanges[0].closed.wait_blocking()
    assert caught.value.timeout_s == 0.4
    assert caught.value.chunks_received == 5


@makers
@pytest.mark.filterwarnings("ignore:a stream of open_stream\\(\\) was dropped:ResourceWarning")
@pytest.mark.anyio
async def test_a_stream_that_is_dropped_closes_the_connection(
    make: Maker, server: ProviderServer
) -> None:
    endpoint = server.serve(Scenario(fault="stall", after=5))
    with anyio.fail_after(HANGS):
        stream = open_stream(make(endpoint), "Tell me.")
        async for _ in stream:
            break
        del stream, _
        gc.collect()
        assert await endpoint.exchanges[0].closed.wait()
