"""OpenAI's chat completions, the format of most other providers too.

https://platform.openai.com/docs/api-reference/chat-streaming

The others add a field for reasoning, of one of two names; OpenAI has none.
"""

from __future__ import annotations

from base64 import b64encode
from functools import partial
from typing import TYPE_CHECKING

from loopback._wire import (
    CREATED,
    EVENTS_UNTIL_DONE,
    Embeddings,
    Format,
    Text,
    Thinking,
    ToolCall,
    vector,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loopback._wire import JSON, Reply


def openai_status_error(status: int, message: str) -> JSON:
    kind = {401: "invalid_request_error", 429: "tokens"}.get(status, "server_error")
    code = {401: "invalid_api_key", 429: "rate_limit_exceeded"}.get(status)
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


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


def _completion_stream(reply: Reply, request: JSON, reasoning: str | None = None) -> Iterator[JSON]:
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
    if reasoning is not None:
        for thinking in reply.of(Thinking):
            for piece in thinking.slices:
                yield chunk({reasoning: piece})
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


def _completion_message(reply: Reply, request: JSON, reasoning: str | None = None) -> JSON:
    calls = reply.of(ToolCall)
    message: JSON = {
        "role": "assistant",
        "content": "".join(text.whole for text in reply.of(Text)) or None,
        "refusal": None,
        "annotations": [],
    }
    if reasoning is not None and (thinking := reply.of(Thinking)):
        message[reasoning] = "".join(block.whole for block in thinking)
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


def _completions(path: str, reasoning: str | None = None) -> Format:
    return Format(
        path,
        stream=partial(_completion_stream, reasoning=reasoning),
        message=partial(_completion_message, reasoning=reasoning),
        stream_error=lambda message: openai_status_error(500, message),
        status_error=openai_status_error,
        framing=EVENTS_UNTIL_DONE,
    )


CHAT_COMPLETIONS = _completions("/v1/chat/completions")
AZURE_COMPLETIONS = _completions("/openai/deployments/{deployment}/chat/completions")
REASONING_CONTENT_COMPLETIONS = _completions(
    "/reasoning_content/v1/chat/completions", "reasoning_content"
)
REASONING_COMPLETIONS = _completions("/reasoning/v1/chat/completions", "reasoning")
GROQ = _completions("/openai/v1/chat/completions", "reasoning")
PERPLEXITY = _completions("/perplexity/chat/completions")


def _embeddings(request: JSON) -> JSON:
    texts = request["input"]
    data = [
        {"object": "embedding", "index": index, "embedding": vector(text)}
        for index, text in enumerate([texts] if isinstance(texts, str) else texts)
    ]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    model = request.get("model", "loopback")
    return {"object": "list", "model": model, "data": data, "usage": usage}


def _bytes_embeddings(request: JSON) -> JSON:
    answer = _embeddings(request)
    for each in answer["data"]:
        packed = bytes(int(number) for number in each["embedding"])
        each["embedding"] = b64encode(packed).decode()
    return answer


OPENAI_EMBEDDINGS = Embeddings("/v1/embeddings", _embeddings)
# Perplexity's are the same, with a byte for each number.
PERPLEXITY_EMBEDDINGS = Embeddings("/perplexity/v1/embeddings", _bytes_embeddings)
