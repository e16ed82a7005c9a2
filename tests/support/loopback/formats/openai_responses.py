"""OpenAI's Responses API.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loopback._wire import CREATED, Format, Text, Thinking, ToolCall

from .openai_chat_completions import openai_status_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loopback._wire import JSON, Reply


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
    "/v1/responses",
    stream=_response_stream,
    message=_response_message,
    stream_error=lambda message: {
        "type": "error",
        "code": "server_error",
        "message": message,
        "param": None,
        "sequence_number": 0,
    },
    status_error=openai_status_error,
)
