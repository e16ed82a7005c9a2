"""`GraphStream`: the run of a graph, read by projections."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Mapping
from typing import TYPE_CHECKING, Any, Literal, final, overload

from typing_extensions import Self

from ._primitives.projection import AsyncProjection, Cursor
from ._run_items import (
    CustomRunItem,
    InterruptRunItem,
    RunCursor,
    RunItem,
    RunItemName,
    StateRunItem,
    TextRunItem,
    ToolCallRunItem,
    ToolDeltaRunItem,
    ToolErrorRunItem,
    ToolResultRunItem,
    ToolStartRunItem,
)
from ._runs.drop_guard import DropGuard
from ._runs.graph import GraphRun
from ._runs.remote import RemoteRun
from ._runs.remote_projections import ProjectionViews
from ._stream_state import ClosedOnExit, enter

if TYPE_CHECKING:
    from ._stream import AsyncChatModelStream


@final
class GraphOutput:
    """The final state of a graph's run, which may be awaited as it is, or called before."""

    __slots__ = ("_wait",)

    def __init__(self, wait: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self._wait = wait

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._wait().__await__()

    def __call__(self) -> Coroutine[Any, Any, Any]:
        """Return a coroutine that runs the graph to its end, and gives the final state."""
        return self._wait()


@final
class GraphStream(ClosedOnExit):
    """The stream of a graph's run, which `open_stream(graph, input)` returns.

    Its projections are those of langgraph's run stream, as `AsyncProjection`s: any number of
    consumers, in any tasks of one event loop, may iterate over one, each from the first item, or
    `await` it for the list of all items. Further projections, of stream transformers, are also
    attributes, and are in `extensions`. `interleave()` gives all that happens, in order. Iterating
    over the stream itself yields the protocol events, with those of tools and of stream writers.

    The graph takes one step whenever a consumer waits for more: for the next item of a projection,
    for the output, or for a delta of a message. What a node does by itself in that step, such as
    reading a provider's answer, is not held back. All items are kept.

    With `async with`, however you leave the block, nodes, subgraphs and connections are stopped,
    and have ended before the block is left. The one exception is the connection of a cancelled
    `ChatOpenAI.ainvoke` on asyncio with Python 3.10, which stays open. `await stream` alone and
    `aclose()` do the same. Cancelling a consumer affects only that consumer; the run continues.

    For a `RemoteGraph`, the run is started on the server by the first consumer, and its events come
    on one connection, as fast as the server sends them. There is no `lifecycle`; `tool_calls` are
    the calls of tools, and `extensions[name]` are the data of the custom channel of that name. The
    output and the interrupts are there as soon as the run has ended or waits to be resumed. When
    the block is left earlier, the run is cancelled on the server, and all connections are closed.

    Ports `langgraph.stream.run_stream.AsyncGraphRunStream`, in which the waiting consumer runs the
    graph, each projection has one consumer, and a cancelled scope around the block can leave nodes
    running.

    Attributes:
        values: The state after each step.
        messages: A stream for each message from a chat model or a node of this graph, with the
            name of its node. Waiting for anything of it makes the graph continue too. A message
            that is cut off fails with the run's error, or with `StreamCancelledError`.
        lifecycle: Events for the start and end of subgraphs.
        subgraphs: A run stream for each subgraph, as langgraph makes it; its messages are streams
            like those of `messages`, with the namespace of the subgraph.
    """

    __slots__ = ("_entered", "_extensions", "_owner", "_run")

    values: AsyncProjection[dict[str, Any], list[dict[str, Any]]]
    messages: AsyncProjection[AsyncChatModelStream, list[AsyncChatModelStream]]
    lifecycle: AsyncProjection[Any, list[Any]]
    subgraphs: AsyncProjection[Any, list[Any]]

    def __init__(self, run: GraphRun | RemoteRun) -> None:
        self._run = run
        self._owner = DropGuard(run)
        self._entered = False
        self._extensions: Mapping[str, Any] | None = None

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            extensions = self.extensions
            if name in extensions:
                return extensions[name]
        raise AttributeError(f"{type(self).__name__!r} has no attribute or projection {name!r}")

    @property
    def extensions(self) -> Mapping[str, Any]:
        """All projections by name; available only on an event loop."""
        if self._extensions is None:
            self._extensions = ProjectionViews(self._run.open(), self._owner)
        return self._extensions

    @overload
    def interleave(
        self, name: Literal["text", "reasoning"], /, *names: Literal["text", "reasoning"]
    ) -> RunCursor[TextRunItem]: ...

    @overload
    def interleave(self, name: Literal["tool_calls"], /) -> RunCursor[ToolCallRunItem]: ...

    @overload
    def interleave(self, name: Literal["tool_starts"], /) -> RunCursor[ToolStartRunItem]: ...

    @overload
    def interleave(self, name: Literal["tool_deltas"], /) -> RunCursor[ToolDeltaRunItem]: ...

    @overload
    def interleave(self, name: Literal["tool_results"], /) -> RunCursor[ToolResultRunItem]: ...

    @overload
    def interleave(self, name: Literal["tool_errors"], /) -> RunCursor[ToolErrorRunItem]: ...

    @overload
    def interleave(self, name: Literal["values"], /) -> RunCursor[StateRunItem]: ...

    @overload
    def interleave(self, name: Literal["interrupts"], /) -> RunCursor[InterruptRunItem]: ...

    @overload
    def interleave(self, name: Literal["custom"], /) -> RunCursor[CustomRunItem]: ...

    @overload
    def interleave(self, *names: RunItemName) -> RunCursor[RunItem]: ...

    def interleave(self, *names: RunItemName) -> RunCursor[Any]:
        """Iterate over what happens in the run and in its subgraphs, in the order of arrival.

        | name | item | attributes |
        |---|---|---|
        | `"reasoning"`, `"text"` | `RunText` | `delta`, `message` |
        | `"tool_calls"` | `RunToolCall` | `delta`, a `ToolCallChunk`; `message` |
        | `"tool_starts"` | `ToolRun` | `tool_call_id`, `name`, `input`, `message` |
        | `"tool_deltas"` | `ToolDelta` | `delta`, `tool` |
        | `"tool_results"` | `ToolResult` | `output`, `text`, `tool` |
        | `"tool_errors"` | `ToolFailure` | `error`, a `str`; `tool` |
        | `"values"` | `RunState` | `values`, the state after a step |
        | `"interrupts"` | `RunInterrupt` | `value`, `interrupt_id` |
        | `"custom"` | `RunCustom` | `data`, what a stream writer was given |

        Each item also has the `namespace` of its graph. `message` is the `AsyncChatModelStream`
        that the item belongs to, with its `node`; that of a `ToolRun` is the one that asks for the
        call, and `None` if there is none. `tool` is the `ToolRun` of the call. The classes are in
        `langchain_anyio.langgraph`.

        Any number of iterators, begun at any time, give everything from the first item. A cancelled
        consumer takes nothing from the others. Iteration ends with the run, by its error if it has
        failed, after what came before.

        Args:
            names: What to give; everything by default.

        Returns:
            An async iterator of `(name, item)`. Its `batches()` gives lists of these, as
            `AsyncProjection.batches()`. A type checker knows the item's type after a check of
            `pair[0]`, in a `match` statement, or by `isinstance(item, ...)`.

        Raises:
            ValueError: A name is unknown or given twice.

        Example:
            ```python
            async with open_stream(agent, {"messages": [("user", "What is water?")]}) as run:
                async for pair in run.interleave("text", "tool_starts", "tool_results"):
                    match pair:
                        case ("text", item):
                            print(item.delta, end="", flush=True)
                        case ("tool_starts", tool):
                            print(f"{tool.name} {tool.input}")
                        case ("tool_results", item):
                            print(f"{item.tool.name}: {item.text}")
            ```
        """
        self._run.open()
        return RunCursor(self._run.log.state, names, self._owner)

    @property
    def done(self) -> bool:
        """True once the run has ended: by itself, by an error, or closed."""
        return self._run.events.done

    @property
    def error(self) -> BaseException | None:
        """The error that ended the run, if one did."""
        return self._run.events.error

    def __aiter__(self) -> Cursor[Any]:
        """Iterate over all protocol events."""
        self._run.open()
        return Cursor(self._run.events, self._owner)

    def __await__(self) -> Generator[Any, Any, Any]:
        """Run the graph to its end, return the final state, and close the stream unless entered."""
        return self._wait().__await__()

    async def _wait(self) -> Any:
        try:
            return await self._final_state()
        finally:
            if not self._entered:
                await self.aclose()

    @property
    def output(self) -> GraphOutput:
        """The final state: `await run.output`, or `await run.output()` as in langgraph.

        Waiting for it runs the graph to its end.

        Raises:
            BaseException: The error that ended the run.
        """
        return GraphOutput(self._final_state)

    async def _final_state(self) -> Any:
        return await (await self._at_the_end()).output()

    async def interrupted(self) -> bool:
        """Run the graph to its end and return whether it waits to be resumed."""
        return bool(await (await self._at_the_end()).interrupted())

    async def interrupts(self) -> list[Any]:
        """Run the graph to its end and return the interrupts that it waits for."""
        return list(await (await self._at_the_end()).interrupts())

    async def _at_the_end(self) -> Any:
        self._run.open()
        await AsyncProjection._view(self._run.events, self._owner)
        return self._run.run_stream

    async def abort(self) -> None:
        """Stop the run, as `aclose()` does."""
        await self.aclose()

    async def aclose(self) -> None:
        """Stop nodes, subgraphs and connections, and return when they have ended.

        It may be called from any task of the event loop, any number of times, and does nothing to
        a run that has ended or never began. Waiting consumers get a `StreamCancelledError`.
        The cleanup is shielded and takes at most 5 seconds; whatever has not returned by then is
        abandoned, with a `ResourceWarning`. Called from within the graph, it begins to stop the run
        and returns at once, because the end of the run waits for the caller.
        """
        await self._run.aclose()

    async def __aenter__(self) -> Self:
        self._run.open()
        self._entered = True
        if isinstance(self._run, GraphRun):  # a remote one calls no handler here
            enter(self._run)
        return self


GraphStream.__module__ = "langchain_anyio"
