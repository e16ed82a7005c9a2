"""`AsyncChatModelStream`: an accumulator, and the projections that show what it finds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from types import TracebackType
from typing import Any, cast, final

from langchain_core.messages import AIMessage
from langchain_protocol.protocol import MessagesData, ToolCall, ToolCallChunk, UsageInfo
from typing_extensions import Never, Self

from ._errors import StreamCancelledError
from ._primitives.checkpoints import Steps
from ._primitives.projection import (
    AsyncProjection,
    AsyncTextProjection,
    Cursor,
    ProjectionState,
)
from ._protocol.accumulator import Delta
from ._stream_state import Channel, EventsState, Run, StreamState


class AsyncChatModelStream:
    """One answer of a chat model, while it comes and afterwards.

    | attribute | iterate for | await for |
    |---|---|---|
    | `.text`, `.reasoning` | `str` deltas | the whole text |
    | `.tool_calls` | `ToolCallChunk` deltas | `list[ToolCall]` |
    | `.events`, the stream itself | raw protocol events | the list of them; the stream gives the `AIMessage` |
    | `.output` | | the `AIMessage` |
    | `.usage` | | `UsageInfo`, or `None` where the provider sends none |

    Any number of consumers, in any tasks of one event loop, may come and go at any time; each sees
    everything from the first event (see `AsyncProjection`). One that is cancelled takes nothing from the
    others. A handler of the run, or the model, may read what is there; where it would wait for more, which cannot come
    before it has returned, it gets a `RuntimeError`. A task that it has started may wait. `interleave()` gives several projections as one, in the order of arrival.

    The message's content is always a list of v1 content blocks, whatever the model's `output_version`.

    Used with `async with`, leaving the block stops whoever feeds the stream and waits until that is
    done. A stream is also made and fed by hand: `dispatch()` each event, or `fail()`. It ends with its
    first terminal event (`message-finish`, `error`, or `fail()`); later ones are recorded and change nothing.

    Ports `langchain_core.language_models.chat_model_stream.AsyncChatModelStream`.

    Args:
        namespace: Path of the graph's namespace, for a message that a graph made.
        node: Name of the graph's node, likewise.
        message_id: The message's id unless its events name another.
    """

    __slots__ = (
        "__weakref__",
        "_awaiting",
        "_entered",
        "_events",
        "_namespace",
        "_node",
        "_output",
        "_owner",
        "_reasoning",
        "_run",
        "_state",
        "_text",
        "_tool_calls",
        "_usage",
    )

    def __init__(
        self,
        *,
        namespace: list[str] | None = None,
        node: str | None = None,
        message_id: str | None = None,
    ) -> None:
        self._set_up(StreamState(message_id), namespace=namespace, node=node)

    def _set_up(
        self,
        state: StreamState,
        *,
        namespace: list[str] | None = None,
        node: str | None = None,
        run: Run | None = None,
        owner: object = None,
    ) -> None:
        self._state = state
        self._run = run
        self._owner = owner
        self._entered = False
        self._awaiting = 0
        self._namespace = namespace or []
        self._node = node
        # Made when they are first asked for.
        self._text: AsyncTextProjection | None = None
        self._reasoning: AsyncTextProjection | None = None
        self._tool_calls: AsyncProjection[ToolCallChunk, list[ToolCall]] | None = None
        self._output: AsyncProjection[Never, AIMessage] | None = None
        self._usage: AsyncProjection[Never, UsageInfo | None] | None = None
        self._events: _Events | None = None

    @classmethod
    def _of_run(cls, state: StreamState, run: Run, owner: object) -> Self:
        """Make the stream that shows `state`, which `run` feeds for as long as `owner` lives."""
        self = cls.__new__(cls)
        self._set_up(state, run=run, owner=owner)
        return self

    def __repr__(self) -> str:
        accumulator = self._state.accumulator
        if not accumulator.done:
            standing = "unfinished"
        elif accumulator.error is None:
            standing = "finished"
        else:
            standing = f"failed with {type(accumulator.error).__name__}"
        return f"<AsyncChatModelStream {standing}, {self._state.flow.produced} events>"

    # What it is

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
        """The message's id, as soon as it is known."""
        return self._state.accumulator.message_id

    # Where it stands

    @property
    def done(self) -> bool:
        """Whether the message is whole or has failed."""
        return self._state.accumulator.done

    @property
    def error(self) -> BaseException | None:
        """What consumers are raised instead of the message, if anything."""
        return self._state.accumulator.error

    @property
    def has_events(self) -> bool:
        """Whether any event has come."""
        return self._state.flow.produced > 0

    @property
    def output_message(self) -> AIMessage | None:
        """The message, once it is whole; neither waits nor raises."""
        return self._state.accumulator.message

    @property
    def finish_reason(self) -> str | None:
        """Why the model stopped, in the provider's words; `None` before the end or where it does not say."""
        return self._state.accumulator.finish_reason

    def snapshot(self) -> AIMessage:
        """Return the message as far as it has come, at any time, also after a failure.

        Returns:
            A message of its own. While it is not whole, `response_metadata["partial"]` is `True` and a tool
            call whose arguments were still coming is among `invalid_tool_calls`.
        """
        return self._state.accumulator.snapshot()

    # Listening

    @property
    def text(self) -> AsyncTextProjection:
        """The answer's text."""
        if self._text is None:
            self._text = AsyncTextProjection._view(self._state.text, self._owner)
        return self._text

    @property
    def reasoning(self) -> AsyncTextProjection:
        """The model's reasoning, as far as the provider shows it."""
        if self._reasoning is None:
            self._reasoning = AsyncTextProjection._view(self._state.reasoning, self._owner)
        return self._reasoning

    @property
    def tool_calls(self) -> AsyncProjection[ToolCallChunk, list[ToolCall]]:
        """The tool calls: pieces of their arguments as they come, then the calls with arguments parsed."""
        if self._tool_calls is None:
            self._tool_calls = AsyncProjection._view(self._state.tool_calls, self._owner)
        return self._tool_calls

    @property
    def output(self) -> AsyncProjection[Never, AIMessage]:
        """The message, as soon as it is whole; `await stream` also waits for the end's callbacks."""
        if self._output is None:
            self._output = AsyncProjection._view(self._state.output, self._owner)
        return self._output

    @property
    def usage(self) -> AsyncProjection[Never, UsageInfo | None]:
        """The tokens used, in and out."""
        if self._usage is None:
            self._usage = AsyncProjection._view(self._state.usage, self._owner)
        return self._usage

    @property
    def events(self) -> AsyncProjection[MessagesData, list[MessagesData]]:
        """The raw protocol events."""
        if self._events is None:
            self._events = _Events._view(self._state.events, self._owner)
        return self._events

    def __aiter__(self) -> Cursor[MessagesData]:
        """Iterate over the raw protocol events from the first, then end or raise the error."""
        return self.events.__aiter__()

    def interleave(self, *channels: Channel) -> InterleavedCursor:
        """Iterate over several projections at once, in the order in which their deltas came.

        Args:
            channels: Some of `"text"`, `"reasoning"` and `"tool_calls"`; all three if none is named.

        Returns:
            An async iterator of `(channel, delta)`, which misses nothing and is cancelled like any other.

        Raises:
            ValueError: Another name, or the same one twice.
        """
        known: tuple[Channel, ...] = ("text", "reasoning", "tool_calls")
        if not set(channels) <= set(known) or len(set(channels)) < len(channels):
            raise ValueError(f"channels must be different ones of {known}, not {channels}")
        return InterleavedCursor(self._state, channels or known, self._owner or self)

    def __await__(self) -> Generator[Any, Any, AIMessage]:
        """Wait for the message and for the callbacks of the run's end.

        Cancellation: where nobody else uses the stream and no block is entered, as in
        `await open_stream(...)`, the run is stopped and cleaned up before the cancellation goes on.

        Raises:
            BaseException: The model's error; or, the message being whole, that of a callback handler that
                says `raise_error`.
            RuntimeError: A handler of the run waits before it has returned, or a task of another event loop.
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

    # Feeding

    def set_message_id(self, message_id: str) -> None:
        """Set the id that the message has unless its events name another."""
        self._state.accumulator.message_id = message_id

    def dispatch(self, event: Mapping[str, Any]) -> None:
        """Record a protocol event and show what it adds. To be called on the consumers' event loop.

        Args:
            event: The event. Those of unknown types are recorded and have no other effect.

        Raises:
            Exception: The event is malformed. It stays recorded; more may follow.
        """
        self._state.dispatch(event)

    def fail(self, error: BaseException) -> None:
        """End by an error, which every consumer is raised; without effect after the end.

        Args:
            error: What they see; a `StreamCancelledError` in place of a backend's cancellation exception.
        """
        self._state.fail(error)

    def set_start(self, cb: Callable[[], Awaitable[None]] | None) -> None:
        """Install what is awaited before each step of a consumer: it starts the producer, once.

        Args:
            cb: An async function without arguments that may be called any number of times, or `None` for
                none.
        """
        for state in self._state.states():
            state.start = cb

    def set_arequest_more(self, cb: Callable[[], Awaitable[bool]] | None) -> None:
        """Install what consumers that have read everything await to get more, instead of waiting.

        One pump may serve many streams, as LangGraph's does. Several consumers may call it at once.

        Args:
            cb: An async function without arguments that has the source take one step and returns whether
                it did; `False` means that nothing more will come. `None` for none.
        """
        for state in self._state.states():
            state.request_more = cb

    # Closing

    async def aclose(self) -> None:
        """Stop the run and wait until it has cleaned up and reported its end to the callbacks.

        Idempotent. It may be called from any task of the event loop, also in a cancelled scope, and takes 5
        seconds at most. Consumers that wait get `StreamCancelledError`. A run that has its message is left to
        finish its callbacks. A stream that never started is closed, and nothing runs. Called by a handler of
        the run, or by the model, it begins to stop and returns at once, since the end waits for the caller. On a
        stream fed by hand it is `fail(StreamCancelledError())`.

        Cancellation: held back until the run has ended, and then goes on.

        Raises:
            RuntimeError: The caller is on another event loop than the run, which has not ended.
        """
        if self._run is not None:
            await self._run.aclose()
        else:
            self._state.fail(StreamCancelledError())

    async def __aenter__(self) -> Self:
        """Return the stream; nothing starts before its first use."""
        self._entered = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the stream, see `aclose()`; the model's error is not raised here."""
        await self.aclose()


