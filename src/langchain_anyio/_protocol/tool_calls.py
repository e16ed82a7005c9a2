"""Tool calls whose arguments arrive in pieces."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any, cast, final

from langchain_protocol.protocol import ToolCall, ToolCallChunk

from langchain_anyio._langchain_core import finalize_tool_call_chunk

from .text_blocks import TextBuffer

Block = dict[str, Any]


@final
class PartialToolCall:
    """A tool call whose arguments are incomplete."""

    __slots__ = ("args", "fields")

    def __init__(self) -> None:
        self.fields: Block = {}
        self.args: TextBuffer | None = None

    def replace(self, snapshot: Mapping[Any, Any]) -> None:
        """Replace the fields that a block contains."""
        for key, value in snapshot.items():
            if value is None:
                continue
            if key == "args":
                self.args = TextBuffer(value)
            else:
                self.fields[key] = value

    def extend(self, chunk: Mapping[Any, Any]) -> None:
        """Append the arguments of a block; the first id and name are kept."""
        for key in ("id", "name"):
            if chunk.get(key) and key not in self.fields:
                self.fields[key] = chunk[key]
        args = self.args or TextBuffer()
        args.append(chunk.get("args") or "", operator.add)
        self.args = args

    def parse(self, kind: str) -> Block:
        """Return a block of type `kind` with parsed arguments, or an invalid tool call."""
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
        return cast("Block", block)

    def unfinished_block(self) -> Block:
        """Return the call so far, as an invalid tool call."""
        return {
            "type": "invalid_tool_call",
            "id": self.fields.get("id"),
            "name": self.fields.get("name"),
            "args": None if self.args is None else self.args.value,
            "error": "The tool call is unfinished",
        }


@final
class ToolCalls:
    """The tool calls of one message: partial, finished and invalid ones.

    Attributes:
        finished: The finished calls, in the order in which they were finished.
        invalid: The calls whose arguments do not parse, likewise.
    """

    __slots__ = ("_contradicted", "_partial", "_server_calls", "finished", "invalid")

    def __init__(self) -> None:
        self.finished: list[ToolCall] = []
        self.invalid: list[Block] = []
        self._partial: dict[Any, PartialToolCall] = {}
        # Partial calls that the provider executes itself; no projection shows them.
        self._server_calls: dict[Any, PartialToolCall] = {}
        # Indexes of calls whose deltas a snapshot contradicted; they produce no further deltas.
        self._contradicted: set[Any] | None = None

    def start(self, block: Block, index: Any) -> ToolCallChunk | None:
        """Start a call, and return its delta, if any."""
        kind = block.get("type")
        if kind == "tool_call_chunk":
            self._partial.setdefault(index, PartialToolCall()).replace(block)
            args = block.get("args")
            if isinstance(args, str) and args:
                return self._delta(index, args)
        elif kind == "server_tool_call_chunk":
            self._server_calls.setdefault(index, PartialToolCall()).replace(block)
        return None

    def extend_started(self, index: Any, args: Any) -> ToolCallChunk | None:
        """Append to the arguments of a started call, and return the delta, if any."""
        if index is None or not isinstance(args, str) or not args:
            return None
        if call := self._partial.get(index):
            call.extend({"args": args})
            return self._delta(index, args)
        if call := self._server_calls.get(index):
            call.extend({"args": args})
        # Otherwise its start was missed, and the finished block will contain the call.
        return None

    def extend(self, index: Any, chunk: Any, *, server: bool) -> ToolCallChunk | None:
        """Append a block to a call, starting it if needed, and return the delta, if any.

        Args:
            index: The index of the event; `None` if it has none.
            chunk: The block; ignored unless it is a tool call chunk.
            server: Whether to accept calls that the provider executes itself, too.
        """
        if not isinstance(chunk, dict):
            return None
        kind = chunk.get("type", "")
        if kind == "tool_call_chunk":
            if index is None:
                index = chunk.get("index", len(self._partial))
            call = self._partial.get(index) or PartialToolCall()
            call.extend(chunk)
            self._partial[index] = call
            if args := chunk.get("args"):
                return self._delta(index, args, chunk.get("index"))
        elif server and kind == "server_tool_call_chunk":
            if index is None:
                index = len(self._server_calls)
            call = self._server_calls.get(index) or PartialToolCall()
            call.extend(chunk)
            self._server_calls[index] = call
        return None

    def replace(self, index: Any, snapshot: Any) -> ToolCallChunk | None:
        """Replace the fields of a call that a block contains, and return the delta, if any."""
        if not isinstance(snapshot, dict):
            return None
        kind = snapshot.get("type", "")
        if kind == "tool_call_chunk":
            if index is None:
                index = snapshot.get("index", len(self._partial))
            call = self._partial.setdefault(index, PartialToolCall())
            previous = call.args
            call.replace(snapshot)
            args = snapshot.get("args")
            if isinstance(args, str):
                known = "" if previous is None else previous.value or ""
                if not args.startswith(known):
                    if self._contradicted is None:
                        self._contradicted = set()
                    self._contradicted.add(index)
                elif len(args) > len(known):
                    return self._delta(index, args[len(known) :])
        elif kind == "server_tool_call_chunk":
            if index is None:
                index = len(self._server_calls)
            self._server_calls.setdefault(index, PartialToolCall()).replace(snapshot)
        return None

    def _delta(self, index: Any, args: Any, provider_index: Any = None) -> ToolCallChunk | None:
        if self._contradicted is not None and index in self._contradicted:
            return None
        fields = self._partial[index].fields
        chunk: ToolCallChunk = {
            "type": "tool_call_chunk",
            "id": fields.get("id"),
            "name": fields.get("name"),
            "args": args,
        }
        provider_index = fields.get("index", provider_index)
        if provider_index is not None:
            chunk["index"] = provider_index
        return chunk

    def finish(self, block: Block, index: Any) -> Block:
        """Finish a call by its whole, valid or invalid block; return the block to keep."""
        # With an index, merging message chunks later would corrupt the parsed arguments.
        block = {key: value for key, value in block.items() if key != "index"}
        if block["type"] == "tool_call":
            block = {"id": "", "name": "", "args": {}} | block
            self.finished.append(cast("ToolCall", block))
        else:
            self.invalid.append(block)
        if index is not None:
            self._partial.pop(index, None)
            if block["type"] == "invalid_tool_call":
                self._server_calls.pop(index, None)
        return block

    def finish_server_call(self, index: Any) -> None:
        """Finish a call that the provider executes itself."""
        self._server_calls.pop(index, None)

    def finish_all(self) -> Iterator[tuple[Any, Block]]:
        """Finish the remaining calls, and yield the index and block of each."""
        for calls, kind in ((self._partial, "tool_call"), (self._server_calls, "server_tool_call")):
            for index in sorted(calls):
                block = calls[index].parse(kind)
                if block["type"] == "invalid_tool_call":
                    self.invalid.append(block)
                elif kind == "tool_call":
                    self.finished.append(cast("ToolCall", block))
                yield index, block
            calls.clear()

    def unfinished_blocks(self) -> dict[Any, Block]:
        """Return the partial calls, as invalid tool calls by their indexes."""
        partial = [*self._partial.items(), *self._server_calls.items()]
        return {index: call.unfinished_block() for index, call in partial}
