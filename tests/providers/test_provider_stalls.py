"""The providers' models: `chunk_timeout`, and their own, do not count callback handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from langchain_openai import StreamChunkTimeoutError

from handlers import config_of
from langchain_anyio import open_stream
from limits import HANGS
from loopback import ProviderServer, Scenario
from loopback.models import MAKERS, chat_completions, responses
from test_stalls import SECONDS, slow_handler

if TYPE_CHECKING:
    from collections.abc import Callable

pytest_plugins = ["loopback.fixtures"]

pytestmark = [pytest.mark.unhurried, pytest.mark.anyio]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("kind", ("thread", "async"))
@pytest.mark.filterwarnings(
    "ignore:Async generator '(openai|anthropic|httpx2?|httpcore2?|langchain_openai)\\.:ResourceWarning"
)
async def test_a_slow_handler_is_no_stall_of_a_provider(
    make: Callable[..., Any], kind: str, server: ProviderServer
) -> None:
    endpoint = server.serve(Scenario())
    handler = slow_handler(kind, "on_llm_new_token")
    # The first call imports much, which takes long.
    await open_stream(make(endpoint), "hi")
    async with open_stream(
        make(endpoint), "hi", config_of(handler), chunk_timeout=SECONDS
    ) as stream:
        assert (await stream).text == "Hello, world."


@pytest.mark.parametrize("make", (chat_completions, responses))
async def test_the_chunk_timeout_of_the_model_does_not_count_handlers(
    make: Callable[..., Any], server: ProviderServer
) -> None:
    endpoint = server.serve(Scenario())
    handler = slow_handler("async", "on_llm_new_token")
    model = make(endpoint, stream_chunk_timeout=SECONDS)
    async with open_stream(model, "hi", config_of(handler)) as stream:
        assert (await stream).text == "Hello, world."
    stalling = make(server.serve(Scenario(fault="stall", after=5)), stream_chunk_timeout=SECONDS)
    handler = slow_handler("async", "on_llm_new_token")
    with anyio.fail_after(HANGS):
        async with open_stream(stalling, "hi", config_of(handler)) as stream:
            with pytest.raises(StreamChunkTimeoutError):
                await stream
