"""Items of a graph's run in the order of arrival, as `GraphStream.interleave()` gives them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar, cast, final, get_args

from langchain_protocol.protocol import ToolCall, ToolCallChunk
from typing_extensions import Self, override

from ._primitives.batches import BatchIterator, ProjectionBatches
from ._primitives.projection import Cursor, ProjectionState
from ._protocol.accumulator import Delta
from ._stream import AsyncChatModelStream

T = TypeVar("T", bound="RunItem")

RunItemName = Literal[
    "reasoning",
    "text",
    "tool_calls",
    "tool_starts",
    "tool_deltas",
    "tool_results",
    "tool_errors",
    "values",
    "interrupts",
    "custom",
]

_NAMES: tuple[RunItemName, ...] = get_args(RunItemName)


class RunText(NamedTuple):
    """A piece of a message's text or reasoning.

    Attributes:
        delta: The piece.
        message: The message that it belongs to, with its namespace and node.
    """

    delta: str
    message: AsyncChatModelStream

    @property
    def namespace(self) -> list[str]:
        """The namespace of the graph."""
        return self.message.namespace


class RunToolCall(NamedTuple):
    """A piece of a tool call in a message, as the model writes it.

    A call that comes whole, or without arguments, is one piece.

    Attributes:
        delta: The piece: the call's id and name, and what is added to its arguments.
        message: The message that it belongs to, with its namespace and node.
    """

    delta: ToolCallChunk
    message: AsyncChatModelStream

    @property
    def namespace(self) -> list[str]:
        """The namespace of the graph."""
        return self.message.namespace


class ToolRun(NamedTuple):
    """One call of a tool by the graph.

    Attributes:
        tool_call_id: The id of the call; it is that of the tool call in `message`.
        name: The name of the tool.
        input: The tool's arguments, as far as langgraph tells them.
        namespace: The namespace of the graph that calls it.
        message: The message that asks for the call; `None` if no message of the run does.
    """

    tool_call_id: str
    name: str
    input: Any
    namespace: list[str]
    message: AsyncChatModelStream | None


class ToolDelta(NamedTuple):
    """An output that a tool emits before it returns, by `ToolRuntime.emit_output_delta()`.

    Attributes:
        delta: What it emits.
        tool: The call that it belongs to.
    """

    delta: Any
    tool: ToolRun

    @property
    def namespace(self) -> list[str]:
        """The namespace of the graph that calls the tool."""
        return self.tool.namespace


class ToolResult(NamedTuple):
    """The output of a tool that has returned.

    Attributes:
        output: What it has returned, mostly a `ToolMessage`; as JSON from a server.
        tool: The call that it belongs to.
    """

    output: Any
    tool: ToolRun

    @property
    def text(self) -> str:
        """The output as text: that of a message, or of whatever else as `str()` gives it."""
        output = self.output
        if isinstance(output, Mapping):
            # A message from a server: its fields, or those of a constructor of langchain-core.
            fields = output.get("kwargs", output)
            output = fields.get("content", output) if isinstance(fields, Mapping) else output
        else:
            output = getattr(output, "text", output)
        return str(output)

    @property
    def namespace(self) -> list[str]:
        """The namespace of the graph that calls the tool."""
        return self.tool.namespace


class ToolFailure(NamedTuple):
    """The error of a tool, whether or not the graph goes on.

    Attributes:
        error: The message of the exception.
        tool: The call that it belongs to.
    """

    error: str
    tool: ToolRun

    @property
    def namespace(self) -> list[str]:
        """The namespace of the graph that calls the tool."""
        return self.tool.namespace


class RunState(NamedTuple):
    """The state of a graph after a step.

    Attributes:
        values: The state.
        namespace: The namespace of the graph.
    """

    values: Any
    namespace: list[str]


class RunInterrupt(NamedTuple):
    """An interrupt that the run waits for: `Command(resume=...)` answers it.

    One that reaches several graphs on its way up is given once, of the innermost one.

    Attributes:
        value: What the node has passed to `interrupt()`.
        interrupt_id: The id of the interrupt.
        namespace: The namespace of the graph.
    """

    value: Any
    interrupt_id: str
    namespace: list[str]


class RunCustom(NamedTuple):
    """An item that a node or a tool has written by its stream writer.

    Attributes:
        data: What it has written.
        namespace: The namespace of the graph.
    """

    data: Any
    namespace: list[str]


TextRunItem: TypeAlias = tuple[Literal["reasoning", "text"], RunText]
ToolCallRunItem: TypeAlias = tuple[Literal["tool_calls"], RunToolCall]
ToolStartRunItem: TypeAlias = tuple[Literal["tool_starts"], ToolRun]
ToolDeltaRunItem: TypeAlias = tuple[Literal["tool_deltas"], ToolDelta]
ToolResultRunItem: TypeAlias = tuple[Literal["tool_results"], ToolResult]
ToolErrorRunItem: TypeAlias = tuple[Literal["tool_errors"], ToolFailure]
StateRunItem: TypeAlias = tuple[Literal["values"], RunState]
InterruptRunItem: TypeAlias = tuple[Literal["interrupts"], RunInterrupt]
CustomRunItem: TypeAlias = tuple[Literal["custom"], RunCustom]

RunItem: TypeAlias = (
    TextRunItem
    | ToolCallRunItem
    | ToolStartRunItem
    | ToolDeltaRunItem
    | ToolResultRunItem
    | ToolErrorRunItem
    | StateRunItem
    | InterruptRunItem
    | CustomRunItem
)
"""The name of what has happened, and what it is."""


@final
class RunLog:
    """The items of a run in the order of arrival, made of its messages' deltas and its events.

    The items refer to the texts and states that the messages and the events have.

    Attributes:
        state: The items, of which the run sets the end and the callbacks of a consumer that waits.
    """

    def __init__(self) -> None:
        self.state: ProjectionState[RunItem, list[RunItem]] = ProjectionState()
        self._unfinished: set[AsyncChatModelStream] = set()
        self._messages: dict[str, AsyncChatModelStream] = {}  # by the ids of their tool calls
        self._tools: dict[str, ToolRun] = {}  # that have not ended
        self._interrupts: set[str] = set()

    def make_message(
        self, namespace: list[str], node: str | None, message_id: str | None
    ) -> AsyncChatModelStream:
        """Make the stream of a message, whose deltas become items."""
        message = AsyncChatModelStream(namespace=namespace, node=node, message_id=message_id)
        message._on_event = self._feed_message
        self._unfinished.add(message)
        return message

    def _feed_message(self, message: AsyncChatModelStream, delta: Delta | None) -> None:
        if delta is None:
            if message.done and message in self._unfinished:
                self._unfinished.discard(message)
                self._finish_calls(message)
        elif delta[0] == "tool_calls":
            self._push(("tool_calls", RunToolCall(delta[1], message)))
        else:
            self._push((delta[0], RunText(delta[1], message)))

    def _finish_calls(self, message: AsyncChatModelStream) -> None:
        """Note the calls of a whole message, and give those that have had no deltas."""
        calls = message._state.accumulator.tool_calls
        if not calls:
            return
        given = {chunk.get("id") for chunk in message._state.tool_calls.deltas}
        for index, call in enumerate(calls):
            if call["id"]:
                self._messages[call["id"]] = message
            if call["id"] not in given:
                self._push(("tool_calls", RunToolCall(_whole(call, index), message)))

    def feed(self, event: Mapping[str, Any]) -> None:
        """Make items of an event of the graph, other than those of messages."""
        method = event.get("method")
        if method not in {"values", "tools", "custom", "input.requested"}:
            return
        params = event["params"]
        namespace = list(params.get("namespace") or ())
        data = params.get("data")
        if method == "values":
            self._push(("values", RunState(data, namespace)))
            for interrupt in params.get("interrupts") or ():
                self._feed_interrupt(interrupt.id, interrupt.value, namespace)
        elif method == "tools":
            self._feed_tool(data, namespace)
        elif method == "custom":
            self._push(("custom", RunCustom(data, namespace)))
        else:
            # Servers say "payload", where the SDK reads "value".
            value = data.get("value", data.get("payload"))
            self._feed_interrupt(data["interrupt_id"], value, namespace)

    def _feed_interrupt(self, interrupt_id: str, value: Any, namespace: list[str]) -> None:
        if interrupt_id not in self._interrupts:
            self._interrupts.add(interrupt_id)
            self._push(("interrupts", RunInterrupt(value, interrupt_id, namespace)))

    def _feed_tool(self, data: Any, namespace: list[str]) -> None:
        kind, call_id = data.get("event"), data.get("tool_call_id")
        if kind == "tool-started":
            name, args = data.get("tool_name", ""), data.get("input")
            tool = ToolRun(call_id, name, args, namespace, self._messages.get(call_id))
            self._tools[call_id] = tool
            self._push(("tool_starts", tool))
            return
        started = self._tools.get(call_id)
        if started is None:
            return
        if kind == "tool-output-delta":
            self._push(("tool_deltas", ToolDelta(data.get("delta"), started)))
        elif kind == "tool-finished":
            del self._tools[call_id]
            self._push(("tool_results", ToolResult(data.get("output"), started)))
        elif kind == "tool-error":
            del self._tools[call_id]
            self._push(("tool_errors", ToolFailure(str(data.get("message", "")), started)))

    def _push(self, item: RunItem) -> None:
        if not self.state.done:
            self.state.push(item)


def _whole(call: ToolCall, index: int) -> ToolCallChunk:
    return {
        "type": "tool_call_chunk",
        "id": call["id"],
        "name": call["name"],
        "args": json.dumps(call["args"]),
        "index": index,
    }


@final
class RunCursor(Cursor[T], Generic[T]):
    """One consumer's position in a run, see `GraphStream.interleave()`."""

    __slots__ = ("_names",)

    def __init__(self, state: ProjectionState[Any, Any], names: Sequence[str], owner: object):
        if not set(names) <= set(_NAMES) or len(set(names)) < len(names):
            raise ValueError(f"names must be distinct and among {_NAMES}, not {tuple(names)}")
        super().__init__(state, owner)
        self._names = frozenset(names or _NAMES)

    @override
    def __aiter__(self) -> Self:
        return self

    @override
    async def __anext__(self) -> T:
        while True:
            item = await super().__anext__()
            if item[0] in self._names:
                return item

    def batches(self, interval: float = 0.0) -> BatchIterator[list[T]]:
        """Iterate over lists of what has come since the last step.

        This goes on where the iterator stands, and does not move it; otherwise as
        `AsyncProjection.batches()`.

        Args:
            interval: The shortest time between two batches in seconds.

        Raises:
            TypeError: `interval` is not a number.
            ValueError: `interval` is negative, infinite or NaN.
        """
        batches = ProjectionBatches(self._state, self._owner, interval, self._chosen)
        batches._position = self._position
        return batches

    def _chosen(self, items: list[Any]) -> list[T]:
        return [cast("T", item) for item in items if item[0] in self._names]


for _public in (
    RunText,
    RunToolCall,
    ToolRun,
    ToolDelta,
    ToolResult,
    ToolFailure,
    RunState,
    RunInterrupt,
    RunCustom,
):
    _public.__module__ = "langchain_anyio.langgraph"
del _public
