"""A format on the wire: pure functions from a reply to the frames of its stream and to its message."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

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
    """Thinking or reasoning, or a summary of it; OpenAI's chat completions carry none."""

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
class Framing:
    """The bytes of a stream.

    Args:
        content_type: The header of that name.
        encode: Returns the bytes of an event.
        end: Bytes after the last event.
        keepalive: Bytes that mean nothing.
        malformed: Bytes that are framed as an event and contain none.
    """

    content_type: str
    encode: Callable[[JSON], bytes]
    end: bytes = b""
    keepalive: bytes = b": keep-alive\n\n"
    malformed: bytes = b'data: {"id": \n\n'


def _unnamed(event: JSON) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _named(event: JSON) -> bytes:
    return f"event: {event['type']}\n".encode() + _unnamed(event)


_SSE: Final = "text/event-stream; charset=utf-8"
EVENTS: Final = Framing(_SSE, _unnamed)
EVENTS_UNTIL_DONE: Final = Framing(_SSE, _unnamed, end=b"data: [DONE]\n\n")
NAMED_EVENTS: Final = Framing(_SSE, _named, malformed=b'event: message_delta\ndata: {"id": \n\n')
JSON_LINES: Final = Framing(
    "application/x-ndjson",
    lambda event: json.dumps(event).encode() + b"\n",
    keepalive=b"",
    malformed=b'{"id": \n',
)


@dataclass(frozen=True)
class Format:
    """A provider's way to put a reply on the wire.

    Args:
        path: Where requests go. `{model}` in it is the request's model, if its body has none.
        stream: Returns the events of a streamed answer.
        message: Returns the whole answer.
        stream_error: Returns the event of an error within a stream.
        status_error: Returns the body of an answer with that status.
        framing: How an event becomes bytes.
        stream_path: Where requests for a stream go. By default a request's `stream` tells.
        streams: Whether a request without `stream` is for a stream.
    """

    path: str
    stream: Callable[[Reply, JSON], Iterator[JSON]]
    message: Callable[[Reply, JSON], JSON]
    stream_error: Callable[[str], JSON]
    status_error: Callable[[int, str], JSON]
    framing: Framing = NAMED_EVENTS
    stream_path: str | None = None
    streams: bool = False

    def frames(self, reply: Reply, request: JSON) -> Iterator[bytes]:
        yield from map(self.framing.encode, self.stream(reply, request))
        if self.framing.end:
            yield self.framing.end


@dataclass(frozen=True)
class Embeddings:
    """A provider's way to put embeddings on the wire.

    Args:
        path: Where requests go, as that of a `Format`.
        answer: Returns the answer to a request.
    """

    path: str
    answer: Callable[[JSON], Any]


def vector(text: Any) -> list[float]:
    """The embedding of a text, or of its tokens."""
    return [float(len(text)), float(text.count("w"))]
