"""Projections of a remote graph's run, or of a subgraph in it, made of the events of the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, final

from typing_extensions import override

from langchain_anyio._errors import StreamCancelledError
from langchain_anyio._primitives.projection import (
    AsyncProjection,
    AsyncTextProjection,
    ProjectionState,
)

from .langgraph import MakeMessage, Message
from .langgraph_remote import Decoder, decoder_of

# Those of langgraph's own run stream; any other name is that of an extension.
NAMES: Final = (
    "values",
    "messages",
    "subgraphs",
    "tool_calls",
    "updates",
    "checkpoints",
    "tasks",
    "custom",
)


@final
class ProjectionViews(Mapping[str, Any]):
    """Projections of the states in a mapping, each made when it is first asked for.

    Args:
        states: The states, and other values, by name.
        owner: What the projections keep alive.
    """

    __slots__ = ("_owner", "_states", "_views")

    def __init__(self, states: Mapping[str, Any], owner: object) -> None:
        self._states = states
        self._owner = owner
        self._views: dict[str, Any] = {}

    @override
    def __getitem__(self, name: str) -> Any:
        if name not in self._views:
            value = self._states[name]
            if isinstance(value, ProjectionState):
                value = AsyncProjection._view(value, self._owner)
            self._views[name] = value
        return self._views[name]

    @override
    def __contains__(self, name: object) -> bool:
        return name in self._states

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    @override
    def __len__(self) -> int:
        return len(self._states)


@final
class RemoteProjections(Mapping[str, "ProjectionState[Any, list[Any]]"]):
    """The states of the projections by name: those in `NAMES`, and extensions by any other name.

    An extension is made when it is first asked for, of the events that have come, and is not listed
    before.

    Args:
        scope: The namespace of the graph.
        make_message: Makes the stream of a message.
        events: The events that have come, with the callback that starts the run.
    """

    def __init__(
        self,
        scope: list[str],
        make_message: MakeMessage,
        events: ProjectionState[Any, list[Any]],
    ) -> None:
        self._scope = scope
        self._make_message = make_message
        self._events = events
        self._states: dict[str, tuple[Decoder, ProjectionState[Any, list[Any]]]] = {}
        # Those that have not ended, of all subgraphs too.
        self._messages: list[Message] = []
        self._calls: list[RemoteToolCall] = []
        self._subgraphs: list[RemoteSubgraph] = []

    @override
    def __getitem__(self, name: str) -> ProjectionState[Any, list[Any]]:
        self._make_known()
        if name not in self._states:
            self._make(name)
        return self._states[name][1]

    @override
    def __contains__(self, name: object) -> bool:
        self._make_known()
        return name in self._states

    @override
    def __iter__(self) -> Iterator[str]:
        self._make_known()
        return iter(list(self._states))

    @override
    def __len__(self) -> int:
        self._make_known()
        return len(self._states)

    def _make_known(self) -> None:
        # Not before, as the SDK need not be imported before there is a run.
        if not self._states:
            for name in NAMES:
                self._make(name)

    def _make(self, name: str) -> None:
        makers: dict[str, Callable[..., Any]] = {
            "messages": self._new_message,
            "tool_calls": self._new_call,
            "subgraphs": self._new_subgraph,
        }
        decoder = decoder_of(name, self._scope, makers)
        state: ProjectionState[Any, list[Any]] = ProjectionState()
        state.start = self._events.start
        self._states[name] = decoder, state
        for event in self._events.deltas:
            for item in decoder.feed(event):
                state.push(item)
        if self._events.done:
            _finish(state, self._events.error)

    def _new_message(
        self, *, namespace: list[str], node: str | None, message_id: str | None
    ) -> Message:
        message = self._make_message(namespace, node, message_id)
        self._messages.append(message)
        return message

    def _new_call(
        self, *, tool_call_id: str, name: str, input: Any, namespace: list[str]
    ) -> RemoteToolCall:
        call = RemoteToolCall(tool_call_id, name, input, namespace)
        self._calls.append(call)
        return call

    def _new_subgraph(
        self, *, path: tuple[str, ...], graph_name: str | None, trigger_call_id: str | None
    ) -> RemoteSubgraph:
        subgraph = RemoteSubgraph(path, graph_name, trigger_call_id, self._make_message)
        self._subgraphs.append(subgraph)
        return subgraph

    def feed(self, event: Mapping[str, Any]) -> None:
        self._make_known()
        for decoder, state in list(self._states.values()):
            for item in decoder.feed(event):
                state.push(item)

    def complete(self) -> None:
        self._finish(None)

    def fail(self, error: BaseException) -> None:
        self._finish(error)

    def _finish(self, error: BaseException | None) -> None:
        for _, state in self._states.values():
            _finish(state, error)
        cut = StreamCancelledError() if error is None else error
        for message in self._messages:
            message.fail(cut)
        for call in self._calls:
            call._fail(cut)
        for subgraph in self._subgraphs:
            subgraph._end(error)
        self._messages.clear()
        self._calls.clear()
        self._subgraphs.clear()


def _finish(state: ProjectionState[Any, list[Any]], error: BaseException | None) -> None:
    state.start = None
    if error is None:
        state.complete(state.deltas)
    else:
        state.fail(error)


@final
class RemoteToolCall:
    """A call of a tool by a remote graph, as long as it goes on and afterwards.

    Ports `langgraph_sdk.stream.ToolCallHandle`, in which cancelling one awaiter of the output
    cancels all, and the deltas have one consumer.

    Attributes:
        tool_call_id: The id of the call.
        name: The name of the tool.
        input: The tool's arguments.
        namespace: The namespace of the graph that calls it.
        output: What the tool returns; awaiting it raises a `RuntimeError` if the tool has failed.
        deltas: What the tool writes before it returns.
    """

    __slots__ = ("deltas", "input", "name", "namespace", "output", "tool_call_id")

    def __init__(self, tool_call_id: str, name: str, input: Any, namespace: list[str]) -> None:
        self.tool_call_id: str = tool_call_id
        self.name: str = name
        self.input: Any = input
        self.namespace: list[str] = namespace
        self.output: AsyncProjection[str, Any] = AsyncProjection()
        self.deltas: AsyncTextProjection = AsyncTextProjection()

    @property
    def done(self) -> bool:
        """True once the call has ended, with its output or with an error."""
        return self.output.done

    @property
    def error(self) -> BaseException | None:
        """The error of the call, if it has failed."""
        return self.output.error

    # The decoder calls these.

    def _push_delta(self, delta: str) -> None:
        if not self.done:
            self.deltas.push(delta)

    def _finish(self, output: Any) -> None:
        self.output.complete(output)
        self._end_deltas()

    def _fail(self, error: BaseException) -> None:
        self.output.fail(error)
        self._end_deltas()

    def _end_deltas(self) -> None:
        # Only the output has the error.
        self.deltas.complete("".join(self.deltas._state.deltas))


@final
class RemoteSubgraph:
    """A subgraph of a remote graph's run, with projections of what happens in its namespace.

    Ports `langgraph_sdk.stream.ScopedStreamHandle`, whose projections have one consumer each.

    Attributes:
        path: The namespace, as a tuple.
        namespace: The namespace, as a list.
        graph_name: The name of the node.
        trigger_call_id: The id of the task that runs it.
        status: `"started"`, `"completed"`, `"failed"` or `"interrupted"`.
        error: The message of the error by which it has failed.
    """

    __slots__ = (
        "_events",
        "_projections",
        "error",
        "graph_name",
        "namespace",
        "path",
        "status",
        "trigger_call_id",
    )

    def __init__(
        self,
        path: tuple[str, ...],
        graph_name: str | None,
        trigger_call_id: str | None,
        make_message: MakeMessage,
    ) -> None:
        self.path: tuple[str, ...] = path
        self.namespace: list[str] = list(path)
        self.graph_name: str | None = graph_name
        self.trigger_call_id: str | None = trigger_call_id
        self.status: str = "started"
        self.error: str | None = None
        self._events: ProjectionState[Any, list[Any]] = ProjectionState()
        self._projections = RemoteProjections(self.namespace, make_message, self._events)

    @property
    def values(self) -> AsyncProjection[Any, list[Any]]:
        """The subgraph's state after each step."""
        return self._view("values")

    @property
    def messages(self) -> AsyncProjection[Any, list[Any]]:
        """A stream for each message of the subgraph."""
        return self._view("messages")

    @property
    def tool_calls(self) -> AsyncProjection[RemoteToolCall, list[RemoteToolCall]]:
        """The calls of tools by the subgraph."""
        return self._view("tool_calls")

    @property
    def subgraphs(self) -> AsyncProjection[RemoteSubgraph, list[RemoteSubgraph]]:
        """The subgraphs of the subgraph."""
        return self._view("subgraphs")

    subagents = subgraphs

    @property
    def extensions(self) -> Mapping[str, Any]:
        """All projections by name, also those of custom channels."""
        return ProjectionViews(self._projections, None)

    def _view(self, name: str) -> AsyncProjection[Any, list[Any]]:
        return AsyncProjection._view(self._projections[name], None)

    # The decoder calls these.

    def _push_event(self, event: Mapping[str, Any]) -> None:
        if not self._events.done:
            self._events.push(event)
            self._projections.feed(event)

    def _finish(self, status: str, error: str | None = None) -> None:
        self.error = error
        self._end(None, status)

    def _end(self, error: BaseException | None, status: str | None = None) -> None:
        if self._events.done:
            return
        self.status = status or ("completed" if error is None else "failed")
        if error is None:
            self._events.complete(self._events.deltas)
            self._projections.complete()
        else:
            self._events.fail(error)
            self._projections.fail(error)
