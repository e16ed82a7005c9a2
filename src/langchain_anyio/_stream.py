"""`AsyncChatModelStream`: one message's events, and projections of its parts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from operator import itemgetter
from typing import Any, Generic, Literal, TypeVar, cast, final, overload

from langchain_core.messages import AIMessage
from langchain_protocol.protocol import MessagesData, ToolCall, ToolCallChunk, UsageInfo
from typing_extensions import Never, Self

from ._errors import StreamCancelledError
from ._primitives.batches import BatchIterator
from ._primitives.checkpoints import ConsumerCheckpoints
from ._primitives.projection import AsyncProjection, AsyncTextProjection, Cursor, ProjectionState
from ._primitives.wakeup import Wakeup
from ._protocol.accumulator import Delta, TextDelta, ToolCallDelta
from ._stream_state import Channel, ClosedOnExit, EventsState, Run, StreamState, enter

P = TypeVar("P", bound=AsyncProjection[Any, Any])
T = TypeVar("T")


class AsyncChatModelStream(ClosedOnExit):
    """One message of a chat model, while it arrives and afterwards.

    | attribute | iterate for | await for |
    |---|---|---|
    | `.text`, `.reasoning` | `str` deltas | the whole text |
    | `.tool_calls` | `ToolCallChunk` deltas | `list[ToolCall]` |
    | `.events` | raw protocol events | `list[MessagesData]` |
    | `.output` | | the `AIMessage` |
    | `.usage` | | `UsageInfo`; `None` if the provider sends none |
    | the stream itself | raw protocol events | the `AIMessage` |

    Any number of consumers, in any tasks of one event loop, can come and go at any time. Each sees
    everything from the first event, and a cancelled one takes nothing from the others (see
    `AsyncProjection`). `interleave()` merges several projections in order of arrival.

    A callback handler of the run, or the model, can read what has arrived. It gets a `RuntimeError`
    where it would wait for more, which cannot arrive before it returns; a task that it has started
    can wait.

    The message's content is a list of v1 content blocks, whatever the model's `output_version`.

    Leaving an `async with` block closes the stream, see `aclose()`. A stream can also be created
    and fed by hand: `dispatch()` each event, or `fail()`. The first `message-finish`, `error` or
    `fail()` ends it; later events are recorded without effect.

    Ports `langchain_core.language_models.chat_model_stream.AsyncChatModelStream`.

    Args:
        namespace: Path of the graph's namespace, for a message produced by a graph.
        node: Name of the graph's node, likewise.
        message_id: The id of the message, unless its events have one.
    """

    __slots__ = (
        "__weakref__",
        "_awaiting",
        "_entered",
        "_namespace",
        "_node",
        "_on_event",
        "_owner",
        "_projections",
        "_run",
        "_state",
    )

    def __init__(
        self,
        *,
        namespace: list[str] | None = None,
        node: str | None = None,
        message_id: str | None = None,
    ) -> None:
        self._set_up(StreamState(message_id), run=None, owner=None)
        self._namespace = namespace or []
        self._node = node

    @classmethod
    def _of_run(cls, state: StreamState, run: Run, owner: object) -> Self:
        """Create the stream of `state`, which `run` feeds while `owner` is alive."""
        self = cls.__new__(cls)
        self._set_up(state, run=run, owner=owner)
        return self

    def _set_up(self, state: StreamState, *, run: Run | None, owner: object) -> None:
        self._state = state
        self._run = run
        self._owner = owner
        self._entered = False
        self._awaiting = 0
        self._namespace = []
        self._node = None
        # Called after each event of a message of a graph, with what it has added to a projection.
        self._on_event: Callable[[AsyncChatModelStream, Delta | None], None] | None = None
        self._projections: dict[str, AsyncProjection[Any, Any]] = {}

    def __repr__(self) -> str:
        accumulator = self._state.accumulator
        if not accumulator.done:
            status = "unfinished"
        elif accumulator.error is None:
            status = "finished"
        else:
            status = f"failed with {type(accumulator.error).__name__}"
        return f"<AsyncChatModelStream {status}, {self._state.flow.produced} events>"

    @property
    def namespace(self) -> list[str]:
        """Path of the graph's namespace; empty outside of a graph."""
        return self._namespace

    @property
    def node(self) -> str | None:
        """Name of the graph's node that the message comes from."""
        return self._node

    @property
    def message_id(self) -> str | None:
        """The message's id; `None` while it is unknown."""
        return self._state.accumulator.message_id

    @property
    def done(self) -> bool:
        """True once the message is complete or has failed."""
        return self._state.accumulator.done

    @property
    def error(self) -> BaseException | None:
        """The exception that consumers are raised instead of the message, if any."""
        return self._state.accumulator.error

    @property
    def has_events(self) -> bool:
        """True once an event has arrived."""
        return self._state.flow.produced > 0

    @property
    def output_message(self) -> AIMessage | None:
        """The message, or `None` unless it is complete; neither waits nor raises."""
        return self._state.accumulator.message

    @property
    def finish_reason(self) -> str | None:
        """The provider's reason why the model stopped; `None` before the end or if not given."""
        return self._state.accumulator.finish_reason

    def snapshot(self) -> AIMessage:
        """Return a copy of the message so far, at any time, also after a failure.

        While it is incomplete, `response_metadata["partial"]` is `True` and tool calls with
        incomplete arguments are in `invalid_tool_calls`.
        """
        return self._state.accumulator.snapshot()

    def _projection(self, name: str, cls: type[P]) -> P:
        # Created on first use, since most streams are read through one or two of them.
        projection = self._projections.get(name)
        if projection is None:
            projection = cls._view(getattr(self._state, name), self._owner)
            self._projections[name] = projection
        return cast("P", projection)

    @property
    def text(self) -> AsyncTextProjection:
        """The answer's text."""
        return self._projection("text", AsyncTextProjection)

    @property
    def reasoning(self) -> AsyncTextProjection:
        """The model's reasoning, as far as the provider shows it."""
        return self._projection("reasoning", AsyncTextProjection)

    @property
    def tool_calls(self) -> AsyncProjection[ToolCallChunk, list[ToolCall]]:
        """The tool calls: pieces of their arguments, then the calls with parsed arguments."""
        return self._projection("tool_calls", AsyncProjection)

    @property
    def output(self) -> AsyncProjection[Never, AIMessage]:
        """The message, once complete; `await stream` also waits for the end's callbacks."""
        return self._projection("output", AsyncProjection)

    @property
    def usage(self) -> AsyncProjection[Never, UsageInfo | None]:
        """The number of input and output tokens."""
        return self._projection("usage", AsyncProjection)

    @property
    def events(self) -> AsyncProjection[MessagesData, list[MessagesData]]:
        """The raw protocol events."""
        return self._projection("events", _EventsProjection)

    def __aiter__(self) -> Cursor[MessagesData]:
        """Iterate over `events`."""
        return self.events.__aiter__()

    @overload
    def interleave(
        self, channel: Literal["text", "reasoning"], /, *channels: Literal["text", "reasoning"]
    ) -> InterleavedCursor[TextDelta]: ...

    @overload
    def interleave(self, channel: Literal["tool_calls"], /) -> InterleavedCursor[ToolCallDelta]: ...

    @overload
    def interleave(self, *channels: Channel) -> InterleavedCursor[Delta]: ...

    def interleave(self, *channels: Channel) -> InterleavedCursor[Any]:
        """Iterate over several projections at once, in the order in which their deltas arrived.

        Args:
            channels: Any of `"text"`, `"reasoning"` and `"tool_calls"`; all of them by default.

        Returns:
            An async iterator of `(channel, delta)`, with the guarantees of a projection's iterator.
            Its `batches()` gives lists of these, as `AsyncProjection.batches()`. A type checker
            knows the delta's type by the channels asked for, after a check of `item[0]`, and in a
            `match` statement.

        Raises:
            ValueError: A channel is unknown or given twice.
        """
        return InterleavedCursor(self._state, channels, self._owner or self)

    def __await__(self) -> Generator[Any, Any, AIMessage]:
        """Wait for the message and for the callbacks at the run's end.

        Cancellation: if nobody else uses the stream and no `async with` block was entered, as in
        `await open_stream(...)`, the run is first stopped and cleaned up.

        Raises:
            BaseException: The model's error; or, after a complete message, the error of a callback
                handler with `raise_error`.
            RuntimeError: Called by a handler of the run, or on another event loop.
        """
        return self._wait().__await__()

    async def _wait(self) -> AIMessage:
        if self._run is not None:
            self._run.check_waiter()
        self._awaiting += 1
        try:
            message = await self._state.output.wait_for_final()
            if self._run is not None:
                await self._run.finished()
        except GeneratorExit:
            raise
        except BaseException:
            flow = self._state.flow
            alone = self._awaiting == 1 and not (flow.shared or flow.at_head)
            if self._run is not None and alone and not self._entered:
                await self._run.aclose()
            raise
        finally:
            self._awaiting -= 1
        return message

    def set_message_id(self, message_id: str) -> None:
        """Set the message's id; a `message-start` event with an id replaces it."""
        self._state.accumulator.message_id = message_id

    def dispatch(self, event: Mapping[str, Any]) -> None:
        """Record a protocol event and update the projections; call it on the consumers' event loop.

        Args:
            event: The event. Events of unknown types are recorded without effect.

        Raises:
            Exception: The event is malformed. It is recorded, and more may follow.
        """
        delta = self._state.dispatch(event)
        if self._on_event is not None:
            self._on_event(self, delta)

    def fail(self, error: BaseException) -> None:
        """End with an error, which every consumer is raised; no effect after the end.

        Args:
            error: The exception. Some are replaced, see `AsyncProjection.fail()`.
        """
        self._state.fail(error)

    def set_start(self, cb: Callable[[], Awaitable[None]] | None) -> None:
        """Set the callback that starts the producer, see `AsyncProjection.set_start()`."""
        for state in self._state.states():
            state.start = cb

    def set_arequest_more(self, cb: Callable[[], Awaitable[bool]] | None) -> None:
        """Set the callback that asks for more, see `AsyncProjection.set_arequest_more()`.

        One callback can serve many streams, as LangGraph's does.
        """
        self._set_producer(cb, None)

    def _set_producer(
        self,
        request_more: Callable[[], Awaitable[bool]] | None,
        request_step: Callable[[], Wakeup | None] | None,
    ) -> None:
        """Set what asks for more, see `ProjectionState`."""
        for state in self._state.states():
            state.request_more, state.request_step = request_more, request_step

    async def aclose(self) -> None:
        """Stop the run, and wait until it has cleaned up and its callbacks have run.

        Idempotent. Can be called from any task of the event loop, also in a cancelled scope, and
        takes at most 5 seconds. Waiting consumers are raised `StreamCancelledError`.

        | called | effect |
        |---|---|
        | after the message is complete | waits for the callbacks, without stopping them |
        | before the stream has started | nothing will run |
        | by a handler of the run, or the model | starts to stop the run, returns at once |
        | on a stream fed by hand | `fail(StreamCancelledError())` |

        Cancellation: deferred until the run has ended.

        Raises:
            RuntimeError: The run has not ended, and runs on another event loop.
        """
        if self._run is not None:
            await self._run.aclose()
        else:
            self._state.fail(StreamCancelledError())

    async def __aenter__(self) -> Self:
        """Return the stream; it starts when it, or a handler of its run, is first read."""
        self._entered = True
        if self._run is not None:
            enter(self._run)
        return self


