"""Mistral's chat completions: OpenAI's, except for thinking and tool calls.

https://docs.mistral.ai/api/endpoint/chat
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loopback._wire import CREATED, EVENTS_UNTIL_DONE, Format, Text, Thinking, ToolCall

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loopback._wire import JSON, Reply


def _usage(reply: Reply) -> JSON:
    return {
        "prompt_tokens": reply.input_tokens,
        "completion_tokens": reply.output_tokens,
        "total_tokens": reply.input_tokens + reply.output_tokens,
    }


def _tool_call(index: int, call: ToolCall) -> JSON:
    function = {"name": call.name, "arguments": call.whole or "{}"}
    return {"id": call.call_id, "type": "function", "function": function, "index": index}


def _thinking(text: str) -> list[JSON]:
    return [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]


def _completion(request: JSON, kind: str, choice: JSON, **more: Any) -> JSON:
    return {
        "id": "cmpl-loopback",
        "object": kind,
        "created": CREATED,
        "model": request["model"],
        "choices": [{"index": 0, **choice}],
        **more,
    }


def _stream(reply: Reply, request: JSON) -> Iterator[JSON]:
    def chunk(delta: JSON, finish_reason: str | None = None, **more: Any) -> JSON:
        choice = {"delta": delta, "finish_reason": finish_reason}
        return _completion(request, "chat.completion.chunk", choice, **more)

    yield chunk({"role": "assistant", "content": ""})
    for block in reply.blocks:
        if isinstance(block, ToolCall):
            continue
        for piece in block.slices:
            yield chunk({"content": _thinking(piece) if isinstance(block, Thinking) else piece})
    calls = [_tool_call(index, call) for index, call in enumerate(reply.of(ToolCall))]
    yield chunk(
        {"content": "", **({"tool_calls": calls} if calls else {})},
        "tool_calls" if calls else "stop",
        usage=_usage(reply),
    )


def _message(reply: Reply, request: JSON) -> JSON:
    text = "".join(block.whole for block in reply.of(Text))
    thinking = reply.of(Thinking)
    content: Any = text
    if thinking:
        content = _thinking("".join(block.whole for block in thinking))
        content.append({"type": "text", "text": text})
    calls = [_tool_call(index, call) for index, call in enumerate(reply.of(ToolCall))]
    message = {"role": "assistant", "content": content, "tool_calls": calls or None}
    choice = {"message": message, "finish_reason": "tool_calls" if calls else "stop"}
    return _completion(request, "chat.completion", choice, usage=_usage(reply))


def _error(status: int, message: str) -> JSON:
    return {"object": "error", "message": message, "type": "error", "code": str(status)}


MISTRAL = Format(
    "/mistral/v1/chat/completions",
    stream=_stream,
    message=_message,
    stream_error=lambda message: _error(500, message),
    status_error=_error,
    framing=EVENTS_UNTIL_DONE,
)
