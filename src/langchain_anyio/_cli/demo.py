"""A chat model for demonstration, which needs no network and no key."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import anyio
from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import ToolCallChunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from typing_extensions import override

_REASONING: Final = """\
A demo should show whatever a chat model can stream. Here a model thinks; next comes a call of a \
tool, argument by argument, and then the answer."""

_TOOL: Final = "find_rhymes"
_ARGUMENTS: Final = {"word": "sparkling water", "count": 3}

_ANSWER: Final = """\
This is the built-in demo model: no network, no key, and no idea what "{prompt}" asks for. \
It answers everything with a song.

  Pour me a glass of the fizzy and clear,
  a thousand small bubbles are singing in here.
  They rise, they arrive, they are gone with a pop:
  one stream, and it ends when you tell it to stop.

For an answer to your question, name a model: --model openai:gpt-5-mini"""


class DemoChatModel(BaseChatModel):
    """Streams some reasoning, a tool call and a text, whatever it is asked.

    The text quotes the last message. The tool does not exist.
    """

    seconds_per_chunk: float = 0.025
    """Seconds before each of about a hundred chunks."""

    @property
    @override
    def _llm_type(self) -> str:
        return "langchain-anyio-demo"

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in _chunks(messages):
            await anyio.sleep(self.seconds_per_chunk)
            yield chunk

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(_chunks(messages))


def _chunks(messages: list[BaseMessage]) -> Iterator[ChatGenerationChunk]:
    prompt = " ".join(str(messages[-1].text).split())
    answer = _ANSWER.format(prompt=prompt if len(prompt) <= 60 else f"{prompt[:59]}…")
    slices = {
        "reasoning": _slices(_REASONING),
        "tool_call": _slices(json.dumps(_ARGUMENTS)),
        "text": _slices(answer),
    }
    for piece in slices["reasoning"]:
        yield _chunk({"type": "reasoning", "reasoning": piece, "index": 0})
    yield _call_chunk(ToolCallChunk(id="call_demo", name=_TOOL, args="", index=1))
    for piece in slices["tool_call"]:
        yield _call_chunk(ToolCallChunk(id=None, name=None, args=piece, index=1))
    for piece in slices["text"]:
        yield _chunk({"type": "text", "text": piece, "index": 2})
    asked = sum(len(_slices(str(message.text))) for message in messages)
    answered = sum(map(len, slices.values()))
    yield ChatGenerationChunk(
        message=AIMessageChunk(
            content=[],
            usage_metadata=UsageMetadata(
                input_tokens=asked, output_tokens=answered, total_tokens=asked + answered
            ),
            response_metadata={"model_name": "demo", "finish_reason": "stop"},
            chunk_position="last",
        )
    )


def _chunk(block: dict[str, Any], *calls: ToolCallChunk) -> ChatGenerationChunk:
    return ChatGenerationChunk(
        message=AIMessageChunk(
            content=[block],
            tool_call_chunks=list(calls),
            response_metadata={"output_version": "v1"},
        )
    )


def _call_chunk(call: ToolCallChunk) -> ChatGenerationChunk:
    return _chunk({**call, "type": "tool_call_chunk"}, call)


def _slices(text: str) -> list[str]:
    """Split a text into words, each with the whitespace before it, much like tokens."""
    return re.findall(r"\s*\S+", text)