class _Events(AsyncProjection[MessagesData, "list[MessagesData]"]):
    __slots__ = ()

    async def _wait(self) -> list[MessagesData]:
        if not self._state.keeps_all:
            raise RuntimeError(
                "the stream was opened with replay=False, so its events are not kept; "
                "iterate over them, or open it with replay=True"
            )
        await super()._wait()
        return cast("EventsState", self._state).all()


@final
class InterleavedCursor:
    """One consumer's place in several projections of a stream, see `AsyncChatModelStream.interleave()`."""

    __slots__ = ("__weakref__", "_channels", "_owner", "_positions", "_state", "_steps")

    def __init__(self, state: StreamState, channels: tuple[Channel, ...], owner: object) -> None:
        self._state = state
        self._owner = owner
        self._channels = {name: state.channel(name) for name in channels}
        self._positions = {name: channel.dropped for name, channel in self._channels.items()}
        self._steps = Steps()
        for channel in self._channels.values():
            # Not a Cursor, but all that is asked of one is its place.
            channel.add_cursor(cast("Cursor[Any]", self))

    def __aiter__(self) -> InterleavedCursor:
        return self

    async def __anext__(self) -> Delta:
        events = self._state.events
        if events.start is not None:
            await events.start()
        ready = self._first() is not None or events.done or events.request_more is not None
        await self._steps.take(ready=ready)
        first = self._first()
        while first is None:
            if events.error is not None:
                events.raise_error()
            if events.done:
                raise StopAsyncIteration
            if events.request_more is None:
                await events.wait_for_more(self._steps)
            elif await events.request_more():
                if self._first() is None:
                    await self._steps.take()  # what is asked for more may never wait
            elif self._first() is None and not events.done:
                raise StopAsyncIteration
            first = self._first()
        self._positions[first] += 1
        return cast("Delta", (first, self._channels[first].take(self._positions[first] - 1)))

    def _first(self) -> Channel | None:
        """Name the projection that holds the earliest delta not taken yet."""
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
        return next(
            self._positions[name] for name, channel in self._channels.items() if channel is state
        )


AsyncChatModelStream.__module__ = "langchain_anyio"
