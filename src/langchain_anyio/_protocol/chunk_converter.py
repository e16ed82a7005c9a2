"""Chat model chunks in, protocol events out. No I/O."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, cast, final

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.block_translators import get_translator

from langchain_anyio._langchain_core import (
    GATEWAY_METADATA_RESPONSE_KEY,
    finalize_tool_call_chunk,
    merge_dicts,
)

from .text_blocks import MAX_PENDING, TextBuffer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from langchain_core.outputs import ChatGenerationChunk
    from langchain_protocol.protocol import MessagesData

# The field of a block that its slices append to. Blocks of other types grow by their `data`, if
# they have any, and are otherwise whole.
_CONTENT_FIELD: Mapping[Any, str] = {
    "text": "text",
    "reasoning": "reasoning",
    "tool_call_chunk": "args",
    "server_tool_call_chunk": "args",
}
_FINISHED_CALL: Mapping[Any, str] = {
    "tool_call_chunk": "tool_call",
    "server_tool_call_chunk": "server_tool_call",
}
# Fields that are large, and of no use before the block is finished.
_NOT_AT_START = frozenset({"args", "data", "output", "transcript", "value"})
_REQUIRED_AT_START = {
    "tool_call": "args",
    "server_tool_call": "args",
    "non_standard": "value",
}
# Providers whose translators, in langchain-core's `block_translators`, turn a chunk of nothing but
# text into one text block.
_PLAIN_PROVIDERS = frozenset(
    {
        "anthropic",
        "bedrock",
        "bedrock_converse",
        "google_genai",
        "google_vertexai",
        "groq",
        "openai",
    }
)
_NO_INDEX = object()
# Shared by messages without usage, metadata or the like; never modified.
_EMPTY: dict[str, Any] = {}
_TEXT_KEY = (_NO_INDEX, "text", 0)


def _block_start(block: Mapping[str, Any]) -> dict[str, Any]:
    """Return the block of a start event: the given one, without its content."""
    kind = block.get("type", "text")
    if kind in _FINISHED_CALL:
        # A client's call always has the keys for its id and name.
        required = ("id", "name") if kind == "tool_call_chunk" else ()
        start = {
            key: block.get(key)
            for key in ("id", "name", "index")
            if key in required or block.get(key) is not None
        }
        return {"type": kind, **start, "args": ""}
    if kind in _CONTENT_FIELD:
        omitted = {"index", "annotations"} if kind == "text" else {"index"}
        return {key: value for key, value in block.items() if key not in omitted} | {kind: ""}
    start = {key: value for key, value in block.items() if key not in _NOT_AT_START}
    if kind in _REQUIRED_AT_START:
        start[_REQUIRED_AT_START[kind]] = {}
    return start


def _block_delta(block: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the delta of a slice of a block; `None` if the slice has no content."""
    kind = block.get("type")
    name = _CONTENT_FIELD.get(kind, "data")
    content = block.get(name)
    if not content:
        return None
    if kind in _FINISHED_CALL:
        return {"type": "tool-call-delta", "args": content}
    delta = {"type": f"{name}-delta", name: content}
    if name == "data" and block.get("encoding") == "base64":
        delta["encoding"] = "base64"
    return delta


@final
class _Block:
    """A block that is still growing."""

    __slots__ = ("_content", "_fields", "_name", "index", "lacks_text", "replaced")

    def __init__(self, index: int, block: Mapping[str, Any]) -> None:
        self.index = index
        self.replaced = False
        """True once a whole block has replaced earlier slices."""
        self.lacks_text = False
        """True if its text is kept elsewhere, where the bridge's `text_of` finds it."""
        self._replace(block)

    def _replace(self, block: Mapping[str, Any]) -> None:
        self._fields = dict(block)
        self._content: TextBuffer | None = None

    def extend(self, block: Mapping[str, Any]) -> None:
        """Append the next slice, or replace this block by a whole one."""
        kind = self._fields.get("type")
        name = _CONTENT_FIELD.get(kind, "data")
        if block.get("type") != kind or (name == "data" and "data" not in block):
            self._replace(block)
            self.replaced = True
            return
        if self._content is None:
            start = self._fields.get(name, "")
            self._name = name
            self._content = TextBuffer(start if kind == name else start or "")
        piece = block.get(name, "")
        self._content.append(piece if kind == name else piece or "", operator.add)
        for key, value in block.items():
            if value is None or key == name:
                continue
            if name == "args" and key not in ("id", "name"):
                continue
            if key == "extras" and isinstance(value, dict):
                value = {**(self._fields.get(key) or {}), **value}
            self._fields[key] = value

    def append(self, text: str) -> None:
        """Append slices that are nothing but text."""
        if self._content is None:
            self.extend({"type": "text", "text": text})
        else:
            self._content.append(text)

    def finish(self, text: str | None) -> dict[str, Any]:
        """Return the whole block, with `text` as its text unless that is `None`."""
        fields = self._fields
        if text is not None:
            fields["text"] = text
        elif self._content is not None:
            fields[self._name] = self._content.value
        kind = fields.get("type")
        if kind not in _FINISHED_CALL:
            return fields
        # With an index on a client's call, merging message chunks later would corrupt the parsed
        # arguments.
        parsed = {"type", "id", "name", "args"}
        if kind == "tool_call_chunk":
            parsed.add("index")
        block = finalize_tool_call_chunk(
            raw_args=fields.get("args"),
            id_=fields.get("id"),
            name=fields.get("name"),
            extras={
                key: value
                for key, value in fields.items()
                if key not in parsed and value is not None
            },
            finalized_type=_FINISHED_CALL[kind],
        )
        return cast("dict[str, Any]", block)


