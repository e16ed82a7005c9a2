"""The three formats, as pure functions from a reply to the events of its stream and to its message."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

JSON = dict[str, Any]

CREATED = 1_760_000_000


class Text:
    """Text that arrives in the given slices."""

    def __init__(self, *slices: str) -> None:
        self.slices = slices
        self.whole = "".join(slices)


class Thinking(Text):
    """Thinking (Anthropic), a reasoning summary (Responses); chat completions carry none."""

    def __init__(self, *slices: str, signature: str = "c2lnbmF0dXJl") -> None:
        super().__init__(*slices)
        self.signature = signature


class ToolCall(Text):
    """A call of a tool whose arguments arrive as the given slices of JSON."""

    def __init__(self, name: str, *slices: str, call_id: str) -> None:
        super().__init__(*slices)
        self.name = name
        self.call_id = call_id


class Reply:
    """What the model says: blocks one after another, and the tokens that it counts."""

    def __init__(self, *blocks: Text, input_tokens: int = 11, output_tokens: int = 7) -> None:
        self.blocks = blocks
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens

    def of(self, kind: type[Text]) -> list[Any]:
        return [block for block in self.blocks if type(block) is kind]


@dataclass(frozen=True)
class Format:
    """One provider's way to put a reply on the wire."""

    stream: Callable[[Reply, JSON], Iterator[JSON]]
    message: Callable[[Reply, JSON], JSON]
    stream_error: Callable[[str], JSON]
    status_error: Callable[[int, str], JSON]
    # Chat completions name no event in their frames and end with one that isn't JSON.
    named_events: bool = True

    def frames(self, reply: Reply, request: JSON) -> Iterator[bytes]:
        for event in self.stream(reply, request):
            yield self.frame(event)
        if not self.named_events:
            yield b"data: [DONE]\n\n"

    def frame(self, event: JSON) -> bytes:
        data = b"data: " + json.dumps(event).encode() + b"\n\n"
        return f"event: {event['type']}\n".encode() + data if self.named_events else data


def _openai_status_error(status: int, message: str) -> JSON:
    kind = {401: "invalid_request_error", 429: "tokens"}.get(status, "server_error")
    code = {401: "invalid_api_key", 429: "rate_limit_exceeded"}.get(status)
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


# Chat completions: https://platform.openai.com/docs/api-reference/chat-streaming


def _completion_usage(reply: Reply) -> JSON:
    return {
        "prompt_tokens": reply.input_tokens,
        "completion_tokens": reply.output_tokens,
        "total_tokens": reply.input_tokens + reply.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _completion(request: JSON, kind: str) -> JSON:
    return {
        "id": "chatcmpl-loopback",
        "object": kind,
        "created": CREATED,
        "model": request["model"],
        "service_tier": "default",
        "system_fingerprint": "fp_loopback",
    }


def _completion_stream(reply: Reply, request: JSON) -> Iterator[JSON]:
    with_usage = (request.get("stream_options") or {}).get("include_usage", False)
    head = _completion(request, "chat.completion.chunk")
    if with_usage:
        head["usage"] = None

    def chunk(delta: JSON, finish_reason: str | None = None) -> JSON:
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        return {**head, "choices": [choice]}

    calls = reply.of(ToolCall)
    yield chunk({"role": "assistant", "content": None if calls else "", "refusal": None})
    for text in reply.of(Text):
        for piece in text.slices:
            yield chunk({"content": piece})
    for index, call in enumerate(calls):
        function = {"name": call.name, "arguments": ""}
        yield chunk(
            {
                "tool_calls": [
                    {"index": index, "id": call.call_id, "type": "function", "function": function}
                ]
            }
        )
        for piece in call.slices:
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield chunk({}, "tool_calls" if calls else "stop")
    if with_usage:
        yield {**head, "choices": [], "usage": _completion_usage(reply)}


def _completion_message(reply: Reply, request: JSON) -> JSON:
    calls = reply.of(ToolCall)
    message: JSON = {
        "role": "assistant",
        "content": "".join(text.whole for text in reply.of(Text)) or None,
        "refusal": None,
        "annotations": [],
    }
    if calls:
        message["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.whole},
            }
            for call in calls
        ]
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": "tool_calls" if calls else "stop",
    }
    return {
        **_completion(request, "chat.completion"),
        "choices": [choice],
        "usage": _completion_usage(reply),
    }


