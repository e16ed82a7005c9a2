"""What has come of one message so far, and the interface of whoever feeds it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Mapping
from typing import Any, Literal, cast, final

from langchain_core.messages import AIMessage
from langchain_protocol.protocol import MessagesData, ToolCall, ToolCallChunk, UsageInfo
from typing_extensions import Never, override

from ._primitives.backpressure import Flow
from ._primitives.projection import ProjectionState, shareable_error
from ._protocol.accumulator import Accumulator

Channel = Literal["text", "reasoning", "tool_calls"]


@final
class EventsState(ProjectionState[Any, "list[MessagesData]"]):
    """The raw events. Those of plain text, by far the most, are kept as their text and made again when they are read.

    Invariant: a string in `deltas` stands for a delta of that text at the index `text_index`.
    """

    __slots__ = ("text_index",)

    flow: Flow

    def __init__(self, flow: Flow, *, replay: bool) -> None:
        super().__init__(flow, replay=replay)
        self.marks: array[int] | None = None  # an event's mark is its own number
        self.text_index: int | None = None

    def record(self, event: Any) -> None:
        """Append the next event and wake the cursors; `push()` of what the flow counts."""
        self.flow.produced += 1
        if self.more.waiting:
            self._wake()
        self.deltas.append(event)
        if self._cursors is not None:
            self._drop_passed()

    def other_text(self, index: int, text: str) -> MessagesData | str:
        """Return what to append for a piece of text that is not of `text_index`, or the first of all."""
        if self.text_index is None:
            self.text_index = index
            return text
        return _text_event(index, text)

    @override
    def take(self, position: int) -> MessagesData:
        event = self.deltas[position - self.dropped]
        if position >= self.flow.consumed:
            self.flow.pass_by(position + 1)
        if self._cursors is not None:
            self._drop_passed()
        return self._made(event)

    def all(self) -> list[MessagesData]:
        """Return the events, from the oldest one kept."""
        return [self._made(event) for event in self.deltas]

    def _made(self, event: Any) -> MessagesData:
        if type(event) is str:
            assert self.text_index is not None
            return _text_event(self.text_index, event)
        return cast("MessagesData", event)


def _text_event(index: int, text: str) -> MessagesData:
    return {
        "event": "content-block-delta",
        "index": index,
        "delta": {"type": "text-delta", "text": text},
    }


@final
class StreamState:
    """What has come of one message. It is fed by a producer that need not hold the stream itself.

    Only projections that somebody has asked for, or that have a delta, are there; the others are made when that comes, and
    stand then as if they had been there from the start. Most streams are read for their text and their message alone.
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
        flow = Flow()
        self.flow: Flow = flow
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
            self._reasoning = self._late(self.accumulator.reasoning)
        return self._reasoning

    @property
    def tool_calls(self) -> ProjectionState[ToolCallChunk, list[ToolCall]]:
        if self._tool_calls is None:
            self._tool_calls = self._late(self.accumulator.tool_calls)
        return self._tool_calls

    @property
    def output(self) -> ProjectionState[Never, AIMessage]:
        if self._output is None:
            self._output = self._late(self.accumulator.message)
        return self._output

    @property
    def usage(self) -> ProjectionState[Never, UsageInfo | None]:
        if self._usage is None:
            self._usage = self._late(self.accumulator.usage)
        return self._usage

    def _late(self, final: Any) -> ProjectionState[Any, Any]:
        """Make a projection that stands as the others do; `final` is its value, if the message is whole."""
        state = ProjectionState[Any, Any](self.flow, replay=self._replay)
        state.start, state.request_more = self.events.start, self.events.request_more
        if self.events.error is not None:
            state.fail_as(self.events)
        elif self.done:
            state.complete(final)
        return state

    def states(self) -> list[ProjectionState[Any, Any]]:
        """Return the projections that are there."""
        late = (self._reasoning, self._tool_calls, self._output, self._usage)
        return [self.events, self.text, *(state for state in late if state is not None)]

    @property
    def done(self) -> bool:
        return self.events.done

    def channel(self, name: Channel) -> ProjectionState[Any, Any]:
        return cast("ProjectionState[Any, Any]", getattr(self, name))

    def dispatch(self, event: Mapping[str, Any]) -> None:
        """Record an event and show what it adds."""
        self.events.record(event)
        accumulator = self.accumulator
        try:
            delta = accumulator.feed(event)
        except BaseException as exc:
            if accumulator.done:  # a message-finish that made no message is an end all the same
                self.fail(exc)
            raise
        if delta is not None:
            name, piece = delta
            (self.text if name == "text" else self.channel(name)).push(piece)  # type: ignore[arg-type]
        if accumulator.done and not self.done:
            self._end()

    def dispatch_text(self, index: int, text: str) -> None:
        """Do what `dispatch()` does with the event of a piece of text, which need not be there."""
        events = self.events
        events.record(text if index == events.text_index else events.other_text(index, text))
        if not events.done:
            self.accumulator.grow_text(text, index)
            self.text.push(text)

    def fail(self, error: BaseException) -> None:
        """End the message by an error, unless it has ended."""
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
            (self.events, []),  # whoever asks for the list gets one made for it
        )
        for state, value in finals:
            if state is None:
                continue
            if accumulator.error is None:
                state.complete(value)
            else:
                state.fail(accumulator.error)


class Run(ABC):
    """What a stream asks of whoever feeds it."""

    @abstractmethod
    async def aclose(self) -> None:
        """Stop, clean up and report the end; return when that is done, within bounded time."""

    @abstractmethod
    def check_waiter(self) -> None:
        """Refuse a caller that the end waits for, with a `RuntimeError`."""

    @abstractmethod
    async def finished(self) -> None:
        """Wait until the end has been reported; raise what went wrong after the message was whole."""
