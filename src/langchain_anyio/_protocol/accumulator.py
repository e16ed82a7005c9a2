"""Protocol events in, deltas and the final message out. No I/O.

Malformed events are part of the contract: whatever `langchain_core`'s stream makes of them is made of them here. Where a value of
the wrong type is let through, or an order of steps looks arbitrary, the outcome of an event that raises half-way depends on it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, cast, final

from langchain_core.messages import AIMessage
from langchain_protocol.protocol import ToolCall, ToolCallChunk, UsageInfo

from langchain_anyio._core import finalize_tool_call_chunk

Delta: TypeAlias = (
    tuple[Literal["text", "reasoning"], str] | tuple[Literal["tool_calls"], ToolCallChunk]
)
"""What an event adds to a projection, after the name of that projection."""

_Block: TypeAlias = dict[str, Any]

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


# Pieces of text that are kept apart before they are joined, which takes less memory.
LONGEST_RUN = 256


class Rope:
    """A value that pieces are added to, joined only when it is read."""

    __slots__ = ("_head", "_tail")

    def __init__(self, value: Any = "") -> None:
        # Text, except that events may put any other value here, which then grows by its own rules.
        self._head = value
        self._tail: list[str] = []

    def append(self, piece: Any, add: Callable[[Any, Any], Any] = operator.iadd) -> None:
        if isinstance(piece, str) and isinstance(self._head, str):
            self._tail.append(piece)
        else:
            self._head = add(self.value, piece)

    @property
    def is_text(self) -> bool:
        return isinstance(self._head, str)

    @property
    def value(self) -> Any:
        if self._tail:
            self._head += "".join(self._tail)
            self._tail.clear()
        return self._head


@final
class _Prose:
    """The text of a message, or its reasoning: as a whole, and block by block.

    Deltas that go on where the last one ended are joined now and then, so that what is kept is little more than
    the text, and once for the whole and the block.
    """

    __slots__ = ("_blocks", "_index", "_name", "_run", "_total", "loose")

    def __init__(self, name: Literal["text", "reasoning"]) -> None:
        self._name: Literal["text", "reasoning"] = name
        self._total = Rope()
        self._blocks: dict[Any, list[str]] = {}
        self.loose: list[str] | None = None
        """What came without an index, if anything did."""
        self._run: list[str] = []
        """The latest pieces of the block at `_index`, which are in none of the others yet."""
        self._index: Any = None

    @property
    def total(self) -> Rope:
        self._end_run()
        return self._total

    @property
    def blocks(self) -> dict[Any, list[str]]:
        self._end_run()
        return self._blocks

    def _end_run(self) -> None:
        if self._run:
            joined = "".join(self._run)
            self._run.clear()
            self._total.append(joined)
            self._blocks.setdefault(self._index, []).append(joined)

    def grow(self, piece: Any, index: Any) -> Delta | None:
        """Take one delta."""
        if not piece:
            return None
        if index == self._index and index is not None and isinstance(piece, str):
            self._run.append(piece)
            if len(self._run) > LONGEST_RUN:
                self._end_run()
            return self._name, piece
        if type(index) is int and isinstance(piece, str) and self._total.is_text:
            self._end_run()
            self._index = index
            self._run.append(piece)
            return self._name, piece
        total = self.total
        self._index = None
        total.append(piece)
        if not isinstance(piece, str):
            raise self._not_text(piece)
        if index is None:
            if self.loose is None:
                self.loose = []
            self.loose.append(piece)
        elif (block := self.blocks.get(index)) is not None:
            block.append(piece)
        else:
            self.blocks[index] = [piece]
        if total.is_text:
            self._index = index
        return self._name, piece

    def text_of(self, index: Any) -> str:
        """Return the text of a block, which is kept in one piece from now on."""
        pieces = self.blocks.get(index, [])
        pieces[:] = ["".join(pieces)]
        return pieces[0]

    def settle(self, whole: Any, index: Any) -> tuple[Any, Delta | None]:
        """Take a finished block, whose own text wins over that of its deltas.

        Returns:
            The text of the block, and a delta for what it adds to that of its deltas.
        """
        if index is None:
            if whole and whole != self.total.value:
                self._total = Rope(whole)
                self._index = None
                self.loose = [whole] if isinstance(whole, str) else []
            return self.total.value, None
        known = "".join(self.blocks.get(index, ()))
        if not whole:
            return known, None
        if whole == known:
            if type(whole) is str:
                known = whole  # so that the text is kept once
            self.blocks[index] = [known]
            return known, None
        delta: Delta | None = None
        self._index = None
        if not known or whole.startswith(known):
            tail = whole[len(known) :] if known else whole
            self.total.append(tail)
            if not isinstance(tail, str):
                raise self._not_text(tail)
            delta = (self._name, tail)
        self.blocks[index] = [whole]
        return whole, delta

    def joined(self) -> Any:
        """The indexed blocks in their order or, if there is none, all that came."""
        if self.blocks:
            return "".join("".join(self.blocks[index]) for index in sorted(self.blocks))
        return self.total.value

    def checked(self, value: Any) -> str:
        if not isinstance(value, str):
            raise self._not_text(value)
        return value

    def _not_text(self, value: Any) -> TypeError:
        return TypeError(f"{self._name} must be a string, not {type(value).__name__}")


@final
class _Call:
    """A tool call whose arguments are still coming."""

    __slots__ = ("args", "fields")

    def __init__(self) -> None:
        self.fields: _Block = {}
        self.args: Rope | None = None

    def replace(self, snapshot: Mapping[Any, Any]) -> None:
        """Take a block that replaces what it names."""
        for key, value in snapshot.items():
            if value is None:
                continue
            if key == "args":
                self.args = Rope(value)
            else:
                self.fields[key] = value

    def extend(self, chunk: Mapping[Any, Any]) -> None:
        """Take a block that adds to the arguments; the first id and name stay."""
        for key in ("id", "name"):
            if chunk.get(key) and key not in self.fields:
                self.fields[key] = chunk[key]
        args = self.args or Rope()
        args.append(chunk.get("args") or "", operator.add)
        self.args = args

    def finalized(self, kind: str) -> _Block:
        """Parse the arguments into a block of this kind, or an invalid tool call."""
        block = finalize_tool_call_chunk(
            raw_args=None if self.args is None else self.args.value,
            id_=self.fields.get("id"),
            name=self.fields.get("name"),
            extras={
                key: value
                for key, value in self.fields.items()
                if key not in {"type", "id", "name"}
            },
            finalized_type=kind,
        )
        return cast("_Block", block)

    def unfinished(self) -> _Block:
        """What there is of the call, as an invalid tool call."""
        return {
            "type": "invalid_tool_call",
            "id": self.fields.get("id"),
            "name": self.fields.get("name"),
            "args": None if self.args is None else self.args.value,
            "error": "The tool call is unfinished",
        }


def _block_of(event: Mapping[str, Any]) -> _Block | None:
    """The block that a start or finish carries, under its name or its former one."""
    block = event.get("content") or event.get("content_block")
    return block if isinstance(block, dict) else None


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
        # OpenAI Responses say why only where the response is incomplete
        details.get("reason") if isinstance(details, Mapping) else None,
        metadata.get("status"),
    ):
        if value and isinstance(value, str):
            return value
    return None


def _copied(value: Any) -> Any:
    """Copy lists and dicts, however deep; anything else is shared, as it may not be copyable."""
    root = [value]
    copies: dict[int, Any] = {}
    unread: list[Any] = [root]
    while unread:
        copy = unread.pop()
        for key, item in list(copy.items() if isinstance(copy, dict) else enumerate(copy)):
            if isinstance(item, dict | list):
                if id(item) not in copies:
                    copies[id(item)] = item.copy()
                    unread.append(copies[id(item)])
                copy[key] = copies[id(item)]
    return root[0]


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _shown(value: Any) -> str | None:
    try:
        return repr(value)
    except (ValueError, RecursionError):
        # An integer of thousands of digits, or nesting as deep.
        return None


def _sound(block: _Block) -> _Block:
    """A copy of a block; a tool call that an `AIMessage` would refuse becomes an invalid one."""
    block = _copied(block)
    if block.get("type") == "tool_call" and not (
        isinstance(block.get("name"), str)
        and isinstance(block.get("id"), str | None)
        and isinstance(block.get("args"), dict)
        and all(isinstance(key, str) for key in block["args"])
    ):
        args = block.get("args")
        block["type"] = "invalid_tool_call"
        block["args"] = args if isinstance(args, str) else _shown(args)
        block["error"] = "The tool call is malformed"
    if block.get("type") == "invalid_tool_call":
        block.update(
            {key: _text_or_none(block.get(key)) for key in ("id", "name", "args", "error")}
        )
    return block


def _sorted(indexes: list[Any]) -> list[Any]:
    """In order, or in the order of arrival where there is none."""
    try:
        return sorted(indexes)
    except TypeError:
        return indexes


@final
class Accumulator:
    """Assembles a message from protocol events, and says what each adds to the projections.

    Not safe for use by several threads at once. Memory and time grow linearly with the deltas.

    Args:
        message_id: The id of the message unless a `message-start` names another.

    Ports the dispatching half of `langchain_core.language_models.chat_model_stream.ChatModelStream`.
    Unlike there, nothing changes any more after the first `message-finish`, `error` or `fail()`.
    """

    __slots__ = (
        "_additional_kwargs",
        "_blocks",
        "_calls",
        "_finish_metadata",
        "_invalid_calls",
        "_quiet",
        "_server_calls",
        "_start_metadata",
        "_text",
        "_thoughts",
        "done",
        "error",
        "finish_reason",
        "message",
        "message_id",
        "reasoning",
        "text",
        "tool_calls",
        "usage",
    )

    def __init__(self, message_id: str | None = None) -> None:
        self.message_id: str | None = message_id
        self.done: bool = False
        self.error: BaseException | None = None
        self.message: AIMessage | None = None
        self.usage: UsageInfo | None = None
        self.finish_reason: str | None = None
        # The final values of the projections, once there is a message.
        self.text: str = ""
        self.reasoning: str = ""
        self.tool_calls: list[ToolCall] = []

        self._text = _Prose("text")
        self._thoughts: _Prose | None = None
        self._calls: dict[Any, _Call] = {}
        self._server_calls: dict[Any, _Call] = {}
        self._quiet: set[Any] | None = None
        """Calls of which a snapshot contradicted the deltas; they give no more of them."""
        self._blocks: dict[Any, _Block] = {}
        self._invalid_calls: list[_Block] = []
        self._start_metadata: Any = None
        self._finish_metadata: Any = None
        self._additional_kwargs: Any = None

    @property
    def _reasoning(self) -> _Prose:
        # Made when there is some.
        if self._thoughts is None:
            self._thoughts = _Prose("reasoning")
        return self._thoughts

    def feed(self, event: Mapping[str, Any]) -> Delta | None:
        """Take the next event.

        Args:
            event: A protocol event. Those of an unknown type are ignored.

        Returns:
            The delta that the event adds to a projection, if any.

        Raises:
            Exception: The event is malformed. What it says is taken as far as it was understood, and more events may follow;
                after a `message-finish` only `fail()` still has an effect.
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
        """Return the text of the deltas at an index so far."""
        return self._text.text_of(index)

    def grow_text(self, text: str, index: int) -> None:
        """Take the event of a piece of text, which is its delta too; the message has not ended."""
        self._text.grow(text, index)

    def fail(self, error: BaseException) -> None:
        """End the message with an error, unless it has come to an end.

        A `message-finish` that raised is no such end.
        """
        if self.message is None and self.error is None:
            self.done = True
            self.error = error

    def snapshot(self) -> AIMessage:
        """The message as far as it has come, at any time, also after a failure.

        While it is not whole, its `response_metadata["partial"]` is `True` and its unfinished tool calls are invalid ones. It
        shares no list or dict with the accumulator.
        """
        if self.message is not None:
            return self.message.model_copy(
                update={name: _copied(value) for name, value in self.message.__dict__.items()}
            )
        open_calls = {
            index: call.unfinished()
            for index, call in [*self._calls.items(), *self._server_calls.items()]
        }
        calls = [
            _sound(call)
            for call in (
                *cast("list[_Block]", self.tool_calls),
                *self._invalid_calls,
                *open_calls.values(),
            )
        ]
        try:
            metadata = _copied(self._response_metadata())
        except (TypeError, ValueError):
            metadata = {"output_version": "v1"}
        metadata["partial"] = True
        usage = None
        try:
            usage = AIMessage("", usage_metadata=_copied(self.usage)).usage_metadata
        except ValueError:
            pass
        # Not validated: the parts are sound by now, and text cut within a surrogate pair, which is not, must not make this raise.
        return AIMessage.model_construct(
            content=self._content_so_far(open_calls),
            id=_text_or_none(self.message_id),
            tool_calls=[
                {key: call.get(key) for key in ("name", "args", "id", "type")}
                for call in calls
                if call["type"] == "tool_call"
            ],
            invalid_tool_calls=[
                {key: call.get(key) for key in ("type", "id", "name", "args", "error")}
                for call in calls
                if call["type"] == "invalid_tool_call"
            ],
            usage_metadata=usage,
            response_metadata=metadata,
        )

    def _content_so_far(self, open_calls: dict[Any, _Block]) -> str | list[_Block]:
        blocks = {**self._blocks, **open_calls}
        placed = [(index, _sound(block)) for index, block in blocks.items()]
        loose: list[_Block] = []
        for name, prose in (("reasoning", self._reasoning), ("text", self._text)):
            placed += [
                (index, {"type": name, name: "".join(parts), "index": index})
                for index, parts in prose.blocks.items()
                if index not in blocks
            ]
            if prose.loose:
                loose.append({"type": name, name: "".join(prose.loose)})
        if not placed and not self._reasoning.loose:
            return "".join(self._text.loose or ())
        rank = {index: n for n, index in enumerate(_sorted([*dict(placed)]))}
        placed.sort(key=lambda item: rank[item[0]])
        return [block for _, block in placed] + loose

    def _delta(self, event: Mapping[str, Any]) -> Delta | None:
        index = event.get("index")
        delta = event.get("delta")
        block = event.get("content_block")
        if isinstance(delta, dict):
            kind = delta.get("type", "")
        elif isinstance(block, dict):
            # The former shape of a delta: a slice of a block.
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
            return self._extend_started_call(index, delta.get("args"))
        if kind == "block-delta":
            return self._replace_call(index, delta.get("fields"))
        if kind == "legacy-block-delta":
            return self._extend_call(index, delta.get("fields"), server=True)
        if kind == "data-delta":
            # The finished block has the data; there is no projection of it.
            return None
        return self._extend_call(index, block, server=False)

    def _extend_started_call(self, index: Any, args: Any) -> Delta | None:
        if index is None or not isinstance(args, str) or not args:
            return None
        if call := self._calls.get(index):
            call.extend({"args": args})
            return self._call_delta(index, args)
        if call := self._server_calls.get(index):
            call.extend({"args": args})
        # Else its start was not seen, and the finished block has the call.
        return None

    def _extend_call(self, index: Any, chunk: Any, *, server: bool) -> Delta | None:
        if not isinstance(chunk, dict):
            return None
        kind = chunk.get("type", "")
        if kind == "tool_call_chunk":
            if index is None:
                index = chunk.get("index", len(self._calls))
            call = self._calls.get(index) or _Call()
            call.extend(chunk)
            self._calls[index] = call
            if args := chunk.get("args"):
                return self._call_delta(index, args, chunk.get("index"))
        elif server and kind == "server_tool_call_chunk":
            if index is None:
                index = len(self._server_calls)
            call = self._server_calls.get(index) or _Call()
            call.extend(chunk)
            self._server_calls[index] = call
        return None

    def _replace_call(self, index: Any, snapshot: Any) -> Delta | None:
        if not isinstance(snapshot, dict):
            return None
        kind = snapshot.get("type", "")
        if kind == "tool_call_chunk":
            if index is None:
                index = snapshot.get("index", len(self._calls))
            call = self._calls.setdefault(index, _Call())
            held = call.args
            call.replace(snapshot)
            args = snapshot.get("args")
            if isinstance(args, str):
                known = "" if held is None else held.value or ""
                if not args.startswith(known):
                    if self._quiet is None:
                        self._quiet = set()
                    self._quiet.add(index)
                elif len(args) > len(known):
                    return self._call_delta(index, args[len(known) :])
        elif kind == "server_tool_call_chunk":
            if index is None:
                index = len(self._server_calls)
            self._server_calls.setdefault(index, _Call()).replace(snapshot)
        return None

    def _call_delta(self, index: Any, args: Any, provider_index: Any = None) -> Delta | None:
        if self._quiet is not None and index in self._quiet:
            return None
        fields = self._calls[index].fields
        chunk: ToolCallChunk = {
            "type": "tool_call_chunk",
            "id": fields.get("id"),
            "name": fields.get("name"),
            "args": args,
        }
        provider_index = fields.get("index", provider_index)
        if provider_index is not None:
            chunk["index"] = provider_index
        return "tool_calls", chunk

    def _start_block(self, event: Mapping[str, Any]) -> Delta | None:
        # Only the start of a tool call says what no later event repeats.
        block, index = _block_of(event), event.get("index")
        if block is None or index is None:
            return None
        kind = block.get("type")
        if kind == "tool_call_chunk":
            self._calls.setdefault(index, _Call()).replace(block)
            args = block.get("args")
            if isinstance(args, str) and args:
                return self._call_delta(index, args)
        elif kind == "server_tool_call_chunk":
            self._server_calls.setdefault(index, _Call()).replace(block)
        return None

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
            # A block without reasoning, as OpenAI sends, must not get an empty one: sent back, it would become an empty summary.
            block = {**block, "reasoning": text} if text else {**block}
        elif kind in {"tool_call", "invalid_tool_call"}:
            # An index here would let chunks that are merged later spoil the parsed arguments.
            block = {key: value for key, value in block.items() if key != "index"}
            if kind == "tool_call":
                block = {"id": "", "name": "", "args": {}} | block
                self.tool_calls.append(cast("ToolCall", block))
            else:
                self._invalid_calls.append(block)
            if index is not None:
                self._calls.pop(index, None)
                if kind == "invalid_tool_call":
                    self._server_calls.pop(index, None)
                self._blocks[index] = block
            return None
        elif kind in _WHOLE_BLOCKS:
            if kind == "server_tool_call" and index is not None:
                self._server_calls.pop(index, None)
        else:
            return None
        if index is not None:
            # What merges message chunks needs the index. For a whole block this shows in the event too, and is meant to: those
            # who read the raw events find it there.
            block.setdefault("index", index)
            self._blocks[index] = block
        return delta

    def _finish(self, event: Mapping[str, Any]) -> None:
        self.done = True
        self.usage = event.get("usage")
        self._finish_metadata = event.get("metadata")
        self._additional_kwargs = event.get("additional_kwargs")
        self.finish_reason = _finish_reason(self._finish_metadata)
        self._sweep(self._calls, "tool_call")
        self._sweep(self._server_calls, "server_tool_call")
        self.text = self._text.checked(self._text.joined())
        if self._thoughts is not None:
            self.reasoning = self._thoughts.checked(self._thoughts.joined())
        self.message = self._assembled()
        self._text, self._thoughts = _Prose("text"), None

    def _sweep(self, calls: dict[Any, _Call], kind: str) -> None:
        """Finish the calls that no event has finished."""
        for index in sorted(calls):
            block = calls[index].finalized(kind)
            if block["type"] == "invalid_tool_call":
                self._invalid_calls.append(block)
            elif kind == "tool_call":
                self.tool_calls.append(cast("ToolCall", block))
            self._blocks[index] = block
        calls.clear()

    def _response_metadata(self) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for key, name in (("provider", "model_provider"), ("model", "model_name")):
            if self._start_metadata and key in self._start_metadata:
                metadata[name] = self._start_metadata[key]
        if self._finish_metadata:
            metadata.update(self._finish_metadata)
        # The content is made of v1 blocks, whatever the provider's own setting says.
        metadata["output_version"] = "v1"
        return metadata

    def _assembled(self) -> AIMessage:
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
                for call in self._invalid_calls
            ],
            usage_metadata=self.usage,
            **more,
        )
