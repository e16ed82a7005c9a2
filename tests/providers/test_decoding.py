"""Streams decoded here, beside the SDKs' own, over the same bytes."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anthropic
import anyio
import httpx2
import pytest
from anthropic._streaming import SSEDecoder as AnthropicDecoder
from hypothesis import event as note
from hypothesis import given
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from openai._streaming import SSEDecoder as OpenAIDecoder

from langchain_anyio import StreamTruncatedError
from langchain_anyio._providers.table import for_current_loop
from tally import tried
from wire_strategies import bodies, chat_chunks, message_events, response_events

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FORMATS: dict[str, Any] = {
    "chat_completions": bodies(chat_chunks(), named=False),
    "responses": bodies(response_events(), named=True),
    "anthropic_messages": bodies(message_events(), named=True),
}


class Body(httpx2.AsyncByteStream):
    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part

    async def aclose(self) -> None:
        self.closed = True


class Transport(httpx2.AsyncBaseTransport):
    """Answers each request with the same body."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.bodies: list[Body] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.bodies.append(Body(self.parts))
        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=headers, stream=self.bodies[-1], request=request)


TRANSPORT = Transport()


def model_of(name: str, **options: Any) -> Any:
    http = httpx2.AsyncClient(transport=TRANSPORT)
    if name == "anthropic_messages":
        model = ChatAnthropic(model="m", api_key="unused", max_retries=0, max_tokens=9, **options)
        model.__dict__["_async_client"] = anthropic.AsyncAnthropic(
            api_key="unused", max_retries=0, http_client=http
        )
        return model
    return ChatOpenAI(
        model="m",
        api_key="unused",
        max_retries=0,
        stream_usage=True,
        http_async_client=http,
        use_responses_api=name == "responses",
        **options,
    )


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    # The two ways in which Anthropic's text becomes content.
    thinking = {"type": "enabled", "budget_tokens": 1024}
    made: dict[str, Any] = {name: [model_of(name)] for name in FORMATS}
    made["anthropic_messages"].append(model_of("anthropic_messages", thinking=thinking))
    return made


@dataclass
class Outcome:
    chunks: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    error: Any = None
    warnings: list[str] = field(default_factory=list)
    message: str = ""

    async def on_llm_new_token(self, *args: Any, **kwargs: Any) -> None:
        self.tokens.append(repr((args, kwargs)))


async def read(model: Any) -> Outcome:
    outcome = Outcome()
    whole = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            async for chunk in model._astream([HumanMessage("hi")], run_manager=outcome):
                outcome.chunks.append(repr(chunk))
                whole = chunk if whole is None else whole + chunk
        except Exception as error:
            body = getattr(error, "body", None)
            outcome.error = type(error), str(error), repr(body), repr(error.__cause__)
        outcome.message = repr(whole)
    outcome.warnings = [str(warning.message) for warning in caught]
    return outcome


def is_whole(name: str, parts: list[bytes]) -> bool:
    """Whether an answer has a mark of its end, as its SDK reads it."""
    decoder: Any = AnthropicDecoder() if name == "anthropic_messages" else OpenAIDecoder()
    for event in decoder.iter_bytes(iter(parts)):
        if name == "anthropic_messages":
            if event.event in (None, "ping") or not event.data:
                continue
        elif event.data.startswith("[DONE]"):
            return True
        data = json.loads(event.data)
        if not isinstance(data, dict):
            continue
        match name:
            case "chat_completions":
                choices = data["choices"] if isinstance(data.get("choices"), list) else []
                if any(isinstance(c, dict) and c.get("finish_reason") for c in choices):
                    return True
            case "responses":
                if data.get("type") in (
                    "response.completed",
                    "response.incomplete",
                    "response.failed",
                ):
                    return True
            case "anthropic_messages":
                delta = data.get("delta")
                if data.get("type") == "message_stop" or (
                    data.get("type") == "message_delta"
                    and isinstance(delta, dict)
                    and delta.get("stop_reason")
                ):
                    return True
    # The last line may be without the empty one after it, and Anthropic's SDK does not know it.
    lines = [line for line in b"".join(parts).splitlines() if line]
    return bool(lines) and lines[-1].startswith((b"data: [DONE]", b"data:[DONE]"))


def check(name: str, models: list[Any], parts: list[bytes]) -> None:
    TRANSPORT.parts = parts

    async def both() -> list[tuple[Outcome, Outcome]]:
        return [(await read(for_current_loop(model)), await read(model)) for model in models]

    for ours, theirs in anyio.run(both):
        assert ours.chunks == theirs.chunks
        assert ours.tokens == theirs.tokens
        assert ours.message == theirs.message
        assert ours.warnings == theirs.warnings
        if theirs.error is None and not is_whole(name, parts):
            assert ours.error is not None
            assert ours.error[0] is StreamTruncatedError
            note("truncated")
        else:
            assert ours.error == theirs.error
            note("an error" if ours.error else "whole")
    assert all(body.closed for body in TRANSPORT.bodies)
    TRANSPORT.bodies.clear()


@pytest.mark.parametrize("name", FORMATS)
def test_streams_equal_the_sdks(name: str, models: dict[str, Any]) -> None:
    @given(FORMATS[name])
    def beside(parts: list[bytes]) -> None:
        check(name, models[name], parts)
        tried(f"Decoding: an answer beside the SDK's own way, {name}")

    beside()
