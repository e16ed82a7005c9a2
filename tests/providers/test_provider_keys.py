"""Keys that functions give, and answers that are not streamed, on every backend and without `enable_trio()`."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any

import anyio
import openai
import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_openai.chat_models.base import BaseChatOpenAI

from langchain_anyio import open_stream
from langchain_anyio._providers.table import for_current_loop
from limits import HANGS
from loopback import ProviderServer, Scenario
from loopback.models import anthropic_messages, azure, chat_completions, responses

if TYPE_CHECKING:
    from collections.abc import Callable

pytest_plugins = ["loopback.fixtures"]

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings(
        "ignore:Async generator '(openai|anthropic|httpx2?|httpcore2?|langchain_openai)\\.:ResourceWarning"
    ),
]


async def text_of(model: Any) -> str:
    with anyio.fail_after(HANGS):
        async with open_stream(model, "hi") as stream:
            return str((await stream).text)


def plain() -> str:
    return f"key of {threading.current_thread() is not threading.main_thread()}"


async def coroutine() -> str:
    await anyio.sleep(0)
    return "key of True"


KEYS: dict[str, Callable[..., Any]] = {
    "plain": plain,
    "partial": functools.partial(lambda given: given, "key of True"),
    "coroutine": coroutine,
}


@pytest.mark.parametrize("streams", (True, False))
@pytest.mark.parametrize("theirs", (True, False))
@pytest.mark.parametrize("make", (chat_completions, responses))
@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
async def test_a_key_that_a_function_gives(
    key: Callable[..., Any], make: Any, theirs: bool, streams: bool, server: ProviderServer
) -> None:
    endpoint = server.serve(Scenario())
    async with openai.DefaultAsyncHttpxClient() as http:
        options = {"http_async_client": http} if theirs else {}
        model = make(endpoint, api_key=key, disable_streaming=not streams, **options)
        clients = (model.async_client, model.root_async_client)
        for _ in range(2):
            assert await text_of(model) == "Hello, world."
        assert (model.async_client, model.root_async_client) == clients
        assert model.openai_api_key is key
    sent = {exchange.headers["authorization"] for exchange in endpoint.exchanges}
    assert sent == {"Bearer key of True"}
    assert len(endpoint.exchanges) == 2


@pytest.mark.parametrize("key", (plain, coroutine))
async def test_a_token_that_a_function_gives_azure(key: Any, server: ProviderServer) -> None:
    endpoint = server.serve(Scenario())
    # Earlier releases of langchain-openai make the synchronous client in any case.
    options: dict[str, Any] = {"azure_ad_token_provider": plain}
    if key is coroutine:
        options["azure_ad_async_token_provider"] = coroutine
    model = azure(endpoint, api_key=None, **options)
    assert await text_of(model) == "Hello, world."
    assert endpoint.exchanges[0].headers["authorization"].startswith("Bearer key of")


async def test_a_key_function_that_fails_is_the_runs_error(server: ProviderServer) -> None:
    def fails() -> str:
        raise ZeroDivisionError

    endpoint = server.serve(Scenario())
    with pytest.raises(ZeroDivisionError):
        await text_of(chat_completions(endpoint, api_key=fails))
    assert not endpoint.exchanges


async def test_a_key_function_that_hangs_does_not_hold_up_the_end(server: ProviderServer) -> None:
    release, asked = threading.Event(), threading.Event()

    def hangs() -> str:
        asked.set()
        release.wait(60)
        return "late"

    endpoint = server.serve(Scenario())
    try:
        with anyio.fail_after(HANGS):
            async with open_stream(chat_completions(endpoint, api_key=hangs), "hi") as stream:
                async with anyio.create_task_group() as group:

                    async def read() -> None:
                        await stream.output

                    group.start_soon(read)
                    await anyio.to_thread.run_sync(asked.wait)
                    group.cancel_scope.cancel()
        assert not release.is_set()
    finally:
        release.set()
    assert not endpoint.exchanges


class Answers(ChatOpenAI):
    asked: int = 0

    async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
        self.asked += 1
        return await super()._agenerate(*args, **kwargs)


@pytest.mark.parametrize("make", (chat_completions, responses, azure, anthropic_messages))
@pytest.mark.parametrize("seconds", (None, 60.0))
async def test_an_answer_that_is_not_streamed(
    make: Any, seconds: float | None, server: ProviderServer
) -> None:
    endpoint = server.serve(Scenario())
    options = {} if make is anthropic_messages else {"stream_chunk_timeout": seconds}
    model = make(endpoint, disable_streaming=True, **options)
    assert await text_of(model) == "Hello, world."
    assert len(endpoint.exchanges) == 1


async def test_an_answer_of_a_subclass_that_is_not_streamed(server: ProviderServer) -> None:
    endpoint = server.serve(Scenario())
    options: dict[str, Any] = {"base_url": endpoint.openai_url, "api_key": "k", "model": "m"}
    model = Answers(disable_streaming=True, **options)
    assert await text_of(model) == "Hello, world."
    assert model.asked == 1
    assert await text_of(BaseChatOpenAI(disable_streaming=True, **options)) == "Hello, world."
    async with openai.DefaultAsyncHttpxClient() as http:
        theirs = Answers(
            disable_streaming=True, http_async_client=http, stream_chunk_timeout=None, **options
        )
        assert await text_of(theirs) == "Hello, world."
        assert theirs.asked == 1


@pytest.mark.parametrize("theirs", (True, False))
async def test_embeddings_with_a_key_that_a_function_gives(
    theirs: bool, server: ProviderServer
) -> None:
    endpoint = server.serve(Scenario())
    async with openai.DefaultAsyncHttpxClient() as http:
        embeddings = OpenAIEmbeddings(
            base_url=endpoint.openai_url,
            api_key=plain,
            check_embedding_ctx_length=False,
            model_kwargs={"encoding_format": "float"},
            **({"http_async_client": http} if theirs else {}),  # type: ignore[arg-type]
        )
        ours = for_current_loop(embeddings)
        assert len(await ours.aembed_documents(["a", "b"])) == 2
