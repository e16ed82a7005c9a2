"""Protocol events in, deltas and the final message out. No I/O.

Malformed events are part of the contract: they have the same effect as in `langchain_core`'s
stream. Where a value of the wrong type is accepted, or an order of steps looks arbitrary, the
effect of an event that raises half-way depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, final

from langchain_core.messages import AIMessage
from langchain_protocol.protocol import ToolCall, ToolCallChunk, UsageInfo

from .snapshot import copy_message, partial_message
from .text_blocks import TextBlocks
from .tool_calls import Block, ToolCalls

TextDelta: TypeAlias = tuple[Literal["text", "reasoning"], str]
ToolCallDelta: TypeAlias = tuple[Literal["tool_calls"], ToolCallChunk]
Delta: TypeAlias = TextDelta | ToolCallDelta
"""The name of a projection, and what an event adds to it."""

_WHOLE_BLOCKS = frozenset(
    {
        "server_tool_call",
        "server_tool_result",
        "image",
        "audio",
        "video",
        "file",
        "non_standard",
    }
)


def _block_of(event: Mapping[str, Any]) -> Block | None:
    """Return the block of a start or finish event, from its current or its former field."""
    block = event.get("content") or event.get("content_block")
    return block if isinstance(block, dict) else None


def _tool_call_delta(chunk: ToolCallChunk | None) -> Delta | None:
    return None if chunk is None else ("tool_calls", chunk)


def _finish_reason(metadata: Any) -> str | None:
    if not isinstance(metadata, Mapping):
        return None
    details = metadata.get("incomplete_details")
    for value in (
        # OpenAI chat completions, Google, Mistral, Groq and most others
        metadata.get("finish_reason"),
        # Anthropic, and Bedrock's native calls
        metadata.get("stop_reason"),
        # Bedrock Converse
        metadata.get("stopReason"),
        # Ollama
        metadata.get("done_reason"),
        # OpenAI Responses, which give a reason only for an incomplete response
        details.get("reason") if isinstance(details, Mapping) else None,
        metadata.get("status"),
    ):
        if value and isinstance(value, str):
            return value
    return None


@final
class Accumulator:
    """Assembles a message from protocol events, and returns the delta of each event.

    Not thread-safe. Memory and time are linear in the deltas.

    Args:
        message_id: The id of the message, unless a `message-start` event has one.

    Ports the dispatching part of
    `langchain_core.language_models.chat_model_stream.ChatModelStream`. Unlike there, nothing
    changes after the first `message-finish`, `error` or `fail()`.
    """

    __slots__ = (
        "_additional_kwargs",
        "_blocks",
        "_calls",
        "_finish_metadata",
        "_reasoning_blocks",
        "_start_metadata",
        "_text",
        "done",
        "error",
        "finish_reason",
        "message",
        "message_id",
        "reasoning",
        "text",
        "usage",
    )

    def __init__(self, message_id: str | None = None) -> None:
        self.message_id: str | None = message_id
        self.done: bool = False
        self.error: BaseException | None = None
        self.message: AIMessage | None = None
        self.usage: UsageInfo | None = None
        self.finish_reason: str | None = None
        # Final values of the projections, set together with `message`.
        self.text: str = ""
        self.reasoning: str = ""

        self._text = TextBlocks("text")
        self._reasoning_blocks: TextBlocks | None = None
        self._calls = ToolCalls()
        self._blocks: dict[Any, Block] = {}
        self._start_metadata: Any = None
        self._finish_metadata: Any = None
        self._additional_kwargs: Any = None

    @property
    def _reasoning(self) -> TextBlocks:
        # Created on first use: most messages have no reasoning.
        if self._reasoning_blocks is None:
            self._reasoning_blocks = TextBlocks("reasoning")
        return self._reasoning_blocks

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The finished tool calls."""
        return self._calls.finished

    def feed(self, event: Mapping[str, Any]) -> Delta | None:
        """Process the next event.

        Args:
            event: A protocol event. Events of unknown types are ignored.

        Returns:
            The delta that the event adds to a projection, if any.

        Raises:
            Exception: The event is malformed. The part of it that was processed before the error
                counts, and more events may follow; after a `message-finish`, only `fail()` has an
                effect.
        """
        if self.done:
            return None
        kind = event.get("event")
        if kind == "content-block-delta":
            delta = event.get("delta")
            if isinstance(delta, dict) and delta.get("type") == "text-delta":
                # By far the most frequent event.
                return self._text.grow(delta.get("text"), event.get("index"))
            return self._delta(event)
        if kind == "content-block-start":
            return self._start_block(event)
        if kind == "content-block-finish":
            return self._finish_block(event)
        if kind == "message-start":
            self._start_metadata = event.get("metadata")
            if message_id := event.get("id"):
                self.message_id = message_id
        elif kind == "message-finish":
            self._finish(event)
        elif kind == "error":
            self.fail(RuntimeError(event.get("message", "Unknown error")))
        return None

    def text_of(self, index: int) -> str:
        """Return the text that the deltas at an index have so far."""
        return self._text.text_of(index)

    def fail(self, error: BaseException) -> None:
        """End the message with an error, unless it has a message or an error already.

        It still has an effect after a `message-finish` that raised.
        """
        if self.message is None and self.error is None:
            self.done = True
            self.error = error

    def snapshot(self) -> AIMessage:
        """Return the message so far, at any time, also after a failure.

        While it is incomplete, `response_metadata["partial"]` is `True` and unfinished tool calls
        are invalid tool calls. It shares no list or dict with the accumulator.
        """
        if self.message is not None:
            return copy_message(self.message)
        try:
            metadata = self._response_metadata()
        except (TypeError, ValueError):
            metadata = {"output_version": "v1"}
        return partial_message(
            text=self._text,
            reasoning=self._reasoning,
            blocks=self._blocks,
            calls=self._calls,
            message_id=self.message_id,
            usage=self.usage,
            metadata=metadata,
        )

    def _delta(self, event: Mapping[str, Any]) -> Delta | None:
        index = event.get("index")
        delta = event.get("delta")
        block = event.get("content_block")
        if isinstance(delta, dict):
            kind = delta.get("type", "")
        elif isinstance(block, dict):
            # The former form of a delta: a part of a block.
            delta = block
            kind = block.get("type")
            if kind in ("text", "reasoning"):
                kind = f"{kind}-delta"
            elif "data" in block:
                kind = "data-delta"
            else:
                delta, kind = {"fields": block}, "legacy-block-delta"
        else:
            return None

        if kind == "text-delta":
            return self._text.grow(delta.get("text", ""), index)
        if kind == "reasoning-delta":
            return self._reasoning.grow(delta.get("reasoning", ""), index)
        if kind == "tool-call-delta":
            return _tool_call_delta(self._calls.extend_started(index, delta.get("args")))
        if kind == "block-delta":
            return _tool_call_delta(self._calls.replace(index, delta.get("fields")))
        if kind == "legacy-block-delta":
            return _tool_call_delta(self._calls.extend(index, delta.get("fields"), server=True))
        if kind == "data-delta":
            # No projection shows data, and the finished block contains it.
            return None
        return _tool_call_delta(self._calls.extend(index, block, server=False))

    def _start_block(self, event: Mapping[str, Any]) -> Delta | None:
        # Only the start of a tool call contains anything that no later event repeats.
        block, index = _block_of(event), event.get("index")
        if block is None or index is None:
            return None
        return _tool_call_delta(self._calls.start(block, index))

    def _finish_block(self, event: Mapping[str, Any]) -> Delta | None:
        block, index = _block_of(event), event.get("index")
        if block is None:
            return None
        kind = block.get("type", "")
        delta: Delta | None = None
        if kind == "text":
            text, delta = self._text.settle(block.get("text", ""), index)
            block = {**block, "text": text}
        elif kind == "reasoning":
            text, delta = self._reasoning.settle(block.get("reasoning", ""), index)
            # OpenAI sends reasoning blocks without reasoning. An empty one, sent back to it, would
            # become an empty summary.
            block = {**block, "reasoning": text} if text else {**block}
        elif kind in {"tool_call", "invalid_tool_call"}:
            block = self._calls.finish(block, index)
            if index is not None:
                self._blocks[index] = block
            return None
        elif kind in _WHOLE_BLOCKS:
            if kind == "server_tool_call" and index is not None:
                self._calls.finish_server_call(index)
        else:
            return None
        if index is not None:
            # The index is needed to merge message chunks. Where `block` is still the event's own
            # dict, this also sets it there, on purpose: readers of the raw events expect it.
            block.setdefault("index", index)
            self._blocks[index] = block
        return delta

    def _finish(self, event: Mapping[str, Any]) -> None:
        self.done = True
        self.usage = event.get("usage")
        self._finish_metadata = event.get("metadata")
        self._additional_kwargs = event.get("additional_kwargs")
        self.finish_reason = _finish_reason(self._finish_metadata)
        for index, block in self._calls.finish_all():
            self._blocks[index] = block
        self.text = self._text.final_text()
        if self._reasoning_blocks is not None:
            self.reasoning = self._reasoning_blocks.final_text()
        self.message = self._assemble_message()
        self._text, self._reasoning_blocks = TextBlocks("text"), None

    def _response_metadata(self) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for key, name in (("provider", "model_provider"), ("model", "model_name")):
            if self._start_metadata and key in self._start_metadata:
                metadata[name] = self._start_metadata[key]
        if self._finish_metadata:
            metadata.update(self._finish_metadata)
        # The content consists of v1 blocks, whatever the provider's metadata states.
        metadata["output_version"] = "v1"
        return metadata

    def _assemble_message(self) -> AIMessage:
        if self._blocks:
            content: Any = [dict(self._blocks[index]) for index in sorted(self._blocks)]
        else:
            content = self._text.total.value
        more: dict[str, Any] = {"response_metadata": self._response_metadata()}
        if self._additional_kwargs:
            more["additional_kwargs"] = dict(self._additional_kwargs)
        return AIMessage(
            content,
            id=self.message_id,
            tool_calls=[
                {
                    "type": "tool_call",
                    "id": call.get("id", ""),
                    "name": call.get("name", ""),
                    "args": call.get("args", {}),
                }
                for call in self.tool_calls
            ],
            invalid_tool_calls=[
                {
                    "type": "invalid_tool_call",
                    "id": call.get("id") or None,
                    "name": call.get("name") or None,
                    "args": call.get("args") or None,
                    "error": call.get("error"),
                }
                for call in self._calls.invalid
            ],
            usage_metadata=self.usage,
            **more,
        )