CHAT_COMPLETIONS = Format(
    stream=_completion_stream,
    message=_completion_message,
    stream_error=lambda message: _openai_status_error(500, message),
    status_error=_openai_status_error,
    named_events=False,
)


# Responses: https://platform.openai.com/docs/api-reference/responses-streaming


def _response(request: JSON, status: str, output: list[JSON], usage: JSON | None) -> JSON:
    return {
        "id": "resp_loopback",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "model": request["model"],
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage,
        "user": None,
        "metadata": {},
    }


def _response_usage(reply: Reply) -> JSON:
    return {
        "input_tokens": reply.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": reply.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": reply.input_tokens + reply.output_tokens,
    }


def _response_item(index: int, block: Text) -> JSON:
    if isinstance(block, Thinking):
        summary = [{"type": "summary_text", "text": block.whole}]
        return {
            "id": f"rs_{index}",
            "type": "reasoning",
            "summary": summary,
            "encrypted_content": block.signature,
        }
    if isinstance(block, ToolCall):
        return {
            "id": f"fc_{index}",
            "type": "function_call",
            "status": "completed",
            "arguments": block.whole,
            "call_id": block.call_id,
            "name": block.name,
        }
    part = {"type": "output_text", "text": block.whole, "annotations": [], "logprobs": []}
    return {
        "id": f"msg_{index}",
        "type": "message",
        "status": "completed",
        "content": [part],
        "role": "assistant",
    }


def _response_item_stream(index: int, block: Text) -> Iterator[JSON]:
    item = _response_item(index, block)
    begun = {
        key: value
        for key, value in (("content", []), ("summary", []), ("arguments", ""))
        if key in item
    }
    if "status" in item:
        begun["status"] = "in_progress"
    yield {
        "type": "response.output_item.added",
        "output_index": index,
        "item": {**item, **begun},
    }
    place = {"item_id": item["id"], "output_index": index}
    if isinstance(block, ToolCall):
        name = "response.function_call_arguments"
        for piece in block.slices:
            yield {"type": f"{name}.delta", **place, "delta": piece}
        yield {"type": f"{name}.done", **place, "arguments": block.whole, "name": block.name}
    else:
        thinking = isinstance(block, Thinking)
        part_name, text_name = (
            ("response.reasoning_summary_part", "response.reasoning_summary_text")
            if thinking
            else ("response.content_part", "response.output_text")
        )
        place["summary_index" if thinking else "content_index"] = 0
        logprobs: JSON = {} if thinking else {"logprobs": []}
        part = item["summary" if thinking else "content"][0]
        yield {"type": f"{part_name}.added", **place, "part": {**part, "text": ""}}
        for piece in block.slices:
            yield {"type": f"{text_name}.delta", **place, "delta": piece, **logprobs}
        yield {"type": f"{text_name}.done", **place, "text": block.whole, **logprobs}
        yield {"type": f"{part_name}.done", **place, "part": part}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _response_stream(reply: Reply, request: JSON) -> Iterator[JSON]:
    def events() -> Iterator[JSON]:
        begun = _response(request, "in_progress", [], None)
        yield {"type": "response.created", "response": begun}
        yield {"type": "response.in_progress", "response": begun}
        for index, block in enumerate(reply.blocks):
            yield from _response_item_stream(index, block)
        yield {"type": "response.completed", "response": _response_message(reply, request)}

    for number, event in enumerate(events()):
        yield {**event, "sequence_number": number}


def _response_message(reply: Reply, request: JSON) -> JSON:
    items = [_response_item(index, block) for index, block in enumerate(reply.blocks)]
    return _response(request, "completed", items, _response_usage(reply))


RESPONSES = Format(
    stream=_response_stream,
    message=_response_message,
    stream_error=lambda message: {
        "type": "error",
        "code": "server_error",
        "message": message,
        "param": None,
        "sequence_number": 0,
    },
    status_error=_openai_status_error,
)


# Messages: https://docs.anthropic.com/en/docs/build-with-claude/streaming


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
    stream=_anthropic_stream,
    message=_anthropic_message,
    stream_error=lambda message: _anthropic_error(529, message),
    status_error=_anthropic_error,
)
