"""Provider models run on every event loop with their own clients, over real sockets."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import socket
import threading
import weakref
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import anthropic
import anyio
import openai
import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from langchain_openai import StreamChunkTimeoutError
from pydantic import BaseModel

from langchain_anyio import StreamTruncatedError
from langchain_anyio._backends.event_loops import Loop
from langchain_anyio._providers.table import for_current_loop
from limits import HANGS
from loopback import Endpoint, ProviderServer, Reply, Scenario, Text
from loopback.models import (
    MAKERS,
    OPTIONS,
    SCENARIOS,
    anthropic_messages,
    azure,
    chat_completions,
    described,
    responses,
    sdk_client,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from langchain_core.language_models import BaseChatModel

    Maker = Callable[..., BaseChatModel]

pytest_plugins = ["loopback.fixtures"]

# The SDKs do not close the generators that they nest; on trio each one says so when it is
# collected.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:Async generator '(openai|anthropic|httpx2?|httpcore2?|langchain_openai|langchain_anthropic)\\.:ResourceWarning"
    ),
]

MESSAGES = [HumanMessage("Tell me.")]

makers = pytest.mark.parametrize("make", MAKERS)


def stream(model: BaseChatModel, **kwargs: Any) -> AsyncGenerator[Any, None]:
    return model._astream(MESSAGES, **kwargs)  # type: ignore[return-value]


async def chunks_and_error(model: BaseChatModel, **kwargs: Any) -> tuple[list[Any], Any]:
    chunks: list[Any] = []
    try:
        async for chunk in stream(model, **kwargs):
            chunks.append(chunk.model_dump())
    except Exception as error:
        return chunks, described(error)
    return chunks, None


@functools.cache
def as_the_original(make: Maker, scenario: Scenario, server: ProviderServer) -> Any:
    """What langchain-core makes of a scenario, on asyncio, with a client that is closed after."""
    endpoint = server.serve(scenario)

    async def run() -> Any:
        model = make(endpoint)
        try:
            return await chunks_and_error(model)
        finally:
            await sdk_client(model).close()

    return asyncio.run(run())


@functools.cache
def reuses_connections(make: Maker, server: ProviderServer) -> bool:
    """Whether the provider's SDK reads a stream so far that its connection can be used again."""
    endpoint = server.serve(Scenario())

    async def run() -> None:
        model = make(endpoint)
        for _ in range(2):
            await chunks_and_error(model)
        await sdk_client(model).close()

    asyncio.run(run())
    first, second = endpoint.exchanges
    return first.connection is second.connection


def http_client(model: Any) -> Any:
    sdk = sdk_client(model)
    return getattr(sdk, "_target", sdk)._client


@makers
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_the_same_chunks_and_errors(
    make: Maker, scenario: Scenario, server: ProviderServer, run: Any
) -> None:
    chunks, error = as_the_original(make, scenario, server)
    endpoint = server.serve(scenario)

    async def ours() -> Any:
        return await chunks_and_error(for_current_loop(make(endpoint)))

    our_chunks, our_error = run(ours)
    # The SDKs take these for the end; an error only releases that do not know errors in a stream.
    if scenario.fault == "truncate" or (scenario.fault == "error" and error is None):
        assert error is None
        error = (StreamTruncatedError, str(StreamTruncatedError()))
    assert our_chunks == chunks
    assert our_error == error
    assert len(endpoint.exchanges) == 1
    assert error is not None or (scenario.status == 200 and scenario.fault not in {"reset", "end"})


@makers
def test_one_model_on_one_loop_after_another(make: Maker, server: ProviderServer, run: Any) -> None:
    endpoint = server.serve(Scenario())
    model = make(endpoint)
    before = dict(model.__dict__)

    async def main() -> str:
        text = ""
        for _ in range(2):
            async for chunk in stream(for_current_loop(model)):
                text += chunk.text
        return text

    for _ in range(2):
        assert asyncio.run(main()) == "Hello, world." * 2
        assert run(main) == "Hello, world." * 2
    assert model.__dict__ == before
    connections = [exchange.connection for exchange in endpoint.exchanges]
    if reuses_connections(make, server):
        assert connections[::2] == connections[1::2]
    assert len(set(connections[::2])) == 4
    assert all(connection.closed.is_set() or server.wait_all_closed() for connection in connections)
    gc.collect()


@makers
def test_connections_are_closed_at_the_end_of_the_loop(
    make: Maker, server: ProviderServer, run: Any
) -> None:
    endpoint = server.serve(Scenario(Reply(Text(*"abc"))))
    reused = reuses_connections(make, server)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(chunks_and_error, for_current_loop(make(endpoint)))
        if reused:
            assert not any(exchange.closed.is_set() for exchange in endpoint.exchanges)
        assert all(exchange.finished.is_set() for exchange in endpoint.exchanges)

    run(main)
    assert server.wait_all_closed()
    assert len(endpoint.exchanges) == 5