def _text_delta(index: int, text: Any) -> Any:
    return {
        "event": "content-block-delta",
        "index": index,
        "delta": {"type": "text-delta", "text": text},
    }


def _is_plain(message: AIMessageChunk) -> bool:
    """Return whether the chunk is nothing but text, apart from its metadata."""
    return isinstance(message.content, str) and not (
        message.additional_kwargs
        or message.tool_calls
        or message.tool_call_chunks
        or message.usage_metadata
    )


def _translates_to_text(provider: Any) -> bool:
    """Return whether a plain chunk of this provider becomes one text block."""
    return not provider or (
        isinstance(provider, str)
        and (provider in _PLAIN_PROVIDERS or get_translator(provider) is None)
    )


@final
class ChunkBridge:
    """Turns the chunks of one message into its protocol events.

    Not thread-safe. Memory and time are linear in the chunks.

    Args:
        message_id: The id of the message; by default, that of the first chunk.
        generation_info: A dict that receives metadata meant for tracing only.
        text_of: Returns the text of the text deltas at an index. If given, the bridge keeps no
            plain text itself.

    Ports `langchain_core.language_models._compat_bridge.chunks_to_events`, event for event.
    """

    __slots__ = (
        "_additional_kwargs",
        "_blocks",
        "_generation_info",
        "_message_id",
        "_pending",
        "_plain",
        "_plain_metadata",
        "_response_metadata",
        "_started",
        "_text_of",
        "_usage",
    )

    def __init__(
        self,
        message_id: str | None = None,
        generation_info: dict[str, Any] | None = None,
        text_of: Callable[[int], str] | None = None,
    ) -> None:
        self._message_id = message_id
        self._text_of = text_of
        self._generation_info = generation_info
        self._started = False
        self._blocks: dict[Any, _Block] = {}
        self._usage: dict[str, Any] = _EMPTY
        self._response_metadata: dict[str, Any] = _EMPTY
        self._additional_kwargs: dict[str, Any] = _EMPTY
        self._plain: _Block | None = None
        """The block that plain text belongs to, if the last chunk was plain text."""
        self._pending: list[str] = []
        """Text of `_plain` that is not in it yet; joined from time to time to save memory."""
        self._plain_metadata: dict[str, Any] = _EMPTY
        """The metadata of that chunk; text of other metadata may be translated differently."""

    def feed(self, chunk: ChatGenerationChunk) -> Sequence[MessagesData]:
        """Return the events of the next chunk.

        Args:
            chunk: A chunk from a model's `_stream` or `_astream`. A message that is not an
                `AIMessageChunk` is ignored.
        """
        plain_block = self._plain
        if plain_block is not None and (text := self._plain_text(chunk, plain_block)) is not None:
            return (_text_delta(plain_block.index, text),) if text else ()
        message = chunk.message
        if not isinstance(message, AIMessageChunk):
            return ()
        self._flush()
        self._plain = None
        provider = message.response_metadata.get("model_provider")
        plain = _is_plain(message) and _translates_to_text(provider)
        events = self._feed_blocks(message, chunk.generation_info, plain=plain)
        if plain:
            self._plain = self._blocks.get(_TEXT_KEY)
            self._plain_metadata = message.response_metadata.copy() or _EMPTY
        return events

    def _plain_text(self, chunk: ChatGenerationChunk, block: _Block) -> str | None:
        """Process a chunk that is nothing but text, after another one, whose text is in `block`.

        Returns:
            Its text, or `None` if it is anything else and was not processed.
        """
        message = chunk.message
        if type(message) is not AIMessageChunk or chunk.generation_info:
            return None
        # A lookup in a pydantic model's dict takes a third of the time of an attribute.
        fields = message.__dict__
        text = fields["content"]
        if (
            not isinstance(text, str)
            or fields["response_metadata"] != self._plain_metadata
            or fields["tool_call_chunks"]
            or fields["usage_metadata"]
            or fields["additional_kwargs"]
            or fields["tool_calls"]
        ):
            return None
        if text:
            if self._text_of is not None and not block.replaced:
                block.lacks_text = True
            else:
                self._pending.append(text)
                if len(self._pending) > MAX_PENDING:
                    self._flush()
        return text

    def _flush(self) -> None:
        if self._pending and self._plain is not None:
            self._plain.append("".join(self._pending))
            self._pending.clear()

    def finish(self) -> Sequence[MessagesData]:
        """End the message, and return its last events; empty if there was no chunk."""
        if not self._started:
            return ()
        self._flush()
        events: list[Any] = [
            {
                "event": "content-block-finish",
                "index": block.index,
                "content": block.finish(self._text_kept_elsewhere(block)),
            }
            for block in self._blocks.values()
        ]
        finish: dict[str, Any] = {"event": "message-finish"}
        for key, value in (
            ("usage", self._usage),
            ("metadata", self._response_metadata),
            ("additional_kwargs", self._additional_kwargs),
        ):
            if value:
                finish[key] = value
        return [*events, finish]

    def _text_kept_elsewhere(self, block: _Block) -> str | None:
        if self._text_of is None or block.replaced or not block.lacks_text:
            return None
        return self._text_of(block.index)

    def _feed_blocks(
        self, message: AIMessageChunk, generation_info: dict[str, Any] | None, *, plain: bool
    ) -> Sequence[MessagesData]:
        events: list[Any] = []
        if generation_info or message.response_metadata:
            self._add_metadata({**(generation_info or {}), **message.response_metadata})
        if message.additional_kwargs:
            self._additional_kwargs = merge_dicts(
                self._additional_kwargs, message.additional_kwargs
            )
        if not self._started:
            self._started = True
            events.append(self._message_start(message))
        if (
            plain
            and (text := message.content)
            and type(message) is AIMessageChunk
            and "output_version" not in message.response_metadata
        ):
            # A short cut for most messages' first text, so that the first delta arrives sooner.
            whole = {"type": "text", "text": text}
            known = self._blocks.get(_TEXT_KEY)
            if known is None:
                index = len(self._blocks)
                self._blocks[_TEXT_KEY] = _Block(index, whole)
                start = {"type": "text", "text": ""}
                events.append({"event": "content-block-start", "index": index, "content": start})
            else:
                index = known.index
                known.extend(whole)
            events.append(_text_delta(index, text))
            return events
        try:
            blocks = cast("Sequence[Any]", message.content_blocks)
        except Exception:  # noqa: BLE001
            # A chunk with invalid content adds no block, but its usage and metadata count.
            blocks = ()
        for position, block in enumerate(blocks):
            if not isinstance(block, dict):
                continue
            key: Any = block.get("index")
            if key is None:
                key = (_NO_INDEX, block.get("type"), position)
            if key in self._blocks:
                self._blocks[key].extend(block)
            else:
                self._blocks[key] = _Block(len(self._blocks), block)
                events.append(
                    {
                        "event": "content-block-start",
                        "index": self._blocks[key].index,
                        "content": _block_start(block),
                    }
                )
            if delta := _block_delta(block):
                events.append(
                    {
                        "event": "content-block-delta",
                        "index": self._blocks[key].index,
                        "delta": delta,
                    }
                )
        if message.usage_metadata:
            self._add_usage(message.usage_metadata)
        return events

    def _message_start(self, message: AIMessageChunk) -> dict[str, Any]:
        message_id = message.id if self._message_id is None else self._message_id
        start: dict[str, Any] = {"event": "message-start", "role": "ai", "id": message_id or ""}
        if message.response_metadata:
            metadata = {
                key: message.response_metadata[name]
                for key, name in (("provider", "model_provider"), ("model", "model_name"))
                if name in message.response_metadata
            }
            if metadata:
                start["metadata"] = metadata
        return start

    def _add_metadata(self, metadata: dict[str, Any]) -> None:
        for_tracing = metadata.pop(GATEWAY_METADATA_RESPONSE_KEY, None)
        if self._generation_info is not None and isinstance(for_tracing, dict):
            self._generation_info[GATEWAY_METADATA_RESPONSE_KEY] = for_tracing
        if metadata:
            self._response_metadata = {**self._response_metadata, **metadata}

    def _add_usage(self, usage: Mapping[str, Any]) -> None:
        self._usage = self._usage or {}
        for key in ("input_tokens", "output_tokens", "total_tokens"):
            if key in usage:
                self._usage[key] = self._usage.get(key, 0) + usage[key]
        for key in ("input_token_details", "output_token_details"):
            if usage.get(key):
                self._usage.setdefault(key, {}).update(usage[key])
