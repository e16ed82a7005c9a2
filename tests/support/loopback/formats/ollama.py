"""Ollama's chat, in lines of JSON.

https://docs.ollama.com/api/chat
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from loopback._wire import JSON_LINES, Embeddings, Format, Text, Thinking, ToolCall, vector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loopback._wire import JSON, Reply


def _tool_call(call: ToolCall) -> JSON:
    arguments = json.loads(call.whole or "{}")
    return {"id": call.call_id, "function": {"name": call.name, "arguments": arguments}}


def _part(request: JSON, message: JSON, **more: Any) -> JSON:
    return {
        "model": request["model"],
        "created_at": "2026-01-01T00:00:00.000000Z",
        "message": {"role": "assistant", "content": "", **message},
        "done": False,
        **more,
    }


def _counts(reply: Reply) -> JSON:
    return {
        "done": True,
        "done_reason": "stop",
        "total_duration": 3_000_000,
        "load_duration": 1_000_000,
        "prompt_eval_count": reply.input_tokens,
        "prompt_eval_duration": 1_000_000,
        "eval_count": reply.output_tokens,
        "eval_duration": 1_000_000,
    }


def _stream(reply: Reply, request: JSON) -> Iterator[JSON]:
    for block in reply.blocks:
        if isinstance(block, ToolCall):
            yield _part(request, {"tool_calls": [_tool_call(block)]})
            continue
        name = "thinking" if isinstance(block, Thinking) else "content"
        for piece in block.slices:
            yield _part(request, {name: piece})
    yield _part(request, {}, **_counts(reply))


def _message(reply: Reply, request: JSON) -> JSON:
    message: JSON = {"content": "".join(text.whole for text in reply.of(Text))}
    if thinking := reply.of(Thinking):
        message["thinking"] = "".join(block.whole for block in thinking)
    if calls := reply.of(ToolCall):
        message["tool_calls"] = [_tool_call(call) for call in calls]
    return _part(request, message, **_counts(reply))


OLLAMA = Format(
    "/api/chat",
    stream=_stream,
    message=_message,
    stream_error=lambda message: {"error": message},
    status_error=lambda _status, message: {"error": message},
    framing=JSON_LINES,
    streams=True,
)


def _embeddings(request: JSON) -> JSON:
    texts = request["input"]
    return {
        "model": request["model"],
        "embeddings": [vector(text) for text in ([texts] if isinstance(texts, str) else texts)],
        "total_duration": 3_000_000,
        "load_duration": 1_000_000,
        "prompt_eval_count": 1,
    }


OLLAMA_EMBEDDINGS = Embeddings("/api/embed", _embeddings)
