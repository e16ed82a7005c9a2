"""A LangGraph run as a stream: the graph runs in background tasks that belong to the stream.

langgraph's own run stream turns the graph's output into projections. A single task advances that
stream, so that no consumer's cancellation reaches the graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextvars import ContextVar, copy_context
from typing import Any, final

import anyio
from langchain_core.runnables import RunnableConfig
from typing_extensions import override

from langchain_anyio._backends import limits
from langchain_anyio._backends.cancellation import EXITS, is_cancellation
from langchain_anyio._backends.current import backend, contexts_around
from langchain_anyio._backends.event_loops import Loop
from langchain_anyio._backends.tasks import spawn_background
from langchain_anyio._errors import StreamCancelledError
from langchain_anyio._langchain_core import needs_asyncio
from langchain_anyio._primitives.event import Event
from langchain_anyio._primitives.projection import (
    ProjectionState,
    shareable_error,
)
from langchain_anyio._primitives.wakeup import Wakeup
from langchain_anyio._providers.within_runs import models_on_this_loop
from langchain_anyio._stream_state import gives_tokens_to

from .cleanup import BackgroundRun, TimeLimit
from .langgraph import Channel, GraphRunStream, Log, Message
from .node_models import DESCRIPTORS

# Graph runs in which the current task executes a node, or was started by one, outermost first.
_around: ContextVar[tuple[GraphRun, ...]] = ContextVar("langchain_anyio_graphs", default=())


@final
class GraphRun(BackgroundRun):
    """One run of a graph: one task (`_main`) advances it, another one (`_stop`) closes it.

    It does not refer to the stream.
    """

    def __init__(
        self,
        graph: Any,
        input: Any,
        config: RunnableConfig | None,
        kwargs: dict[str, Any],
        log: Log,
    ) -> None:
        super().__init__()
        self._graph = graph
        self._input = input
        self._config = config
        self._kwargs = kwargs
        self.log = log
        self._messages: list[Message] = []
        self.events: ProjectionState[Any, list[Any]] = ProjectionState()
        self._stream: GraphRunStream | None = None
        # langgraph's channels, and the projection states that they feed.
        self._channels: list[tuple[Channel, ProjectionState[Any, list[Any]]]] = []
        self._projections: dict[str, Any] = {}
        self._wanted = Event()
        self._advanced = Wakeup()
        self._goes_on = False
        self._closing = False
        self._exit: BaseException | None = None
        self._left = Event()
        self._stopped = Event()

    def open(self) -> dict[str, Any]:
        """Return the projections' states, and extensions that are none, by name.

        The first call creates langgraph's run stream. Nothing of the graph runs yet.
        """
        if self._stream is None:
            if backend() == "trio" and needs_asyncio():
                raise RuntimeError(
                    "graphs run on trio with langchain_anyio.enable_trio(), called before anything "
                    "runs"
                )
            stream = self._stream = GraphRunStream(
                self._graph,
                self._input,
                self._config,
                self._kwargs,
                self.advance,
                self._open_message,
                self._pass_on,
            )
            self._ask_on_demand(self.log.state)
            self._feed(self.events, stream.events)
            for name, value in stream.projections.items():
                if isinstance(value, Channel):
                    self._projections[name] = self._feed(ProjectionState(), value)
                else:
                    self._projections[name] = value
            if self._closing:
                self._end(StreamCancelledError())
        return self._projections

    @property
    def run_stream(self) -> Any:
        """Langgraph's own run stream, once the run is open."""
        return None if self._stream is None else self._stream.public

    def _feed(
        self, state: ProjectionState[Any, list[Any]], channel: Channel
    ) -> ProjectionState[Any, list[Any]]:
        self._ask_on_demand(state)
        self._channels.append((channel, state))
        return state

    def _ask_on_demand(self, state: ProjectionState[Any, list[Any]]) -> None:
        """Let the graph take a step whenever a consumer waits for more of `state`."""
        state.request_more, state.request_step = self.advance, self._request_step

    def _open_message(
        self, namespace: list[str], node: str | None, message_id: str | None
    ) -> Message:
        message = self.log.make_message(namespace, node, message_id)
        message._set_producer(self.advance, self._request_step)
        self._messages.append(message)
        return message

    async def advance(self) -> bool:
        """Wait for one step of the graph, shared by all waiters; return whether more may come."""
        step = self._request_step()
        if step is None:
            return False
        await step.wait()
        return not self._over()

    def _request_step(self) -> Wakeup | None:
        """Ask for one step of the graph; return what its end fires, or `None` after the last."""
        if self._over():
            return None
        self._start()
        self._wanted.set()
        return self._advanced

    def _start(self) -> None:
        if self._loop is None:
            self._loop = Loop()
            self._scope = anyio.CancelScope()
            name = "langchain_anyio.open_stream"
            spawn_background(self._main, name=name, context=copy_context(), on_done=self._left.set)

    async def start_for(self, reader: object) -> None:
        """See `Startable.start_for()`: the graph takes all its steps without being asked."""
        callbacks = (self._config or {}).get("callbacks")
        if not self._over() and gives_tokens_to(reader, callbacks):
            self._goes_on = True
            self._start()
            self._wanted.set()

    def _over(self) -> bool:
        return self._closing or self.events.done

    # The background tasks

    async def _main(self) -> None:
        error: BaseException | None = None
        _around.set((*_around.get(), self))
        assert self._stream is not None
        try:
            with models_on_this_loop(DESCRIPTORS), self._scope:
                while await self._is_wanted():
                    more = await self._stream.step()
                    self._wanted.clear()  # whoever still waits asks again once woken
                    self._pass_on()
                    if not more:
                        error = self._stream.events.error
                        break
        except BaseException as exc:  # raised to the consumers
            error = exc
            if isinstance(exc, EXITS):
                self._exit = exc
            if is_cancellation(exc) or isinstance(exc, EXITS):
                raise
        finally:
            if isinstance(error, Exception):
                # After an error of a stream transformer, the graph itself has not ended.
                self._close(error)
            elif error is not None and not self._closing:
                try:  # in this task, because a loop that is ending waits for no new one
                    deadline = anyio.current_time() + limits.CLEANUP_SECONDS
                    with anyio.CancelScope(shield=True, deadline=deadline):
                        await self._stream.close_graph()
                finally:
                    self._end(error)
            else:
                self._end(error)

    async def _is_wanted(self) -> bool:
        if not (self._goes_on or self._closing):
            await self._wanted.wait()
            self._wanted.clear()
        return not self._closing

    def _pass_on(self) -> None:
        """Pass on what a step has given, and wake those who wait for it."""
        for channel, state in self._channels:
            for item in channel.take():
                if not state.done:
                    state.push(item)
                    if state is self.events:
                        self.log.feed(item)
        self._advanced.fire()

    def _end(self, error: BaseException | None) -> None:
        for state in (self.events, self.log.state, *(state for _, state in self._channels)):
            if error is None:
                state.complete(state.deltas)
            else:
                state.fail(shareable_error(error))
        # langgraph leaves messages open that were cut off.
        for message in self._messages:
            message.fail(StreamCancelledError() if error is None else shareable_error(error))
        self._messages.clear()
        self._advanced.fire()
        if not self._closing:
            self._ended.set()

    # The end

    @override
    def close(self) -> None:
        self._close(StreamCancelledError())

    @override
    def _close_unstarted(self) -> None:
        self._closing = True
        self._end(StreamCancelledError())

    @override
    def _is_cut_short_by_close(self) -> bool:
        return not self._over()

    @override
    def _errors(self) -> Iterator[BaseException | None]:
        yield self._exit

    @override
    def _waits_for_caller(self) -> bool:
        """Return whether the current task is one of the graph's, whose end the run waits for.

        A task that a node has started in a task group from outside of the graph is none of these.
        """
        return self in _around.get() and all(
            self in context.get(_around, ()) for context in contexts_around()
        )

    def _close(self, error: Exception) -> None:
        """Begin to stop, and raise `error` to the consumers; call this on the run's event loop."""
        if not (self._closing or self._ended.is_set()):
            self._closing = True
            self._end(error)
            self._wanted.set()
            self._stop_scope = anyio.CancelScope(shield=True)
            spawn_background(
                self._stop,
                name="langchain_anyio.open_stream cleanup",
                on_done=self._stopped.set,
            )
            self._begin_cleanup()

    async def _stop(self) -> None:
        """Stop the graph, in a task that nobody cancels.

        langgraph cleans up correctly when it is cancelled once, but not when cancelled twice.
        """
        assert self._stream is not None
        try:
            with self._stop_scope:
                await self._stream.public.abort()
                await self._stream.close_graph()
        except EXITS as exc:
            self._exit = exc
            raise

    @override
    def _time_limits(self) -> Sequence[TimeLimit]:
        return (
            (self._stopped, limits.CLEANUP_SECONDS, self._give_up),
            (self._left, limits.CLEANUP_SECONDS, self._give_up),
        )

    def _give_up(self) -> None:
        if not self._scope.cancel_called:
            self._scope.cancel()
            self._stop_scope.cancel()
            self._warn_of_abandoned([f"the graph {self._graph.get_name()}"])
