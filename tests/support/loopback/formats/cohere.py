"""Cohere's chat, version 2.

https://docs.cohere.com/reference/chat-stream
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loopback._wire import NAMED_EVENTS, Embeddings, Format, Text, Thinking, ToolCall, vector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loopback._wire import JSON, Reply


def _usage(reply: Reply) -> JSON:
    counts = {"input_tokens": reply.input_tokens, "output_tokens": reply.output_tokens}
    return {"billed_units": counts, "tokens": counts}


def _finish_reason(reply: Reply) -> str:
    return "TOOL_CALL" if reply.of(ToolCall) else "COMPLETE"


def _tool_call(call: ToolCall, arguments: str) -> JSON:
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.call_id, "type": "function", "function": function}


def _stream(reply: Reply, _request: JSON) -> Iterator[JSON]:
    def event(kind: str, index: int | None = None, **message: Any) -> JSON:
        place = {} if index is None else {"index": index}
        return {"type": kind, **place, "delta": {"message": message}}

    start = event("message-start", role="assistant", content=[], tool_plan="", tool_calls=[])
    yield {"id": "loopback", **start}
    calling = bool(reply.of(ToolCall))
    for index, block in enumerate(reply.blocks):
        if isinstance(block, ToolCall):
            yield event("tool-call-start", index, tool_calls=_tool_call(block, ""))
            for piece in block.slices or ("{}",):
                arguments = {"function": {"arguments": piece}}
                yield event("tool-call-delta", index, tool_calls=arguments)
            yield {"type": "tool-call-end", "index": index}
        elif calling and not isinstance(block, Thinking):
            for piece in block.slices:
                yield event("tool-plan-delta", tool_plan=piece)
        else:
            name = "thinking" if isinstance(block, Thinking) else "text"
            yield event("content-start", index, content={"type": name, name: ""})
            for piece in block.slices:
                yield event("content-delta", index, content={name: piece})
            yield {"type": "content-end", "index": index}
    delta = {"finish_reason": _finish_reason(reply), "usage": _usage(reply)}
    yield {"type": "message-end", "delta": delta}


def _message(reply: Reply, _request: JSON) -> JSON:
    message: JSON = {"role": "assistant", "content": []}
    calls = reply.of(ToolCall)
    if calls:
        message["tool_plan"] = "".join(text.whole for text in reply.of(Text))
        message["tool_calls"] = [_tool_call(call, call.whole or "{}") for call in calls]
    for block in reply.blocks:
        if isinstance(block, Thinking):
            message["content"].append({"type": "thinking", "thinking": block.whole})
        elif not calls:
            message["content"].append({"type": "text", "text": block.whole})
    return {
        "id": "loopback",
        "message": message,
        "finish_reason": _finish_reason(reply),
        "usage": _usage(reply),
    }


COHERE = Format(
    "/v2/chat",
    stream=_stream,
    message=_message,
    stream_error=lambda message: {
        "type": "message-end",
        "delta": {"finish_reason": "ERROR", "error": message},
    },
    status_error=lambda _status, message: {"message": message},
    framing=NAMED_EVENTS,
)


def _embeddings(request: JSON) -> JSON:
    texts = request["texts"]
    vectors = [vector(text) for text in texts]
    kinds = request.get("embedding_types")
    return {
        "id": "loopback",
        "response_type": "embeddings_by_type" if kinds else "embeddings_floats",
        "texts": texts,
        "embeddings": {"float": vectors} if kinds else vectors,
        "meta": {"api_version": {"version": "1"}, "billed_units": {"input_tokens": 1}},
    }


COHERE_EMBEDDINGS = Embeddings("/v1/embed", _embeddings)