class _EventsProjection(AsyncProjection[MessagesData, "list[MessagesData]"]):
    __slots__ = ()

    async def _wait(self) -> list[MessagesData]:
        if not self._state.keeps_all:
            raise RuntimeError(
                "the stream was opened with replay=False and does not keep its events; "
                "iterate over them, or open it with replay=True"
            )
        await super()._wait()
        return cast("EventsState", self._state).all()


@final
class InterleavedCursor(Generic[T]):
    """One consumer's positions in several projections, see `AsyncChatModelStream.interleave()`."""

    __slots__ = ("__weakref__", "_channels", "_owner", "_positions", "_state", "_steps")

    def __init__(self, state: StreamState, channels: tuple[Channel, ...], owner: object) -> None:
        known: tuple[Channel, ...] = ("text", "reasoning", "tool_calls")
        if not set(channels) <= set(known) or len(set(channels)) < len(channels):
            raise ValueError(f"channels must be distinct and among {known}, not {channels}")
        self._state = state
        self._owner = owner
        self._channels = {name: state.channel(name) for name in channels or known}
        self._positions = {name: channel.dropped for name, channel in self._channels.items()}
        self._steps = ConsumerCheckpoints()
        for channel in self._channels.values():
            channel.add_cursor(self)

    def __aiter__(self) -> Self:
        return self

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
        return _InterleavedBatches(self, self._state, self._owner, interval)

    async def __anext__(self) -> T:
        events = self._state.events
        if events.start is not None:
            await events.start()
        first = self._earliest_channel()
        ready = first is not None or events.done or events.request_more is not None
        await self._steps.take(ready=ready)
        first = self._earliest_channel()
        while first is None:
            if events.error is not None:
                events.raise_error()
            if events.done:
                raise StopAsyncIteration
            if events.request_more is None:
                await events.wait_for_more(self._steps)
            elif await events.request_more():
                if self._earliest_channel() is None:
                    await self._steps.take()  # `request_more()` may never be a checkpoint
            elif self._earliest_channel() is None and not events.done:
                raise StopAsyncIteration
            first = self._earliest_channel()
        self._positions[first] += 1
        return cast("T", (first, self._channels[first].take(self._positions[first] - 1)))

    def _earliest_channel(self) -> Channel | None:
        """Return the channel of the earliest delta not taken yet, if there is one."""
        first, earliest = None, 0
        for name, channel in self._channels.items():
            position = self._positions[name]
            if channel.holds(position):
                assert channel.marks is not None
                mark = channel.marks[position - channel.dropped]
                if first is None or mark < earliest:
                    first, earliest = name, mark
        return first

    def position_in(self, state: ProjectionState[Any, Any]) -> int:
        """Return the position in one of the projections, given by its state."""
        return next(
            self._positions[name] for name, channel in self._channels.items() if channel is state
        )


