"""Anthropic's messages.

https://docs.anthropic.com/en/docs/build-with-claude/streaming
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from loopback._wire import Format, Text, Thinking, ToolCall

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loopback._wire import JSON, Reply


def _anthropic_error(status: int, message: str) -> JSON:
    kind = {401: "authentication_error", 429: "rate_limit_error", 529: "overloaded_error"}
    return {
        "type": "error",
        "error": {"type": kind.get(status, "api_error"), "message": message},
        "request_id": "req_loopback",
    }


def _anthropic_block(block: Text) -> JSON:
    if isinstance(block, Thinking):
        return {"type": "thinking", "thinking": block.whole, "signature": block.signature}
    if isinstance(block, ToolCall):
        return {
            "type": "tool_use",
            "id": block.call_id,
            "name": block.name,
            "input": json.loads(block.whole or "{}"),
        }
    return {"type": "text", "text": block.whole}


def _anthropic_block_stream(index: int, block: Text) -> Iterator[JSON]:
    empty: JSON
    if isinstance(block, Thinking):
        empty, kind, key = {"thinking": "", "signature": ""}, "thinking_delta", "thinking"
    elif isinstance(block, ToolCall):
        empty, kind, key = {"input": {}}, "input_json_delta", "partial_json"
    else:
        empty, kind, key = {"text": ""}, "text_delta", "text"
    begun = {**_anthropic_block(block), **empty}
    yield {"type": "content_block_start", "index": index, "content_block": begun}
    if index == 0:
        yield {"type": "ping"}
    deltas: list[JSON] = [{"type": kind, key: piece} for piece in block.slices]
    if isinstance(block, Thinking):
        deltas.append({"type": "signature_delta", "signature": block.signature})
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _anthropic_usage(input_tokens: int, output_tokens: int) -> JSON:
    return {
        "input_tokens": input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output_tokens,
    }


def _anthropic_stream(reply: Reply, request: JSON) -> Iterator[JSON]:
    whole = _anthropic_message(reply, request)
    begun = {
        **whole,
        "content": [],
        "stop_reason": None,
        "usage": {**_anthropic_usage(reply.input_tokens, 1), "service_tier": "standard"},
    }
    yield {"type": "message_start", "message": begun}
    for index, block in enumerate(reply.blocks):
        yield from _anthropic_block_stream(index, block)
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": whole["stop_reason"], "stop_sequence": None},
        "usage": _anthropic_usage(reply.input_tokens, reply.output_tokens),
    }
    yield {"type": "message_stop"}


def _anthropic_message(reply: Reply, request: JSON) -> JSON:
    return {
        "id": "msg_loopback",
        "type": "message",
        "role": "assistant",
        "model": request["model"],
        "content": [_anthropic_block(block) for block in reply.blocks],
        "stop_reason": "tool_use" if reply.of(ToolCall) else "end_turn",
        "stop_sequence": None,
        "usage": {
            **_anthropic_usage(reply.input_tokens, reply.output_tokens),
            "service_tier": "standard",
        },
    }


MESSAGES = Format(
    "/v1/messages",
    stream=_anthropic_stream,
    message=_anthropic_message,
    stream_error=lambda message: _anthropic_error(529, message),
    status_error=_anthropic_error,
)
