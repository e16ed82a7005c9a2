"""The run of a graph on a server as a stream, made of the events that the server sends.

All of them come on one connection, to one task, which makes the items of each projection. So every
projection is whole whenever it is first read, and no consumer's cancellation reaches another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextvars import copy_context
from typing import Any, final

import anyio
from anyio.lowlevel import checkpoint_if_cancelled
from langchain_core.runnables import RunnableConfig
from typing_extensions import override

from langchain_anyio._backends import limits
from langchain_anyio._backends.cancellation import EXITS, is_cancellation
from langchain_anyio._backends.current import backend
from langchain_anyio._backends.event_loops import Loop
from langchain_anyio._backends.leaks import warn_of_leak
from langchain_anyio._backends.tasks import spawn_background, spawn_in
from langchain_anyio._errors import StreamCancelledError
from langchain_anyio._langchain_core import needs_asyncio
from langchain_anyio._primitives.projection import ProjectionState, shareable_error

from .cleanup import BackgroundRun, TimeLimit
from .langgraph import Log
from .langgraph_remote import (
    RemoteRunStream,
    RunEnd,
    end_of,
    error_of,
    interrupt_of,
    run_named_by,
)
from .remote_projections import RemoteProjections

_NAME = "langchain_anyio.open_stream"


@final
class RemoteRun(BackgroundRun):
    """One run of a `RemoteGraph`: one task (`_main`) starts it, reads its events and ends it.

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
        self._arguments = (graph, input, config, kwargs)
        self._name = str(graph.name)
        self._stream: RemoteRunStream | None = None
        self.events: ProjectionState[Any, list[Any]] = ProjectionState()
        self.events.start = self._start
        self._output: ProjectionState[Any, Any] = ProjectionState()
        self._interrupts: list[dict[str, Any]] = []
        self.log = log
        log.state.start = self._start
        self._projections = RemoteProjections([], log.make_message, self.events)
        self._end: RunEnd | None = None
        self._of_another = False  # the events that come now, of another run in the thread
        self._unanswered = False  # the start was sent, and the run's id has not come
        self._closing = False
        self._exit: BaseException | None = None

    def open(self) -> Mapping[str, Any]:
        """Return the projections' states by name.

        The first call creates langgraph's run stream. Nothing is sent yet.
        """
        if self._stream is None:
            if backend() == "trio" and needs_asyncio():
                raise RuntimeError(
                    "graphs run on trio with langchain_anyio.enable_trio(), called before anything "
                    "runs"
                )
            self._stream = RemoteRunStream(*self._arguments)
        return self._projections

    @property
    def run_stream(self) -> RemoteRun:
        """Source of the output and the interrupts, once all events have come."""
        return self

    async def output(self) -> Any:
        return await self._output.wait_for_final()

    async def interrupted(self) -> bool:
        return self._end == "interrupted"

    async def interrupts(self) -> list[dict[str, Any]]:
        return list(self._interrupts)

    async def _start(self) -> None:
        """Start the background task, once."""
        if self._loop is not None or self.events.done:
            return
        self.open()
        self._loop = Loop()
        self._scope = anyio.CancelScope()
        spawn_background(self._main, name=_NAME, context=copy_context(), on_done=self._over)

    def _over(self) -> None:
        """Record that the task has ended, even if it was cancelled before it began."""
        self._fail(StreamCancelledError())
        self._ended.set()

    # The background task

    async def _main(self) -> None:
        foreign: BaseException | None = None
        try:
            with self._scope:
                await self._follow()
        except BaseException as exc:  # noqa: BLE001 - raised to the consumers
            if isinstance(exc, EXITS):
                self._exit = exc
            if is_cancellation(exc) or isinstance(exc, EXITS):
                foreign = exc
            self._fail(exc)
        self._begin_cleanup()
        assert self._stream is not None
        in_time = await self._run_cleanup(self._cancel_remote, self._stream.close)
        if not (in_time or self._ended.is_set()):
            self._give_up()
        if foreign is not None:
            try:
                raise foreign
            finally:
                del foreign

    async def _follow(self) -> None:
        stream = self._stream
        assert stream is not None
        await self._start_remote(stream)
        await checkpoint_if_cancelled()
        if not await stream.read(self._take):
            raise ConnectionError("the server's events ended before the one that tells of the end")
        if self._end == "failed":
            raise error_of(self.events.deltas[-1])
        self._complete_projections()
        self._output.complete(await stream.state())

    def _take(self, event: Mapping[str, Any]) -> bool:
        """Pass an event on to the projections; return whether it is the last."""
        assert self._stream is not None
        run_id = run_named_by(event)
        if run_id is not None:
            self._of_another = run_id != self._stream.run_id
        if self._of_another or self.events.done:
            return False
        self.events.push(event)
        self._projections.feed(event)
        self.log.feed(event)
        interrupt = interrupt_of(event)
        if interrupt is not None:
            self._interrupts.append(interrupt)
        self._end = end_of(event)
        return self._end is not None

    async def _start_remote(self, stream: RemoteRunStream) -> None:
        """Start the run, and do not give up at once: only the answer tells the run's id.

        Without it, the run could not be cancelled. After a cancellation, the answer is waited for
        during the first part of the cleanup.
        """
        scope = anyio.CancelScope(shield=True)
        error: BaseException | None = None
        notice = None
        try:
            async with anyio.create_task_group() as tasks:
                notice = _limit_once_cancelled(scope, limits.MODEL_SECONDS / 2)
                spawn_in(tasks, notice, name=f"{_NAME} start")
                with scope:
                    try:
                        await stream.start()
                    except Exception as exc:  # noqa: BLE001 - raised bare, not in a group
                        error = exc
                tasks.cancel_scope.cancel()
        finally:
            self._unanswered = stream.run_id is None and error is None
            if notice is not None:
                notice.close()
        if error is not None:
            try:
                raise error
            finally:
                del error

    def _complete_projections(self) -> None:
        for state in (self.events, self.log.state):
            state.complete(state.deltas)
        self._projections.complete()

    def _fail_projections(self, error: BaseException) -> None:
        error = shareable_error(error)
        self.events.fail(error)
        self.log.state.fail(error)
        self._projections.fail(error)

    def _fail(self, error: BaseException) -> None:
        self._fail_projections(error)
        self._output.fail(shareable_error(error))

    # The end

    @override
    def close(self) -> None:
        if self._closing or self._ended.is_set():
            return
        self._closing = True
        self._fail(StreamCancelledError())
        self._scope.cancel()
        self._begin_cleanup()

    @override
    def _close_unstarted(self) -> None:
        self._closing = True
        self._fail(StreamCancelledError())

    @override
    def _is_cut_short_by_close(self) -> bool:
        return not self.events.done

    @override
    def _errors(self) -> Iterator[BaseException | None]:
        yield self._exit

    @override
    def _waits_for_caller(self) -> bool:
        return False  # none of the caller's code runs in the tasks of the run

    async def _cancel_remote(self) -> None:
        """Cancel the run on the server, unless it has ended or waits to be resumed."""
        stream = self._stream
        assert stream is not None
        assert self._cleanup_since is not None
        if self._unanswered:
            self._warn_of_running("the server has not answered its start")
        if self._end is not None or stream.run_id is None:
            return
        failure = "the server has not answered"
        try:
            with anyio.CancelScope(deadline=self._cleanup_since + limits.MODEL_SECONDS) as scope:
                await stream.cancel()
        except Exception as exc:  # noqa: BLE001 - the cleanup goes on
            status = getattr(getattr(exc, "response", None), "status_code", 0)
            if 400 <= status < 500:
                return  # it has ended meanwhile, or the server does not know it
            failure = repr(exc)
        else:
            if not scope.cancelled_caught:
                return
        self._warn_of_running(failure)

    def _warn_of_running(self, reason: str) -> None:
        warn_of_leak(f"the remote run of {self._name} could not be cancelled: {reason}", self)

    @override
    def _time_limits(self) -> Sequence[TimeLimit]:
        return ((self._ended, limits.CLEANUP_SECONDS, self._give_up),)

    def _give_up(self) -> None:
        self._warn_of_abandoned([f"the connections of the remote graph {self._name}"])


async def _limit_once_cancelled(scope: anyio.CancelScope, seconds: float) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        scope.deadline = anyio.current_time() + seconds