@final
class _InterleavedBatches(BatchIterator["list[T]"], Generic[T]):
    __slots__ = ("_channels", "_positions")

    def __init__(
        self, cursor: InterleavedCursor[T], state: StreamState, owner: object, interval: float
    ) -> None:
        super().__init__(state.events, owner, interval)
        self._channels = cursor._channels
        self._positions = {**cursor._positions}
        for channel in self._channels.values():
            channel.add_cursor(self)

    def _has_more(self) -> bool:
        positions = self._positions
        return any(channel.holds(positions[name]) for name, channel in self._channels.items())

    def _take(self) -> list[T]:
        found: list[tuple[int, T]] = []
        for name, channel in self._channels.items():
            position = self._positions[name]
            if channel.holds(position):
                assert channel.marks is not None
                marks = channel.marks[position - channel.dropped :]
                self._positions[name] = position + len(marks)
                deltas = channel.take_all(position)
                pairs = zip(marks, deltas, strict=True)
                found += ((mark, cast("T", (name, delta))) for mark, delta in pairs)
        found.sort(key=itemgetter(0))  # an event has at most one delta
        return [delta for _, delta in found]

    def position_in(self, state: ProjectionState[Any, Any]) -> int:
        return next(
            self._positions[name] for name, channel in self._channels.items() if channel is state
        )


AsyncChatModelStream.__module__ = "langchain_anyio"
