"""Google's Gemini API.

https://ai.google.dev/api/generate-content
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from loopback._wire import EVENTS, Embeddings, Format, Text, Thinking, ToolCall, vector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loopback._wire import JSON, Reply


def _parts(block: Text) -> Iterator[JSON]:
    if isinstance(block, ToolCall):
        arguments = json.loads(block.whole or "{}")
        call = {"id": block.call_id, "name": block.name, "args": arguments}
        yield {"functionCall": call}
        return
    for piece in block.slices:
        yield {"text": piece, **({"thought": True} if isinstance(block, Thinking) else {})}


def _response(reply: Reply, request: JSON, parts: list[JSON], finish: str | None) -> JSON:
    candidate: JSON = {"content": {"role": "model", "parts": parts}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    return {
        "candidates": [candidate],
        "usageMetadata": {
            "promptTokenCount": reply.input_tokens,
            "candidatesTokenCount": reply.output_tokens,
            "totalTokenCount": reply.input_tokens + reply.output_tokens,
        },
        "modelVersion": request["model"],
        "responseId": "loopback",
    }


def _stream(reply: Reply, request: JSON) -> Iterator[JSON]:
    for block in reply.blocks:
        for part in _parts(block):
            yield _response(reply, request, [part], None)
    yield _response(reply, request, [{"text": ""}], "STOP")


def _message(reply: Reply, request: JSON) -> JSON:
    parts: list[JSON] = []
    for block in reply.blocks:
        if isinstance(block, ToolCall):
            parts += _parts(block)
        else:
            thought = {"thought": True} if isinstance(block, Thinking) else {}
            parts.append({"text": block.whole, **thought})
    return _response(reply, request, parts, "STOP")


def _error(status: int, message: str) -> JSON:
    kind = {401: "UNAUTHENTICATED", 429: "RESOURCE_EXHAUSTED"}.get(status, "INTERNAL")
    return {"error": {"code": status, "message": message, "status": kind}}


GOOGLE_GENAI = Format(
    "/v1beta/models/{model}:generateContent",
    stream=_stream,
    message=_message,
    stream_error=lambda message: _error(503, message),
    status_error=_error,
    framing=EVENTS,
    stream_path="/v1beta/models/{model}:streamGenerateContent",
)


def _embeddings(request: JSON) -> JSON:
    texts = (each["content"]["parts"][0]["text"] for each in request["requests"])
    return {"embeddings": [{"values": vector(text)} for text in texts]}


GOOGLE_EMBEDDINGS = Embeddings("/v1beta/models/{model}:batchEmbedContents", _embeddings)
