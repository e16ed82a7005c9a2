"""Amazon Bedrock's Converse API, with streams in the binary framing of AWS.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
https://smithy.io/2.0/aws/amazon-eventstream.html
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import TYPE_CHECKING

from loopback._wire import Embeddings, Format, Framing, Text, Thinking, ToolCall, vector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loopback._wire import JSON, Reply

_STRING = 7


def _header(name: str, value: str) -> bytes:
    return (
        struct.pack("!B", len(name))
        + name.encode()
        + struct.pack("!BH", _STRING, len(value))
        + value.encode()
    )


def _frame(headers: dict[str, str], payload: bytes) -> bytes:
    """Both lengths and their checksum, the headers, the payload, the checksum of it all."""
    head = b"".join(_header(name, value) for name, value in headers.items())
    prelude = struct.pack("!II", len(head) + len(payload) + 16, len(head))
    frame = prelude + struct.pack("!I", zlib.crc32(prelude)) + head + payload
    return frame + struct.pack("!I", zlib.crc32(frame))


def _encode(event: JSON) -> bytes:
    [(name, content)] = event.items()
    error = name.endswith("Exception")
    headers = {
        ":exception-type" if error else ":event-type": name,
        ":content-type": "application/json",
        ":message-type": "exception" if error else "event",
    }
    return _frame(headers, json.dumps(content).encode())


_EVENT_STREAM = Framing(
    "application/vnd.amazon.eventstream",
    _encode,
    keepalive=b"",
    malformed=_frame(
        {
            ":event-type": "contentBlockDelta",
            ":content-type": "application/json",
            ":message-type": "event",
        },
        b'{"delta": ',
    ),
)


def _block(block: Text) -> JSON:
    if isinstance(block, Thinking):
        text = {"text": block.whole, "signature": block.signature}
        return {"reasoningContent": {"reasoningText": text}}
    if isinstance(block, ToolCall):
        arguments = json.loads(block.whole or "{}")
        return {"toolUse": {"toolUseId": block.call_id, "name": block.name, "input": arguments}}
    return {"text": block.whole}


def _block_stream(index: int, block: Text) -> Iterator[JSON]:
    def delta(content: JSON) -> JSON:
        return {"contentBlockDelta": {"delta": content, "contentBlockIndex": index}}

    if isinstance(block, ToolCall):
        start = {"toolUse": {"toolUseId": block.call_id, "name": block.name}}
        yield {"contentBlockStart": {"start": start, "contentBlockIndex": index}}
    for piece in block.slices:
        if isinstance(block, ToolCall):
            yield delta({"toolUse": {"input": piece}})
        elif isinstance(block, Thinking):
            yield delta({"reasoningContent": {"text": piece}})
        else:
            yield delta({"text": piece})
    if isinstance(block, Thinking):
        yield delta({"reasoningContent": {"signature": block.signature}})
    yield {"contentBlockStop": {"contentBlockIndex": index}}


def _counts(reply: Reply) -> JSON:
    usage = {
        "inputTokens": reply.input_tokens,
        "outputTokens": reply.output_tokens,
        "totalTokens": reply.input_tokens + reply.output_tokens,
    }
    return {"usage": usage, "metrics": {"latencyMs": 1}}


def _stop_reason(reply: Reply) -> str:
    return "tool_use" if reply.of(ToolCall) else "end_turn"


def _stream(reply: Reply, _request: JSON) -> Iterator[JSON]:
    yield {"messageStart": {"role": "assistant"}}
    for index, block in enumerate(reply.blocks):
        yield from _block_stream(index, block)
    yield {"messageStop": {"stopReason": _stop_reason(reply)}}
    yield {"metadata": _counts(reply)}


def _message(reply: Reply, _request: JSON) -> JSON:
    content = [_block(block) for block in reply.blocks]
    return {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": _stop_reason(reply),
        **_counts(reply),
    }


BEDROCK = Format(
    "/model/{model}/converse",
    stream=_stream,
    message=_message,
    stream_error=lambda message: {"modelStreamErrorException": {"message": message}},
    status_error=lambda _status, message: {"message": message},
    framing=_EVENT_STREAM,
    stream_path="/model/{model}/converse-stream",
)


def _embeddings(request: JSON) -> JSON:
    return {"embedding": vector(request["inputText"]), "inputTextTokenCount": 1}


BEDROCK_EMBEDDINGS = Embeddings("/model/{model}/invoke", _embeddings)
