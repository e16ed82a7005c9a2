"""Tool calls whose arguments come in pieces."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any, cast, final

from langchain_protocol.protocol import ToolCall, ToolCallChunk

from langchain_anyio._core import finalize_tool_call_chunk

from .text_blocks import TextBuffer

Block = dict[str, Any]


@final
class PartialToolCall:
    """A tool call whose arguments are still coming."""

    __slots__ = ("args", "fields")

    def __init__(self) -> None:
        self.fields: Block = {}
        self.args: TextBuffer | None = None

    def replace(self, snapshot: Mapping[Any, Any]) -> None:
        """Take a block that replaces what it names."""
        for key, value in snapshot.items():
            if value is None:
                continue
            if key == "args":
                self.args = TextBuffer(value)
            else:
                self.fields[key] = value

    def extend(self, chunk: Mapping[Any, Any]) -> None:
        """Take a block that adds to the arguments; the first id and name stay."""
        for key in ("id", "name"):
            if chunk.get(key) and key not in self.fields:
                self.fields[key] = chunk[key]
        args = self.args or TextBuffer()
        args.append(chunk.get("args") or "", operator.add)
        self.args = args

    def finalized(self, kind: str) -> Block:
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
        return cast("Block", block)

    def unfinished(self) -> Block:
        """What there is of the call, as an invalid tool call."""
        return {
            "type": "invalid_tool_call",
            "id": self.fields.get("id"),
            "name": self.fields.get("name"),
            "args": None if self.args is None else self.args.value,
            "error": "The tool call is unfinished",
        }


@final
class ToolCalls:
    """The tool calls of one message: those still coming, those finished, and the invalid ones.

    Attributes:
        finished: The calls that are whole, in the order in which they were finished.
        invalid: The calls whose arguments do not parse, likewise.
    """

    __slots__ = ("_of_servers", "_partial", "_quiet", "finished", "invalid")

    def __init__(self) -> None:
        self.finished: list[ToolCall] = []
        self.invalid: list[Block] = []
        self._partial: dict[Any, PartialToolCall] = {}
        # Calls that the provider runs itself; no projection shows them.
        self._of_servers: dict[Any, PartialToolCall] = {}
        # Indexes of calls of which a snapshot contradicted the deltas; they give no more of them.
        self._quiet: set[Any] | None = None

    def start(self, block: Block, index: Any) -> ToolCallChunk | None:
        """Take the start of a call, and return its delta."""
        kind = block.get("type")
        if kind == "tool_call_chunk":
            self._partial.setdefault(index, PartialToolCall()).replace(block)
            args = block.get("args")
            if isinstance(args, str) and args:
                return self._delta(index, args)
        elif kind == "server_tool_call_chunk":
            self._of_servers.setdefault(index, PartialToolCall()).replace(block)
        return None

    def extend_started(self, index: Any, args: Any) -> ToolCallChunk | None:
        """Take a piece of the arguments of a call that has started, and return its delta."""
        if index is None or not isinstance(args, str) or not args:
            return None
        if call := self._partial.get(index):
            call.extend({"args": args})
            return self._delta(index, args)
        if call := self._of_servers.get(index):
            call.extend({"args": args})
        # Else its start was not seen, and the finished block has the call.
        return None

    def extend(self, index: Any, chunk: Any, *, server: bool) -> ToolCallChunk | None:
        """Take a block that adds to a call or starts it, and return its delta.

        Args:
            index: The index of the event, `None` where it has none.
            chunk: The block.
            server: Whether calls that the provider runs itself count too.
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
                index = len(self._of_servers)
            call = self._of_servers.get(index) or PartialToolCall()
            call.extend(chunk)
            self._of_servers[index] = call
        return None

    def replace(self, index: Any, snapshot: Any) -> ToolCallChunk | None:
        """Take a block that replaces what it names of a call, and return the delta that it makes."""
        if not isinstance(snapshot, dict):
            return None
        kind = snapshot.get("type", "")
        if kind == "tool_call_chunk":
            if index is None:
                index = snapshot.get("index", len(self._partial))
            call = self._partial.setdefault(index, PartialToolCall())
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
                    return self._delta(index, args[len(known) :])
        elif kind == "server_tool_call_chunk":
            if index is None:
                index = len(self._of_servers)
            self._of_servers.setdefault(index, PartialToolCall()).replace(snapshot)
        return None

    def _delta(self, index: Any, args: Any, provider_index: Any = None) -> ToolCallChunk | None:
        if self._quiet is not None and index in self._quiet:
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
        """Take the block of a whole call, or of an invalid one, and return it as it is kept."""
        # An index here would let chunks that are merged later spoil the parsed arguments.
        block = {key: value for key, value in block.items() if key != "index"}
        if block["type"] == "tool_call":
            block = {"id": "", "name": "", "args": {}} | block
            self.finished.append(cast("ToolCall", block))
        else:
            self.invalid.append(block)
        if index is not None:
            self._partial.pop(index, None)
            if block["type"] == "invalid_tool_call":
                self._of_servers.pop(index, None)
        return block

    def finish_of_server(self, index: Any) -> None:
        """Note that a call that the provider runs itself has come whole."""
        self._of_servers.pop(index, None)

    def finish_all(self) -> Iterator[tuple[Any, Block]]:
        """Finish the calls that no event has finished, and yield the index and the block of each."""
        for calls, kind in ((self._partial, "tool_call"), (self._of_servers, "server_tool_call")):
            for index in sorted(calls):
                block = calls[index].finalized(kind)
                if block["type"] == "invalid_tool_call":
                    self.invalid.append(block)
                elif kind == "tool_call":
                    self.finished.append(cast("ToolCall", block))
                yield index, block
            calls.clear()

    def unfinished(self) -> dict[Any, Block]:
        """Return the calls that are still coming, as invalid tool calls by their indexes."""
        partial = [*self._partial.items(), *self._of_servers.items()]
        return {index: call.unfinished() for index, call in partial}