def test_the_end_of_a_loop_closes_a_connection_in_use(server: ProviderServer, run: Any) -> None:
    endpoint = server.serve(Scenario(fault="stall", after=3))
    responses: list[Any] = []

    async def main() -> None:
        model: Any = for_current_loop(chat_completions(endpoint))
        responses.append(await model.async_client.create(model="m", messages=[], stream=True))
        assert not endpoint.exchanges[0].closed.is_set()

    run(main)
    assert server.wait_all_closed()


@makers
def test_a_loop_that_has_ended_is_not_kept(make: Maker, server: ProviderServer, run: Any) -> None:
    model = make(server.serve(Scenario()))

    async def main() -> weakref.ref[Any]:
        await chunks_and_error(for_current_loop(model))
        return weakref.ref(Loop().token)

    loop = run(main)
    gc.collect()
    assert loop() is None


def test_loops_in_threads(server: ProviderServer, run: Any) -> None:
    endpoint = server.serve(Scenario(gated=True))
    model = chat_completions(endpoint)
    outcomes: list[Any] = []
    threads = [
        threading.Thread(
            target=lambda: outcomes.append(run(lambda: chunks_and_error(for_current_loop(model))))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for number in range(4):
        exchange = asyncio.run(endpoint.exchange(number))
        exchange.release(100)
    for thread in threads:
        thread.join(60)
    assert len(outcomes) == 4
    assert all(outcome == outcomes[0] and outcome[1] is None for outcome in outcomes)
    assert server.wait_all_closed()


@makers
@pytest.mark.anyio
async def test_models_share_a_client_if_their_settings_are_the_same(
    make: Maker, server: ProviderServer
) -> None:
    endpoint = server.serve(Scenario())
    shared = http_client(for_current_loop(make(endpoint)))
    assert http_client(for_current_loop(make(endpoint, timeout=None))) is shared
    assert http_client(for_current_loop(make(endpoint))) is not http_client(make(endpoint))
    assert http_client(for_current_loop(make(endpoint, timeout=7.5))) is not shared
    assert http_client(for_current_loop(make(server.serve(Scenario())))) is not shared


def settings(http: Any) -> Any:
    pools = [
        getattr(transport, "_pool", None) for transport in [http._transport, *http._mounts.values()]
    ]
    return (
        http.base_url,
        http.timeout,
        http.follow_redirects,
        [str(pattern.pattern) for pattern in http._mounts],
        [
            pool
            and (
                type(pool),
                pool._max_connections,
                pool._max_keepalive_connections,
                pool._keepalive_expiry,
                pool._socket_options,
                pool._ssl_context.verify_mode,
                getattr(pool, "_proxy_url", None),
            )
            for pool in pools
        ],
    )


PROXY = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("make", "options"),
    (
        (chat_completions, {}),
        (chat_completions, {"timeout": 7.5}),
        (chat_completions, {"timeout": (3.0, 5.0)}),
        (chat_completions, {"timeout": openai.Timeout(9.0, connect=1.0)}),
        (chat_completions, {"http_socket_options": ()}),
        (
            chat_completions,
            {"http_socket_options": [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]},
        ),
        (chat_completions, {"openai_proxy": PROXY}),
        (chat_completions, {"openai_proxy": PROXY, "http_socket_options": ()}),
        (azure, {}),
        (azure, {"timeout": 7.5}),
        (anthropic_messages, {}),
        (anthropic_messages, {"timeout": 7.5}),
        (anthropic_messages, {"anthropic_proxy": PROXY}),
    ),
)
@pytest.mark.parametrize("environment", ({}, {"HTTPS_PROXY": PROXY}), ids=("direct", "proxy"))
@pytest.mark.anyio
async def test_a_client_has_the_settings_of_the_one_that_it_stands_for(
    make: Maker,
    options: dict[str, Any],
    environment: dict[str, str],
    server: ProviderServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    model = make(server.serve(Scenario()), **options)
    ours = for_current_loop(model)
    assert http_client(ours) is not http_client(model)
    assert settings(http_client(ours)) == settings(http_client(model))
    sdk, own_sdk = (getattr(sdk_client(m), "_target", sdk_client(m)) for m in (model, ours))
    assert own_sdk.timeout == sdk.timeout
    assert own_sdk.max_retries == sdk.max_retries == 0
    assert own_sdk.base_url == sdk.base_url
    assert own_sdk.api_key == sdk.api_key
    # Those left out are objects without equality.
    headers, own_headers = (
        {name: value for name, value in one.default_headers.items() if isinstance(value, str)}
        for one in (sdk, own_sdk)
    )
    assert own_headers == headers


@pytest.mark.parametrize(
    ("make", "option"),
    ((chat_completions, "openai_proxy"), (anthropic_messages, "anthropic_proxy")),
)
def test_a_proxy_is_used_on_every_loop(
    make: Maker, option: str, server: ProviderServer, run: Any
) -> None:
    endpoint = server.serve(Scenario())
    elsewhere = Endpoint(
        endpoint.anthropic_url.replace("127.0.0.1", "provider.invalid"), Scenario()
    )
    model = make(elsewhere, **{option: server.url})

    async def main() -> Any:
        return await chunks_and_error(for_current_loop(model))

    assert asyncio.run(main()) == run(main)
    assert [exchange.headers["host"][:16] for exchange in endpoint.exchanges] == [
        "provider.invalid"
    ] * 2


def test_a_model_of_no_known_provider_is_left_alone() -> None:
    model = FakeListChatModel(responses=["a"])
    assert for_current_loop(model) is model


@pytest.mark.anyio
async def test_clients_that_the_user_supplied_are_left_alone(server: ProviderServer) -> None:
    endpoint = server.serve(Scenario())
    off: dict[str, Any] = {"stream_chunk_timeout": None}
    async with openai.DefaultAsyncHttpxClient() as theirs:
        sdk = openai.AsyncOpenAI(base_url=endpoint.openai_url, **OPTIONS)
        replaced = chat_completions(endpoint, **off)
        replaced.root_async_client = sdk
        replaced.async_client = sdk.chat.completions
        their_anthropic = anthropic_messages(endpoint)
        their_anthropic._async_client = anthropic.AsyncAnthropic(
            http_client=anthropic.DefaultAsyncHttpxClient(), **OPTIONS
        )
        their_sdk = anthropic_messages(endpoint)
        their_sdk._async_client = anthropic.AsyncAnthropic(**OPTIONS)
        half_replaced = chat_completions(endpoint, **off)
        half_replaced.async_client = sdk.chat.completions
        foreign = chat_completions(endpoint, **off)
        foreign.async_client = foreign.root_async_client = object()
        for model in (
            chat_completions(endpoint, http_async_client=theirs, **off),
            chat_completions(
                endpoint, root_async_client=sdk, async_client=sdk.chat.completions, **off
            ),
            replaced,
            half_replaced,
            foreign,
            azure(endpoint, http_async_client=theirs, **off),
            their_anthropic,
            their_sdk,
        ):
            view: Any = for_current_loop(model)
            for name in ("root_async_client", "async_client", "_async_client"):
                client = getattr(model, name, None)
                assert getattr(getattr(view, name, None), "_target", client) is client
        bounded = chat_completions(endpoint, http_async_client=theirs)
        assert http_client(for_current_loop(bounded)) is theirs
        await sdk.close()
        await their_anthropic._async_client.close()
        await their_sdk._async_client.close()


@pytest.mark.anyio
async def test_a_client_that_cannot_be_made_is_the_runs_error(server: ProviderServer) -> None:
    class Broken(ChatAnthropic):
        @property
        def _async_client(self) -> Any:
            raise ZeroDivisionError

    model = Broken(model="claude-loopback", **OPTIONS)
    assert for_current_loop(model) is model


class Answer(BaseModel):
    text: str


STRUCTURED = Scenario(Reply(Text('{"te', 'xt": ', '"yes"}')), fault="stall", after=3)

WAYS: dict[str, tuple[Any, dict[str, Any], dict[str, Any], Scenario]] = {
    "chat completions": (chat_completions, {}, {}, Scenario(fault="stall", after=3)),
    "chat completions, before the first": (chat_completions, {}, {}, Scenario(fault="stall")),
    "chat completions, with headers": (
        chat_completions,
        {"include_response_headers": True},
        {},
        Scenario(fault="stall", after=3),
    ),
    "chat completions, parsed": (
        chat_completions,
        {},
        {"response_format": Answer},
        STRUCTURED,
    ),
    "responses": (responses, {}, {}, Scenario(fault="stall", after=6)),
    "responses, with headers": (
        responses,
        {"include_response_headers": True},
        {},
        Scenario(fault="stall", after=6),
    ),
}


@pytest.mark.parametrize(("make", "options", "kwargs", "scenario"), WAYS.values(), ids=WAYS)
@pytest.mark.anyio
async def test_the_chunk_timeout_of_the_model(
    make: Maker,
    options: dict[str, Any],
    kwargs: dict[str, Any],
    scenario: Scenario,
    server: ProviderServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    endpoint = server.serve(scenario)
    seconds = 0.4

    async def timed_out(model: BaseChatModel) -> tuple[list[Any], dict[str, Any], list[Any]]:
        caplog.clear()
        chunks: list[Any] = []
        with caplog.at_level(logging.WARNING), anyio.fail_after(HANGS):
            with pytest.raises(StreamChunkTimeoutError) as caught:
                async for chunk in stream(model, **kwargs):
                    chunks.append(chunk.model_dump())
        records = [
            (r.name, r.getMessage(), r.source, r.timeout_s, r.model_name, r.chunks_received)
            for r in caplog.records
        ]
        return chunks, vars(caught.value), records

    def original() -> Any:
        async def main() -> Any:
            model = make(endpoint, stream_chunk_timeout=seconds, **options)
            try:
                return await timed_out(model)
            finally:
                await model.root_async_client.close()

        return asyncio.run(main())

    # In a thread, where no event loop runs.
    expected = await anyio.to_thread.run_sync(original)
    model = make(endpoint, stream_chunk_timeout=seconds, **options)
    assert await timed_out(for_current_loop(model)) == expected
    _, attributes, records = expected
    assert attributes["timeout_s"] == seconds
    assert len(records) == 1
    exchange = await endpoint.exchange(1)
    assert await exchange.closed.wait()
    assert model.stream_chunk_timeout == seconds


@pytest.mark.anyio
async def test_the_chunk_timeout_of_the_model_is_not_put_off_by_comments(
    server: ProviderServer,
) -> None:
    endpoint = server.serve(Scenario(fault="stall", after=2, keepalive=0.02))
    with anyio.fail_after(HANGS), pytest.raises(StreamChunkTimeoutError):
        async for _ in stream(
            for_current_loop(chat_completions(endpoint, stream_chunk_timeout=0.4))
        ):
            pass
    assert await endpoint.exchanges[0].closed.wait()


@pytest.mark.anyio
async def test_the_chunk_timeout_of_the_model_with_the_users_client(server: ProviderServer) -> None:
    endpoint = server.serve(Scenario(fault="stall", after=2))
    async with openai.DefaultAsyncHttpxClient() as theirs:
        model = chat_completions(endpoint, stream_chunk_timeout=0.4, http_async_client=theirs)
        with anyio.fail_after(HANGS), pytest.raises(StreamChunkTimeoutError):
            async for _ in stream(for_current_loop(model)):
                pass
        assert await endpoint.exchanges[0].closed.wait()


@pytest.mark.parametrize("make", (chat_completions, responses))
@pytest.mark.parametrize(
    "options", ({}, {"include_response_headers": True}), ids=("plain", "headers")
)
@pytest.mark.anyio
async def test_all_ways_to_call_go_through_the_bound(
    make: Maker, options: dict[str, Any], server: ProviderServer
) -> None:
    endpoint = server.serve(Scenario(Reply(Text('{"text": ', '"yes"}'))))
    model = for_current_loop(make(endpoint, **options))
    plain = for_current_loop(make(endpoint, stream_chunk_timeout=None, **options))
    assert type(plain.root_async_client._target) is openai.AsyncOpenAI  # type: ignore[attr-defined]
    assert model.root_async_client.base_url == plain.root_async_client.base_url  # type: ignore[attr-defined]
    for kwargs in ({}, {"response_format": Answer}):
        got = await chunks_and_error(model, **kwargs)
        assert got[0] or got[1]
        assert got == await chunks_and_error(plain, **kwargs)
    # Not by `ainvoke`: langchain-openai makes its result in an executor of asyncio's.
    answer = await model.root_async_client.chat.completions.create(  # type: ignore[attr-defined]
        model="loopback", messages=[]
    )
    assert answer.choices[0].message.content == '{"text": "yes"}'


@makers
@pytest.mark.anyio
async def test_a_cancelled_wait_stays_a_cancellation(make: Maker, server: ProviderServer) -> None:
    endpoint = server.serve(Scenario(fault="stall", after=3))
    model = for_current_loop(make(endpoint))
    outcomes: list[Any] = []

    async def consume() -> None:
        outcomes.append(await chunks_and_error(model))

    with anyio.fail_after(HANGS):
        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            exchange = await endpoint.exchange()
            while exchange.frames_written < 3:
                await anyio.sleep(0)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        assert not outcomes
        assert await exchange.closed.wait()


@pytest.mark.parametrize("make", (chat_completions, responses, azure))
@pytest.mark.anyio
async def test_a_generator_closed_early_closes_the_connection(
    make: Maker, server: ProviderServer
) -> None:
    endpoint = server.serve(Scenario(fault="stall", after=3))
    with anyio.fail_after(HANGS):
        async with aclosing(stream(for_current_loop(make(endpoint)))) as chunks:
            await anext(chunks)
        assert await endpoint.exchanges[0].closed.wait()
