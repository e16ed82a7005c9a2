"""One run of a chat model into a stream, in a background task that belongs to the stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any, cast, final

import anyio
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import LC_ID_PREFIX
from langchain_core.utils.uuid import uuid7
from typing_extensions import override

from langchain_anyio._backends import limits
from langchain_anyio._backends.async_generators import AsyncGenerators
from langchain_anyio._backends.asyncio_notes import note_use_of_asyncio
from langchain_anyio._backends.cancellation import EXITS, is_cancellation
from langchain_anyio._backends.current import backend
from langchain_anyio._backends.event_loops import Loop
from langchain_anyio._backends.tasks import spawn_background, spawn_surely, uninterrupted
from langchain_anyio._errors import StreamCancelledError
from langchain_anyio._langchain_core import ModelCall, prepare_call
from langchain_anyio._primitives.event import Event
from langchain_anyio._stream_state import Run, StreamState, gives_tokens_to

from .answer import answer_of_model
from .callbacks import Dispatcher
from .cleanup import BackgroundRun, TimeLimit
from .late_error import LateError
from .managers import AnyioLLMRunManager, OpenRuns
from .pump import Pump
from .reentrancy import is_within
from .route import Route
from .stall_timer import StallTimer
from .target import Target
from .threads import ThreadCalls


def call_of(target: Target, input: Any, kwargs: Mapping[str, Any]) -> ModelCall:
    merged = {**target.bound, **kwargs}
    merged.pop("version", None)  # a parameter of astream_events, which a binding may carry
    stop = merged.pop("stop", None)
    return prepare_call(cast("BaseChatModel", target.runnable), input, target.config, stop, merged)


@final
class ModelRun(BackgroundRun, Run):
    """One run of a model into a stream's state.

    It does not refer to the stream. One task (`_main`) notifies the handlers of the start, runs the
    model, cleans up, and notifies the handlers of the end. Closing the run cancels the part of this
    task that runs the model. From then on, or from when the model fails, a second task (`_watch`)
    makes sure that everything ends in time, whatever the model and the handlers do. A run that has
    its complete message has no time limit, unless it is closed.

    `_left_model` is set when the model has ended and its generators are closed.
    """

    def __init__(
        self,
        state: StreamState,
        target: Target,
        input: Any,
        call: ModelCall | None,
        kwargs: dict[str, Any],
        *,
        max_buffer_size: float,
        chunk_timeout: float | None,
    ) -> None:
        super().__init__()
        self._state = state
        self._target = target
        self._name = type(target.runnable).__name__
        self._input = input
        self._call = call
        self._kwargs = kwargs
        self._limit = max_buffer_size
        self._chunk_timeout = chunk_timeout
        self._stall: StallTimer | None = None
        config = target.config or {}
        self._callbacks = config.get("callbacks") if call is None else call.callbacks
        self._closed_unstarted = False
        self._late = LateError()
        self._left_model = Event()
        self._open_runs = OpenRuns(state, self._late)
        self._generators = AsyncGenerators()
        self._pump: Pump | None = None
        self._route: Route | None = None

    # Called by the stream and its users

    async def start(self) -> None:
        """Start the run, unless it has started or was closed before."""
        if self._loop is not None or self._closed_unstarted:
            return
        await uninterrupted(self._start)

    @override
    async def start_for(self, reader: object) -> None:
        if self._loop is None and gives_tokens_to(reader, self._callbacks):
            self._state.flow.read_elsewhere = True
            await self.start()

    async def _start(self) -> None:
        self._loop = Loop()
        self._calls = ThreadCalls(self._loop)
        if self._chunk_timeout is not None:
            self._stall = StallTimer(self._chunk_timeout, self._loop)
        self._dispatch = Dispatcher(self._calls, self._stall)
        self._state.flow.loop = self._loop.token
        self._state.flow.check_waiter = self._dispatch.check_waiter
        self._model_scope = anyio.CancelScope()
        spawn_background(
            self._main,
            name="langchain_anyio.open_stream",
            context=copy_context(),
            on_done=self._over,
        )
        for state in self._state.states():
            state.start = None

    def check_waiter(self) -> None:
        if self._loop is not None and not self._ended.is_set():
            self._dispatch.check_waiter()

    def is_started(self) -> bool:
        return self._loop is not None

    def is_over(self) -> bool:
        return self._ended.is_set()

    async def over(self) -> None:
        """Wait until everything has ended; does not raise the run's error."""
        await self._ended.wait()

    async def finished(self) -> None:
        await self._ended.wait()
        self._late.throw()

    @override
    def close(self) -> None:
        if self._cleanup_since is not None or self._ended.is_set():
            return
        self._state.fail(StreamCancelledError())
        if self._state.accumulator.message is None:
            self._model_scope.cancel()
        else:  # the handlers still have to be notified of the last event
            self._model_scope.deadline = anyio.current_time() + limits.MODEL_SECONDS
        self._begin_cleanup()

    @override
    def _close_unstarted(self) -> None:
        self._closed_unstarted = True
        self._state.fail(StreamCancelledError())

    @override
    def _is_cut_short_by_close(self) -> bool:
        return not (self._ended.is_set() or self._cleanup_since is not None or self._state.done)

    @override
    def _waits_for_caller(self) -> bool:
        return is_within(self._dispatch)

    @override
    def _errors(self) -> Iterator[BaseException | None]:
        yield self._state.accumulator.error
        yield self._late.error

    # The background task

    async def _main(self) -> None:
        foreign: BaseException | None = None
        self._dispatch.enter_model()
        try:
            with self._model_scope:
                await self._run_model()
            if self._model_scope.cancelled_caught:
                self._state.fail(StreamCancelledError())
            if self._state.accumulator.message is None:
                self._begin_cleanup()
        except BaseException as exc:  # noqa: BLE001 - raised to the consumers
            if is_cancellation(exc) or isinstance(exc, EXITS):
                foreign = exc
            self._fail(exc)
        try:
            await self._clean_up(foreign)
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as exc:  # noqa: BLE001 - raised to whoever awaits the stream
            self._late.note(exc)
        if foreign is None and isinstance(self._late.error, EXITS):
            foreign = self._late.error
        if foreign is not None:
            try:
                raise foreign
            finally:
                del foreign

    def _fail(self, error: BaseException) -> None:
        """Raise to the consumers the error that ended the model, and limit the remaining time."""
        if backend() == "trio":
            note_use_of_asyncio(error)
        whole = self._state.accumulator.message is not None
        if whole and not is_cancellation(error):
            # An error after the complete message does not replace it, but is not lost either.
            self._late.note(error)
        self._state.fail(error)
        if isinstance(error, EXITS) and self._state.accumulator.error is not error:
            self._late.note(error)  # the run was closed before
        if not whole or is_cancellation(error) or isinstance(error, EXITS):
            self._begin_cleanup()

    def _over(self) -> None:
        """Record that the task has ended, even if it was cancelled before it began."""
        self._state.fail(StreamCancelledError())
        self._left_model.set()
        self._ended.set()

    async def _run_model(self) -> None:
        target, input, call = self._target, self._input, self._call
        # Otherwise they would be kept in memory until the answer is complete.
        del self._target, self._input, self._call
        if call is None:
            self._route = Route(
                self._dispatch, self._open_runs, self._prepare_and_call, self._has_begun
            )
            following = self._route.follow(target, input)
            del target, input
            try:
                await following
            finally:
                self._route = None
        else:
            calling = self._call_model(cast("BaseChatModel", target.runnable), call)
            del target, input, call
            await calling
        if not self._state.done:
            # Native event producers may leave the last event out.
            self._state.dispatch({"event": "message-finish"})

    async def _prepare_and_call(self, target: Target, input: Any) -> None:
        call = call_of(target, input, self._kwargs)
        model = cast("BaseChatModel", target.runnable)
        del target, input
        await self._call_model(model, call)

    async def _call_model(self, model: BaseChatModel, call: ModelCall) -> None:
        """Run the model to the end of its answer."""
        self._name = type(model).__name__
        run = AnyioLLMRunManager(self._dispatch, call.callbacks, call.run_id or uuid7())
        self._open_runs.add(run)
        if run.handlers:
            await run.start(call.serialized, call.traced, **call.start)
        self._state.accumulator.message_id = f"{LC_ID_PREFIX}-{run.run_id}"
        if model.rate_limiter is not None:
            # Polled: only the limiter knows when, and its own way to wait needs asyncio.
            while not await model.rate_limiter.aacquire(blocking=False):  # noqa: ASYNC110
                await anyio.sleep(getattr(model.rate_limiter, "check_every_n_seconds", 0.1))
        items, converter = answer_of_model(
            model, call, run, self._calls, self._state.accumulator, self._open_runs.generation_info
        )
        del call
        self._pump = Pump(
            items,
            converter,
            self._state,
            run,
            max_buffer_size=self._limit,
            stall=self._stall,
            scope=self._model_scope,
            late=self._late,
        )
        try:
            await self._generators.watch(self._pump.run(self._fail_attempt))
            if not (self._state.done or self._has_begun()):
                raise ValueError("No generation chunks were returned")
        except Exception as exc:
            if self._route is not None and self._route.may_go_on:
                # The next attempt begins when nothing of this one is left.
                await self._generators.aclose(exc)
            raise

    def _has_begun(self) -> bool:
        return self._state.flow.produced > 0

    def _fail_attempt(self, error: BaseException) -> None:
        if self._route is None or not (self._route.may_go_on and isinstance(error, Exception)):
            self._fail(error)

    async def _clean_up(self, foreign: BaseException | None) -> None:
        if self._state.accumulator.message is not None and not (
            self._open_runs.have_handlers()
            or self._generators.are_open()
            or self._calls.abandoned()
        ):
            return
        self._dispatch.unreturned.clear()  # interrupted together with the model
        leave_model = partial(self._leave_model, foreign)
        in_time = await self._run_cleanup(leave_model, self._open_runs.report_end, self._calls.join)
        if not (in_time or self._ended.is_set()):
            self._give_up()

    async def _leave_model(self, foreign: BaseException | None) -> None:
        """Close what the model left open, and wait for the threads in which it may still run."""
        try:
            with anyio.CancelScope(deadline=anyio.current_time() + limits.MODEL_SECONDS):
                try:
                    if self._pump is not None:
                        await self._pump.aclose()
                finally:
                    # Only generators that nobody else holds; the others may still be in use.
                    error = self._state.accumulator.error
                    await self._generators.aclose(error, self._late.error, foreign)
                    await self._calls.join()
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as exc:  # noqa: BLE001 - raised to whoever awaits the stream
            self._late.note(exc)
        finally:
            self._generators.release()
            self._left_model.set()

    @override
    def _time_limits(self) -> Sequence[TimeLimit]:
        return (
            (self._left_model, limits.MODEL_SECONDS, self._report_in_its_stead),
            (self._ended, limits.CLEANUP_SECONDS, self._give_up),
        )

    def _report_in_its_stead(self) -> None:
        """Notify the handlers of the end while `_main` still waits for the model."""
        assert self._cleanup_since is not None
        deadline = self._cleanup_since + limits.OWN_SECONDS

        async def report() -> None:
            with anyio.CancelScope(shield=True, deadline=deadline):
                await self._open_runs.report_end()

        # In a task of its own, because a handler that shields itself would block this one.
        spawn_surely(report, name="langchain_anyio.open_stream end")

    def _give_up(self) -> None:
        abandoned = [*self._dispatch.unreturned.values(), *self._calls.abandoned()]
        if not self._left_model.is_set():
            abandoned.insert(0, f"the model {self._name}")
        self._warn_of_abandoned(abandoned or ["a generator of the model"])
