"""The state of one message's stream, and the interface of the run that feeds it."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from array import array
from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Literal, Protocol, cast, final

from langchain_core.messages import AIMessage
from langchain_protocol.protocol import MessagesData, ToolCall, ToolCallChunk, UsageInfo
from typing_extensions import Never, override

from ._primitives.backpressure import Backpressure
from ._primitives.projection import ProjectionState, shareable_error
from ._protocol.accumulator import Accumulator, Delta

Channel = Literal["text", "reasoning", "tool_calls"]


@final
class EventsState(ProjectionState[Any, "list[MessagesData]"]):
    """The raw events of a message.

    Text deltas, by far the most frequent events, are kept as strings and rebuilt when read.

    Invariant: a string in `deltas` stands for a text delta of that text at index `text_index`.
    """

    __slots__ = ("text_index",)

    flow: Backpressure

    def __init__(self, flow: Backpressure, *, replay: bool) -> None:
        super().__init__(flow, replay=replay)
        self.marks: array[int] | None = None  # an event's mark is its own number
        self.text_index: int | None = None

    def record(self, event: Any) -> None:
        """Append the next event and wake the cursors: a `push()` that the flow counts."""
        self.flow.produced += 1
        if self.more.waiting:
            self._wake()
        self.deltas.append(event)
        if self._cursors is not None:
            self._drop_passed()

    def pack(self, event: Mapping[str, Any], text: str) -> Any:
        """Return what to record of a text delta: its text, if nothing else has to be kept."""
        if len(event) != 3 or type(event) is not dict or type(text) is not str:
            return event
        delta, index = event.get("delta"), event.get("index")
        if type(delta) is not dict or type(index) is not int:
            return event
        if len(delta) != 2 or "text" not in delta:
            return event
        if index != self.text_index:
            if self.text_index is not None:
                return event
            self.text_index = index
        return text

    @override
    def take(self, position: int) -> MessagesData:
        event = self.deltas[position - self.dropped]
        if position >= self.flow.consumed:
            self.flow.pass_by(position + 1)
        if self._cursors is not None:
            self._drop_passed()
        return self._unpack(event)

    @override
    def take_all(self, position: int) -> list[MessagesData]:
        events = self.deltas[position - self.dropped :]
        self.flow.pass_by(position + len(events))
        if self._cursors is not None:
            self._drop_passed()
        return [self._unpack(event) for event in events]

    def all(self) -> list[MessagesData]:
        """Return the events that are kept, oldest first."""
        return [self._unpack(event) for event in self.deltas]

    def _unpack(self, event: Any) -> MessagesData:
        if type(event) is str:
            assert self.text_index is not None
            return {
                "event": "content-block-delta",
                "index": self.text_index,
                "delta": {"type": "text-delta", "text": event},
            }
        return cast("MessagesData", event)


@final
class StreamState:
    """The accumulator, events and projections of one message.

    A producer feeds this state and need not refer to the stream itself. Most streams are read only
    for their text and message, so the other projections are created when they are first read or get
    their first delta, in the state they would have if they had existed from the start.
    """

    __slots__ = (
        "_output",
        "_reasoning",
        "_replay",
        "_tool_calls",
        "_usage",
        "accumulator",
        "events",
        "flow",
        "text",
    )

    def __init__(self, message_id: str | None = None, *, replay: bool = True) -> None:
        self.accumulator: Accumulator = Accumulator(message_id)
        flow = Backpressure()
        self.flow: Backpressure = flow
        self.events: EventsState = EventsState(flow, replay=replay)
        self.text: ProjectionState[str, str] = ProjectionState(flow, replay=replay)
        self._replay = replay
        self._reasoning: ProjectionState[str, str] | None = None
        self._tool_calls: ProjectionState[ToolCallChunk, list[ToolCall]] | None = None
        self._output: ProjectionState[Never, AIMessage] | None = None
        self._usage: ProjectionState[Never, UsageInfo | None] | None = None

    @property
    def reasoning(self) -> ProjectionState[str, str]:
        if self._reasoning is None:
            self._reasoning = self._make_projection(self.accumulator.reasoning)
        return self._reasoning

    @property
    def tool_calls(self) -> ProjectionState[ToolCallChunk, list[ToolCall]]:
        if self._tool_calls is None:
            self._tool_calls = self._make_projection(self.accumulator.tool_calls)
        return self._tool_calls

    @property
    def output(self) -> ProjectionState[Never, AIMessage]:
        if self._output is None:
            self._output = self._make_projection(self.accumulator.message)
        return self._output

    @property
    def usage(self) -> ProjectionState[Never, UsageInfo | None]:
        if self._usage is None:
            self._usage = self._make_projection(self.accumulator.usage)
        return self._usage

    def _make_projection(self, final: Any) -> ProjectionState[Any, Any]:
        """Create a projection in the state of the others, with `final` as its value at the end."""
        state = ProjectionState[Any, Any](self.flow, replay=self._replay)
        state.start, state.request_more = self.events.start, self.events.request_more
        state.request_step = self.events.request_step
        if self.events.error is not None:
            state.fail_as(self.events)
        elif self.done:
            state.complete(final)
        return state

    def states(self) -> list[ProjectionState[Any, Any]]:
        """Return the projections that have been created."""
        optional = (self._reasoning, self._tool_calls, self._output, self._usage)
        return [self.events, self.text, *(state for state in optional if state is not None)]

    @property
    def done(self) -> bool:
        return self.events.done

    def channel(self, name: Channel) -> ProjectionState[Any, Any]:
        return cast("ProjectionState[Any, Any]", getattr(self, name))

    def dispatch(self, event: Mapping[str, Any]) -> Delta | None:
        """Record an event, update the projections, and return what is added to one of them."""
        accumulator = self.accumulator
        try:
            delta = accumulator.feed(event)
        except BaseException as exc:
            self.events.record(event)
            if accumulator.done:  # a `message-finish` that failed to make a message
                self.fail(exc)
            raise
        if delta is None:
            self.events.record(event)
        elif delta[0] == "text":
            self.events.record(self.events.pack(event, delta[1]))
            self.text.push(delta[1])
        else:
            self.events.record(event)
            self.channel(delta[0]).push(delta[1])
        if accumulator.done and not self.done:
            self._end()
        return delta

    def fail(self, error: BaseException) -> None:
        """End the message with an error; no effect after the end."""
        if not self.done:
            self.accumulator.fail(shareable_error(error))
            self._end()

    def _end(self) -> None:
        accumulator = self.accumulator
        finals: tuple[tuple[ProjectionState[Any, Any] | None, Any], ...] = (
            (self.text, accumulator.text),
            (self._reasoning, accumulator.reasoning),
            (self._tool_calls, accumulator.tool_calls),
            (self._output, accumulator.message),
            (self._usage, accumulator.usage),
            (self.events, []),  # awaiting the events builds the list
        )
        for state, value in finals:
            if state is None:
                continue
            if accumulator.error is None:
                state.complete(value)
            else:
                state.fail(accumulator.error)


class Startable(Protocol):
    """A run that can be started for a callback handler whose tokens a task reads."""

    async def start_for(self, reader: object) -> None:
        """Start the run if one of its handlers gives its tokens to `reader`.

        It is not held back for the stream itself, as long as nobody reads that.
        """
        ...


# Runs of the streams whose blocks the current task has entered, or one that has started it.
_entered: ContextVar[tuple[weakref.ref[Startable], ...]] = ContextVar(
    "langchain_anyio_entered", default=()
)


def enter(run: Startable) -> None:
    """Let `start_entered()` start a run whose block the current task enters."""
    known = [ref for ref in _entered.get() if ref() is not None]
    _entered.set((*known, weakref.ref(run)))


async def start_entered(reader: object) -> None:
    """Start the runs around the current task that give tokens to `reader`, which will wait."""
    for ref in _entered.get():
        run = ref()
        if run is not None:
            await run.start_for(reader)


def gives_tokens_to(reader: object, callbacks: object) -> bool:
    """Return whether one of the callback handlers, or of a manager's, gives tokens to `reader`."""
    handlers = getattr(callbacks, "handlers", callbacks)
    return isinstance(handlers, list) and any(
        feeds(reader)
        for handler in handlers
        if (feeds := getattr(handler, "_gives_tokens_to", None)) is not None
    )


class ClosedOnExit(ABC):
    """A stream that is closed when its `async with` block is left."""

    __slots__ = ()

    @abstractmethod
    async def aclose(self) -> None:
        """Stop what feeds the stream, and wait until it has ended."""

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Call `aclose()`, which does not raise the error that ended the stream."""
        await self.aclose()


class Run(ABC):
    """The interface through which a stream controls the run that feeds it."""

    @abstractmethod
    async def aclose(self) -> None:
        """Stop, clean up and report the end to the callbacks, within bounded time."""

    @abstractmethod
    async def start_for(self, reader: object) -> None:
        """See `Startable.start_for()`."""

    @abstractmethod
    def check_waiter(self) -> None:
        """Raise `RuntimeError` if the run's end waits for the caller."""

    @abstractmethod
    async def finished(self) -> None:
        """Wait for the callbacks at the end; raise any error after the message was complete."""
