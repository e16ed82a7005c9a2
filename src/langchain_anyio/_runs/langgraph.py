"""langgraph's run streams, and what is private in them.

langgraph is not a dependency and is never imported here. All its private names that graphs need
outside of the trio runtime are used in this module alone, each where its reason stands.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, cast, final

from anyio.lowlevel import checkpoint
from langchain_core.runnables import RunnableConfig

from langchain_anyio._primitives.checkpoints import STEPS_BETWEEN_YIELDS
from langchain_anyio._primitives.projection import ProjectionState
from langchain_anyio._primitives.wakeup import Wakeup


class Graph(Protocol):
    """A compiled graph (`langgraph.pregel.Pregel`), as `open_stream` accepts it."""

    def get_subgraphs(
        self, *, namespace: str | None = None, recurse: bool = False
    ) -> Iterator[tuple[str, Any]]: ...


class GraphOnServer(Protocol):
    """A `RemoteGraph` of langgraph, as `open_stream` accepts it.

    Type checkers find `assistant_id` in any binding too, but not this `copy()`.
    """

    assistant_id: str

    def copy(self, update: dict[str, Any], /) -> Any: ...


def is_graph(runnable: object) -> bool:
    """Return whether `runnable` is a compiled graph; if langgraph is not imported, none exists."""
    pregel = getattr(sys.modules.get("langgraph.pregel"), "Pregel", None)
    return pregel is not None and isinstance(runnable, pregel)


def is_remote_graph(runnable: object) -> bool:
    """Return whether `runnable` is a graph on a server (`langgraph.pregel.remote.RemoteGraph`)."""
    remote = getattr(sys.modules.get("langgraph.pregel.remote"), "RemoteGraph", None)
    return remote is not None and isinstance(runnable, remote)


@final
class Channel:
    """One projection of a run stream (`langgraph.stream.stream_channel.StreamChannel`)."""

    __slots__ = ("_channel",)

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        # A channel keeps items only for a subscriber. The public way to become one is to iterate,
        # which also steps the graph.
        channel._subscribed = True

    def take(self) -> Sequence[Any]:
        """Return the items that have come, and drop them."""
        items = self._channel._items  # there is no public way to take what is there
        if not items:
            return ()
        taken = [item for _, item in items]  # the first of the pair is a number
        items.clear()
        return taken

    @property
    def error(self) -> BaseException | None:
        """The error that ended the channel; no public name has it."""
        return cast("BaseException | None", self._channel._error)


class Message(Protocol):
    """The part of a chat model's stream that a graph's run feeds."""

    @property
    def done(self) -> bool: ...

    def dispatch(self, event: Mapping[str, Any]) -> None: ...

    def fail(self, error: BaseException) -> None: ...

    def _set_producer(
        self,
        request_more: Callable[[], Awaitable[bool]] | None,
        request_step: Callable[[], Wakeup | None] | None,
    ) -> None: ...


MakeMessage = Callable[[list[str], "str | None", "str | None"], Message]
"""Makes the stream of a message from the namespace of its graph, its node and its id."""


class Log(Protocol):
    """Receiver of what happens in a run: deltas of the messages that it makes, and other events.

    Attributes:
        state: The items.
    """

    state: ProjectionState[Any, list[Any]]

    def make_message(
        self, namespace: list[str], node: str | None, message_id: str | None
    ) -> Message: ...

    def feed(self, event: Mapping[str, Any]) -> None: ...


@final
class GraphRunStream:
    """A new run of a graph in langgraph's run stream, which steps only when it is told to.

    Args:
        graph: The compiled graph.
        input: The graph's input.
        config: The config to call it with.
        kwargs: Further arguments of `astream_events`.
        advance: Awaited by consumers of a message or a subgraph that want more; returns whether
            more may come.
        make_message: Makes the stream of a message.
        note_delta: Called when the step goes on after a delta of a message has come.

    Attributes:
        public: langgraph's own object.
        events: The channel of all protocol events.
        projections: The other channels, and extensions that are not channels, by name.
    """

    def __init__(
        self,
        graph: Any,
        input: Any,
        config: RunnableConfig | None,
        kwargs: Mapping[str, Any],
        advance: Callable[[], Awaitable[bool]],
        make_message: MakeMessage,
        note_delta: Callable[[], None],
    ) -> None:
        transformers = (*(kwargs.get("transformers") or ()), _MoreModes)
        run = open_run(graph, input, config, {**kwargs, "transformers": transformers})
        self.public: Any = run
        # The streams of messages are langchain-core's, unless the transformers that make them are
        # told otherwise: those of this graph, and those that are made for its subgraphs.
        # `_MoreModes`, the last one, has nothing to do any more, in this graph or in subgraphs.
        run._mux._transformers.pop()
        for transformer in run._mux._transformers:
            _give_streams(transformer, (), make_message)
        run._mux._factories = [
            partial(_with_streams, factory, make_message) for factory in run._mux._factories[:-1]
        ]
        # Without this, each waiting consumer would step the graph in its own task, and take the
        # graph with it when it is cancelled.
        run._mux.bind_apump(advance)
        self.events: Channel = Channel(run._mux._events)
        # `abort()` leaves it open if a stream transformer has failed.
        self._graph_aiter = run._graph_aiter
        run._graph_aiter = _PastDeltas(run, note_delta)
        self.projections: dict[str, Any] = {
            name: Channel(value) if hasattr(value, "_subscribed") else value
            for name, value in run.extensions.items()
        }

    async def step(self) -> bool:
        """Let the graph take one step; return whether more may come."""
        return cast("bool", await self.public._apump_next())

    async def close_graph(self) -> None:
        """Close the iterator that runs the graph."""
        await self._graph_aiter.aclose()


@final
class _PastDeltas:
    """The graph's output, of which a step takes all deltas of messages up to something else.

    After a delta, the node goes on by itself, and no other node begins before it has ended. So the
    graph does not run further ahead of its consumers than by steps of a delta each, for each of
    which langgraph starts a task.
    """

    __slots__ = ("_graph_aiter", "_note_delta", "_run", "_taken")

    def __init__(self, run: Any, note_delta: Callable[[], None]) -> None:
        self._run = run
        self._graph_aiter = run._graph_aiter
        self._note_delta = note_delta
        self._taken = 0

    async def __anext__(self) -> Any:
        part = await self._graph_aiter.__anext__()
        while _is_delta(part):
            await self._run._mux.apush(_event_of(part))
            self._note_delta()
            self._taken += 1
            if not self._taken % STEPS_BETWEEN_YIELDS:
                await checkpoint()  # what has come already, the graph gives without any
            part = await self._graph_aiter.__anext__()
        return part

    async def aclose(self) -> None:
        await self._graph_aiter.aclose()


def _is_delta(part: Mapping[str, Any]) -> bool:
    if part["type"] != "messages":
        return False
    payload = part["data"][0]
    return isinstance(payload, dict) and payload.get("event") == "content-block-delta"


def _event_of(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return the protocol event of a part of the graph's output, as langgraph makes it."""
    return {
        "type": "event",
        "method": part["type"],
        "params": {
            "namespace": list(part["ns"]),
            "timestamp": int(time.time() * 1000),
            "data": part["data"],
        },
    }


