"""Models and embeddings that a run calls by their public methods use the clients of its event loop."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableLambda
from langchain_openai import OpenAIEmbeddings

from langchain_anyio import open_stream
from langchain_anyio._providers.within_runs import (
    BoundWithinRuns,
    models_on_this_loop,
    within_run,
)
from loopback import Reply, Scenario, Text
from loopback.models import OPTIONS, chat_completions, sdk_client

if TYPE_CHECKING:
    from loopback import Endpoint, ProviderServer

pytest_plugins = ["loopback.fixtures"]

pytestmark = pytest.mark.anyio

ASKED: Any = {"messages": [("user", "Hi")]}


def http_of(model: Any) -> Any:
    sdk = sdk_client(model)
    return getattr(sdk, "_target", sdk)._client


def test_an_agent_on_one_loop_of_asyncio_after_another(server: ProviderServer) -> None:
    """Also after a call that was made without this package, whose connection is left open."""
    endpoint = server.serve(Scenario())
    model = chat_completions(endpoint)

    async def plain() -> None:
        assert (await model.ainvoke("Hi")).text == "Hello, world."

    async def streamed() -> None:
        async with open_stream(create_agent(model, []), ASKED) as stream:
            output = await stream.output()
        assert output["messages"][-1].text == "Hello, world."

    asyncio.run(plain())
    for _ in range(4):
        asyncio.run(streamed())
    assert len(endpoint.exchanges) == 5  # none was tried again
    assert all(connection.closed.wait_blocking() for connection in endpoint.connections[1:]), (
        "a connection outlived its loop"
    )


async def test_each_public_method_binds_to_the_model_of_this_loop(server: ProviderServer) -> None:
    model = chat_completions(server.serve(Scenario()))
    with models_on_this_loop():
        for name in ("agenerate", "astream", "astream_events"):
            bound = getattr(model, name).__self__
            assert http_of(bound) is not http_of(model)
            assert getattr(bound, name).__self__ is bound
    for name in ("agenerate", "astream", "astream_events"):
        assert getattr(model, name).__self__ is model


async def test_a_class_has_its_own_methods() -> None:
    """Code that compares or inspects them sees no difference, and after the run there is none."""
    before = dict(vars(BaseChatModel))
    with models_on_this_loop():
        assert isinstance(vars(BaseChatModel)["astream"], BoundWithinRuns)
        assert BaseChatModel.astream is before["astream"]
        assert inspect.isasyncgenfunction(BaseChatModel.astream)
        with models_on_this_loop():
            pass
        assert isinstance(vars(BaseChatModel)["astream"], BoundWithinRuns)
    assert dict(vars(BaseChatModel)) == before


async def test_what_another_library_patches_meanwhile_stays() -> None:
    original = vars(BaseChatModel)["agenerate"]

    async def traced(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    with models_on_this_loop():
        BaseChatModel.agenerate = traced  # type: ignore[method-assign]
    try:
        assert vars(BaseChatModel)["agenerate"] is traced
    finally:
        BaseChatModel.agenerate = original  # type: ignore[method-assign]


async def test_calls_beside_a_run_are_not_affected(server: ProviderServer) -> None:
    """Only its own context is a run's; others, also in other threads, have the model itself."""
    model = chat_completions(server.serve(Scenario()))
    seen: list[Any] = []

    async def beside(entered: anyio.Event, looked: anyio.Event) -> None:
        await entered.wait()
        assert not within_run()
        seen.append(model.astream.__self__)  # type: ignore[attr-defined]
        looked.set()

    entered, looked = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(beside, entered, looked)
        await anyio.wait_all_tasks_blocked()
        with models_on_this_loop():
            entered.set()
            await looked.wait()
    assert seen == [model]
    assert seen[0] is model


async def test_a_thread_of_a_run_has_the_model_itself(server: ProviderServer) -> None:
    """No event loop runs there, so there is no client of one."""
    model = chat_completions(server.serve(Scenario()))
    with models_on_this_loop():
        bound = await anyio.to_thread.run_sync(lambda: model.astream)
    assert bound.__self__ is model  # type: ignore[attr-defined]


async def test_a_loop_of_its_own_in_a_thread_of_a_run(server: ProviderServer) -> None:
    endpoint = server.serve(Scenario())
    model = chat_completions(endpoint)

    async def call() -> str:
        return (await model.ainvoke("Hi")).text

    with models_on_this_loop():
        for _ in range(2):
            assert await anyio.to_thread.run_sync(asyncio.run, call()) == "Hello, world."
    assert len(endpoint.exchanges) == 2
    for exchange in endpoint.exchanges:
        assert await exchange.closed.wait()


def embeddings_of(endpoint: Endpoint) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(
        base_url=endpoint.openai_url, check_embedding_ctx_length=False, **OPTIONS
    )


async def test_embeddings_bind_too(server: ProviderServer) -> None:
    embeddings = embeddings_of(server.serve(Scenario()))
    with models_on_this_loop():
        bound = embeddings.aembed_documents.__self__  # type: ignore[attr-defined]
        assert bound.async_client is not embeddings.async_client
    assert embeddings.aembed_documents.__self__ is embeddings  # type: ignore[attr-defined]


def test_a_model_in_a_step_of_a_sequence(server: ProviderServer) -> None:
    first = server.serve(Scenario(Reply(Text("water"))))
    inner, outer = chat_completions(first), chat_completions(server.serve(Scenario()))
    chain = inner | RunnableLambda(lambda message: message.text) | outer

    async def plain() -> None:
        await inner.ainvoke("Hi")

    async def streamed() -> str:
        return (await open_stream(chain, "Hi")).text

    asyncio.run(plain())
    for _ in range(3):
        assert asyncio.run(streamed()) == "Hello, world."
    assert len(first.exchanges) == 4
