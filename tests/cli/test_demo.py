"""The demo model is a chat model like any other, and its answer says what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from langchain_anyio import open_stream
from langchain_anyio._cli.demo import DemoChatModel

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

PROMPT = "Write me a song about sparkling water."


def essence(message: AIMessage) -> tuple[Any, ...]:
    calls = [(call["name"], call["args"]) for call in message.tool_calls]
    return message.text, calls, message.usage_metadata


@pytest.mark.anyio
async def test_it_streams_reasoning_then_a_tool_call_then_text() -> None:
    async with open_stream(DemoChatModel(seconds_per_chunk=0), PROMPT) as stream:
        channels = [channel async for channel, _ in stream.interleave()]
        message = await stream
        assert await stream.reasoning
    assert list(dict.fromkeys(channels)) == ["reasoning", "tool_calls", "text"]
    assert sorted(channels, key=["reasoning", "tool_calls", "text"].index) == channels
    assert all(channels.count(channel) > 3 for channel in set(channels))
    assert message.tool_calls[0]["args"]
    assert "demo" in message.text
    assert PROMPT in message.text
    assert stream.finish_reason == "stop"


@pytest.mark.anyio
async def test_it_takes_its_time() -> None:
    model = DemoChatModel()
    async with open_stream(DemoChatModel(seconds_per_chunk=0), PROMPT) as stream:
        chunks = len([delta async for delta in stream.interleave()])
    assert 1.5 < chunks * model.seconds_per_chunk < 3.5


@pytest.mark.anyio
async def test_it_answers_the_same_at_once() -> None:
    model = DemoChatModel(seconds_per_chunk=0)
    assert essence(model.invoke(PROMPT)) == essence(await open_stream(model, PROMPT))


@pytest.mark.parametrize(
    ("prompt", "quoted"),
    (
        ("one\n two", '"one two"'),
        ("{braces} [brackets]", '"{braces} [brackets]"'),
        ("x" * 60, f'"{"x" * 60}"'),
        ("x" * 61, f'"{"x" * 59}…"'),
    ),
)
def test_it_quotes_the_prompt_on_one_line(prompt: str, quoted: str) -> None:
    assert quoted in DemoChatModel().invoke(prompt).text