class _MoreModes:
    """A stream transformer that asks the graph for the events of tools and of stream writers.

    The graph sends only what a transformer requires: without this one, those of tools only if it
    is itself an agent. langgraph's class is not needed, and is not imported here.
    """

    required_stream_modes = ("tools", "custom")
    requires_async = False
    supports_sync = True

    def __init__(self, scope: tuple[str, ...]) -> None:
        pass

    def init(self) -> dict[str, Any]:
        return {}

    def _on_register(self, mux: Any) -> None:
        pass


def open_run(
    graph: Any, input: Any, config: RunnableConfig | None, kwargs: Mapping[str, Any]
) -> Any:
    """Return langgraph's own run stream, of which nothing has started."""
    with warnings.catch_warnings():
        # The user has not chosen a version.
        warnings.filterwarnings("ignore", "The v3 streaming protocol")
        return _result_of(graph.astream_events(input, config, version="v3", **kwargs))


def _give_streams(transformer: Any, scope: tuple[str, ...], make_message: MakeMessage) -> None:
    """Let a `MessagesTransformer` make the streams of messages by `make_message`."""
    if not hasattr(transformer, "_make_stream"):
        return

    def make_stream(*, namespace: list[str], node: str | None, message_id: str | None) -> Message:
        return make_message(namespace or list(scope), node, message_id)

    transformer._make_stream = make_stream


def _with_streams(
    factory: Callable[[tuple[str, ...]], Any], make_message: MakeMessage, scope: tuple[str, ...]
) -> Any:
    transformer = factory(scope)
    _give_streams(transformer, scope, make_message)
    return transformer


def _result_of(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits, and return its result.

    Raises:
        RuntimeError: The coroutine waits.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("this release of langgraph does not make its run stream at once")
