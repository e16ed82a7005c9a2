"""One run of a chat model into a stream, in a background task that belongs to the stream."""

from __future__ import annotations

import math
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
)
from contextvars import copy_context
from functools import partial
from types import AsyncGeneratorType
from typing import Any, cast, final

import anyio
from anyio.lowlevel import checkpoint
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import LC_ID_PREFIX, AIMessage
from langchain_core.runnables import (
    RunnableSequence,
    ensure_config,
)
from langchain_core.runnables.config import (
    get_async_callback_manager_for_config,
    patch_config,
)
from langchain_core.utils.uuid import uuid7

from langchain_anyio._backends.async_generators import AsyncGenerators
from langchain_anyio._backends.cancellation import EXITS, is_cancellation, wait_uncancellable
from langchain_anyio._backends.current import backend, is_loop_ending
from langchain_anyio._backends.event_loops import Loop
from langchain_anyio._backends.leaks import warn_of_leak
from langchain_anyio._backends.tasks import spawn_background, spawn_in, spawn_surely, uninterrupted
from langchain_anyio._errors import StreamCancelledError, StreamStalledError
from langchain_anyio._langchain_core import (
    ModelCall,
    answer_of,
    end_response,
    error_response,
    needs_asyncio,
    prepare_call,
    set_config_context,
    source_of,
)
from langchain_anyio._primitives.checkpoints import STEPS_BETWEEN_YIELDS
from langchain_anyio._primitives.event import Event
from langchain_anyio._primitives.projection import raise_as_it_came
from langchain_anyio._protocol.chunk_converter import ChunkBridge, message_to_events
from langchain_anyio._providers.http_clients import for_current_loop
from langchain_anyio._stream_state import Run, StreamState

from .callbacks import Dispatcher
from .managers import AnyioChainRunManager, AnyioLLMRunManager
from .reentrancy import is_within
from .stall_timer import StallTimer
from .target import Target, resolve
from .threads import ThreadCalls, ThreadIterator, model_limiter

CLEANUP_SECONDS = 5.0
# The part of these seconds that the model has to return; the rest is for the end's callbacks.
MODEL_SECONDS = 3.0
# After these seconds a task that cleans up gives up by itself, before `_watch` abandons it.
OWN_SECONDS = 4.75


def call_of(target: Target, input: Any, kwargs: Mapping[str, Any]) -> ModelCall:
    merged = {**target.bound, **kwargs}
    merged.pop("version", None)  # a parameter of astream_events, which a binding may carry
    stop = merged.pop("stop", None)
    return prepare_call(cast("BaseChatModel", target.runnable), input, target.config, stop, merged)


@final
class ModelRun(Run):
    """One run of a model into a stream's state.

    It does not refer to the stream. One task (`_main`) notifies the handlers of the start, runs the
    model, cleans up, and notifies the handlers of the end. Closing the run cancels the part of this
    task that runs the model. From then on, or from when the model fails, a second task (`_watch`)
    makes sure that everything ends in time, whatever the model and the handlers do. A run that has
    its complete message has no time limit, unless it is closed.

    | state | meaning |
    |---|---|
    | `_loop is None` | not started |
    | `_cleanup_since is None` | no time limit |
    | `_left_model.is_set()` | the model has ended and its generators are closed |
    | `_ended.is_set()` | everything has ended |
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
        self._state = state
        self._target = target
        self._name = type(target.runnable).__name__
        self._input = input
        self._call = call
        self._kwargs = kwargs
        self._limit = max_buffer_size
        self._chunk_timeout = chunk_timeout
        self._stall: StallTimer | None = None
        self._loop: Loop | None = None
        self._closed_unstarted = False
        self._cleanup_since: float | None = None
        self._end_error: BaseException | None = None
        self._left_model = Event()
        self._ended = Event()
        self._end_scope: anyio.CancelScope | None = None
        self._generation_info: dict[str, Any] = {}
        self._llm_run: AnyioLLMRunManager | None = None
        self._chain_runs: tuple[AnyioChainRunManager, ...] = ()
        self._generators = AsyncGenerators()
        self._items: AsyncIterator[Any] | None = None
        self._end_traceback: Any = None
        self._reported: Event | None = None

    # Called by the stream and its users

    async def start(self) -> None:
        """Start the run, unless it has started or was closed before."""
        if self._loop is not None or self._closed_unstarted:
            return
        await uninterrupted(self._start)

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

    async def aclose(self) -> None:
        if self._loop is None:
            self._closed_unstarted = True
            self._state.fail(StreamCancelledError())
            return
        if not self._ended.is_set():
            if not self._loop.is_current():
                raise RuntimeError("the stream runs on another event loop, and is closed there")
            self.close()
            if is_within(self._dispatch):
                return  # the run ends after the caller has returned
            await wait_uncancellable(self._ended)
        if backend() == "asyncio":
            return  # the task itself has passed an exit on to the loop
        for error in (self._state.accumulator.error, self._end_error):
            if isinstance(error, EXITS):
                raise_as_it_came(error, error.__traceback__)

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
        if self._end_error is not None:
            raise_as_it_came(self._end_error, self._end_traceback)

    def close(self) -> None:
        """Begin to stop; call this on the run's event loop."""
        if self._cleanup_since is not None or self._ended.is_set():
            return
        self._state.fail(StreamCancelledError())
        self._limit_cleanup()
        if self._state.accumulator.message is None:
            self._model_scope.cancel()
        else:  # the handlers still have to be notified of the last event
            self._model_scope.deadline = anyio.current_time() + MODEL_SECONDS
        spawn_surely(self._watch, name="langchain_anyio.open_stream cleanup")

    def _limit_cleanup(self) -> None:
        """Start the time limit of the cleanup, which begins now."""
        self._cleanup_since = anyio.current_time()
        if self._end_scope is not None:
            self._end_scope.deadline = self._cleanup_since + OWN_SECONDS

    def dropped(self) -> bool:
        """Begin to stop, as nobody can read the stream any more; may be called from any thread."""
        if (
            self._loop is None
            or self._ended.is_set()
            or self._cleanup_since is not None
            or self._state.done
        ):
            return False
        return self._loop.call_soon(self.close)

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
            self._note_end_error(exc)
        if foreign is None and isinstance(self._end_error, EXITS):
            foreign = self._end_error
        if foreign is not None:
            try:
                raise foreign
            finally:
                del foreign

    def _fail(self, error: BaseException) -> None:
        """Raise to the consumers the error that ended the model, and limit the remaining time."""
        whole = self._state.accumulator.message is not None
        if whole and not is_cancellation(error):
            # An error after the complete message does not replace it, but is not lost either.
            self._note_end_error(error)
        self._state.fail(error)
        if isinstance(error, EXITS) and self._state.accumulator.error is not error:
            self._note_end_error(error)  # the run was closed before
        if not whole or is_cancellation(error) or isinstance(error, EXITS):
            self._begin_cleanup()

    def _begin_cleanup(self) -> None:
        if self._cleanup_since is None:
            self._limit_cleanup()
            spawn_surely(self._watch, name="langchain_anyio.open_stream cleanup")

    def _over(self) -> None:
        """Record that the task has ended, even if it was cancelled before it began."""
        self._state.fail(StreamCancelledError())
        self._left_model.set()
        self._ended.set()

    def _note_end_error(self, error: BaseException) -> None:
        """Keep an error that came after the model's outcome was settled; only the first counts."""
        if self._end_error is None:
            self._end_error = error
            self._end_traceback = error.__traceback__

    async def _run_model(self) -> None:
        model, call = await self._prepare()
        run = self._llm_run = AnyioLLMRunManager(
            self._dispatch, call.callbacks, call.run_id or uuid7()
        )
        if run.handlers:
            await run.start(call.serialized, call.traced, **call.start)
        self._state.accumulator.message_id = f"{LC_ID_PREFIX}-{run.run_id}"
        if model.rate_limiter is not None:
            # Polled: only the limiter knows when, and its own way to wait needs asyncio.
            while not await model.rate_limiter.aacquire(blocking=False):  # noqa: ASYNC110
                await anyio.sleep(getattr(model.rate_limiter, "check_every_n_seconds", 0.1))
        producing = self._produce(model, call, run)
        del call
        await self._generators.watch(producing)
        if not self._state.done:
            if not self._state.flow.produced:
                raise ValueError("No generation chunks were returned")
            # Native event producers may leave the last event out.
            self._state.dispatch({"event": "message-finish"})

    async def _prepare(self) -> tuple[BaseChatModel, ModelCall]:
        """Return the model and the call to make, and drop the run's own references to them.

        Otherwise they would be kept in memory until the answer is complete.
        """
        target, call = self._target, self._call
        if call is None:
            target, input = await self._run_steps(target, self._input)
            call = call_of(target, input, self._kwargs)
        del self._target, self._call, self._input, self._kwargs
        model = cast("BaseChatModel", target.runnable)
        self._name = type(model).__name__
        return model, call

    async def _run_steps(self, target: Target, input: Any) -> tuple[Target, Any]:
        """Run the steps before the model in a sequence, as `RunnableSequence.ainvoke` does."""
        while isinstance(sequence := target.runnable, RunnableSequence):
            if backend() == "trio" and needs_asyncio():
                raise RuntimeError(
                    f"the step {sequence.first.get_name()} before the model is run by langchain-core, "
                    "which on trio needs langchain_anyio.enable_trio()"
                )
            config = ensure_config(target.config)
            manager = get_async_callback_manager_for_config(config)
            chain = AnyioChainRunManager(
                self._dispatch, manager, config.pop("run_id", None) or uuid7()
            )
            self._chain_runs = (*self._chain_runs, chain)
            await chain.start(input, name=config.get("run_name") or sequence.get_name())
            kwargs = target.bound
            for number, step in enumerate(sequence.steps, 1):
                config = patch_config(config, callbacks=chain.get_child(f"seq:step:{number}"))
                set_config_context(config)  # the context of this task is the run's own
                if number == len(sequence.steps):
                    target = resolve(step, config)
                    break
                input = await step.ainvoke(input, config, **kwargs)
                kwargs = {}
        return target, input

    def _produce(
        self, model: BaseChatModel, call: ModelCall, run: AnyioLLMRunManager
    ) -> Coroutine[Any, Any, None]:
        """Return a coroutine that calls the model and dispatches its answer as events."""
        source = source_of(for_current_loop(model), call.kwargs)
        ask = partial(
            source.method,
            call.messages,
            stop=call.stop,
            run_manager=run.get_sync() if source.blocking else run,
            **call.kwargs,
        )
        label = f"{type(model).__name__}.{source.name}"
        message_id = self._state.accumulator.message_id
        if source.gives == "answer":

            async def answer() -> AsyncGenerator[AIMessage, None]:
                if source.blocking:
                    result = await self._calls.run(ask, label=label, limiter=model_limiter())
                else:
                    result = await ask()
                yield answer_of(result)

            return self._pump(run, answer(), _Replay(message_id))
        items: AsyncIterator[Any] = (
            ThreadIterator(ask, self._calls, label=label) if source.blocking else ask()
        )
        self._items = items
        if source.gives == "events":
            return self._pump(run, items, _Events())
        bridge = ChunkBridge(message_id, self._generation_info, self._state.accumulator.text_of)
        return self._pump(run, items, bridge)

    async def _pump(
        self,
        run: AnyioLLMRunManager,
        items: AsyncIterator[Any],
        shown: ChunkBridge | _Events,
    ) -> None:
        """Dispatch the model's items as events, and hold the model back if no consumer keeps up.

        Args:
            run: The run manager, whose handlers are notified of each event.
            items: The items that the model yields.
            shown: Converts each item to events, and gives the final events.
        """
        state, flow, limit, stall = self._state, self._state.flow, self._limit, self._stall
        handlers = run.handlers
        iterator = items.__aiter__()
        next_item: Callable[[], Awaitable[Any]] = iterator.__anext__
        step = next_item
        steps = 0
        over = False
        failure: BaseException | None = None
        # A generator may be suspended within a cancel scope or task group of its own. These are
        # nested in our scope, so the generator must be closed within it. Until it is closed, our
        # scope shields it from the cancellation that ended the run.
        scope = anyio.CancelScope() if stall is None else stall.scope
        stalled = False
        try:
            with scope:
                while not over:
                    try:
                        # A native producer may go on after the message's end, where nobody reads.
                        if not (flow.has_room(limit) or state.done or step is not next_item):
                            await flow.wait_for_room(limit)
                        if stall is not None and step is next_item:
                            stall.start()
                        try:
                            events = shown.feed(await step())
                        except StopAsyncIteration:
                            events = shown.finish()
                            over = True
                        if stall is not None:
                            stall.stop()
                        if step is not next_item:
                            step, failure = next_item, None
                            scope.deadline = math.inf
                        for event in events:
                            if not (flow.has_room(limit) or state.done):
                                await flow.wait_for_room(limit)
                            state.dispatch(event)
                            if handlers:
                                await run.on_stream_event(event)
                        steps += 1
                        if not steps % STEPS_BETWEEN_YIELDS:
                            await checkpoint()
                    except BaseException as exc:
                        stalled = failure is None and scope.cancel_called
                        step, failure = next_item, exc
                        if stall is not None:
                            stall.stop()
                        scope.deadline = anyio.current_time() + MODEL_SECONDS
                        if self._is_for_generator(exc, iterator, scope):
                            # A scope of its own was cancelled while it was suspended.
                            step = partial(cast("AsyncGenerator[Any, Any]", iterator).athrow, exc)
                            continue
                        scope.shield = True
                        if not is_cancellation(exc):
                            self._fail(exc)
                        await self._close_items(iterator)
                        raise
            if stall is not None and stalled and scope.cancelled_caught:
                raise StreamStalledError(stall.seconds)
            if failure is not None:  # closing took too long
                raise failure
        finally:
            del failure

    def _is_for_generator(
        self, error: BaseException, iterator: object, scope: anyio.CancelScope
    ) -> bool:
        """Return whether `error` is a cancellation by a scope that the model's generator holds."""
        return (
            isinstance(error, anyio.get_cancelled_exc_class())
            and isinstance(iterator, AsyncGeneratorType)
            and iterator.ag_frame is not None
            and not (self._model_scope.cancel_called or scope.cancel_called)
            and not is_loop_ending()
        )

    async def _close_items(self, iterator: object) -> None:
        """Close the source of the model's items, only once even if closing it fails."""
        items, self._items = self._items, None
        for source in (iterator, items) if iterator is not items else (items,):
            # An iterator that is not an async generator may lack it.
            aclose = getattr(source, "aclose", None)
            if aclose is not None:
                try:
                    await aclose()
                except anyio.get_cancelled_exc_class():
                    raise
                except BaseException as exc:  # noqa: BLE001 - raised to whoever awaits the stream
                    self._note_end_error(exc)

    # The end

    async def _clean_up(self, foreign: BaseException | None) -> None:
        if self._state.accumulator.message is not None and not (
            self._tells_anyone() or self._generators.are_open() or self._calls.left()
        ):
            return
        self._dispatch.unreturned.clear()  # interrupted together with the model
        self._end_scope = anyio.CancelScope(shield=True)
        if self._cleanup_since is not None:
            self._end_scope.deadline = self._cleanup_since + OWN_SECONDS
        notice = None
        try:
            async with anyio.create_task_group() as tasks:
                notice = self._notice_cancellation(tasks.cancel_scope)
                spawn_in(tasks, notice, name="langchain_anyio.open_stream cancellation")
                with self._end_scope:
                    cancelled: BaseException | None = None
                    leave_model = partial(self._leave_model, foreign)
                    for step in (leave_model, self._report_end, self._calls.join):
                        # If one is cut short, natively or by the limit, the next one still begins.
                        try:
                            await step()
                        except anyio.get_cancelled_exc_class() as exc:
                            cancelled = exc
                    if cancelled is not None:
                        try:
                            raise cancelled
                        finally:
                            del cancelled
                tasks.cancel_scope.cancel()
        finally:
            if notice is not None:
                notice.close()
        if self._end_scope.cancelled_caught and not self._ended.is_set():
            self._warn_of_left()

    async def _leave_model(self, foreign: BaseException | None) -> None:
        """Close what the model left open, and wait for the threads in which it may still run."""
        try:
            with anyio.CancelScope(deadline=anyio.current_time() + MODEL_SECONDS):
                try:
                    await self._close_items(self._items)
                finally:
                    # Only generators that nobody else holds; the others may still be in use.
                    error = self._state.accumulator.error
                    await self._generators.aclose(error, self._end_error, foreign)
                    await self._calls.join()
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as exc:  # noqa: BLE001 - raised to whoever awaits the stream
            self._note_end_error(exc)
        finally:
            self._generators.release()
            self._left_model.set()

    async def _notice_cancellation(self, own: anyio.CancelScope) -> None:
        """Start the time limit of a shielded cleanup when the scope around it is cancelled.

        That scope is cancelled when the event loop ends.
        """
        try:
            await anyio.sleep_forever()
        finally:
            if self._cleanup_since is None and not own.cancel_called:
                self._limit_cleanup()

    def _tells_anyone(self) -> bool:
        return any(run.handlers for run in (self._llm_run, *self._chain_runs) if run is not None)

    async def _report_end(self) -> None:
        """Notify the handlers of the end, or wait until another task that does so has finished."""
        if self._reported is not None:
            await self._reported.wait()
            return
        self._reported = Event()
        cancelled: BaseException | None = None
        try:
            for run in (self._llm_run, *reversed(self._chain_runs)):
                if run is None or not run.handlers:
                    continue
                try:
                    await self._report_end_of(run)
                except anyio.get_cancelled_exc_class() as exc:
                    cancelled = exc  # the outer runs still have to be notified
                except BaseException as exc:  # noqa: BLE001 - raised to whoever awaits the stream
                    self._note_end_error(exc)
            if cancelled is not None:
                raise cancelled
        finally:
            del cancelled
            self._reported.set()

    async def _report_end_of(self, run: AnyioLLMRunManager | AnyioChainRunManager) -> None:
        message = self._state.accumulator.message
        error = self._end_error or self._state.accumulator.error
        if error is None:
            assert message is not None
            if isinstance(run, AnyioChainRunManager):
                await run.on_chain_end(message)
            else:
                await run.on_llm_end(end_response(message, self._generation_info))
        elif isinstance(run, AnyioChainRunManager):
            await run.on_chain_error(error)
        else:
            await run.on_llm_error(error, response=error_response(error, self._generation_info))

    async def _watch(self) -> None:
        """Make sure that a run being closed ends in time, even if all tasks are cancelled."""
        assert self._cleanup_since is not None
        cancelled: BaseException | None = None
        try:
            await wait_uncancellable(self._left_model, self._cleanup_since + MODEL_SECONDS)
        except anyio.get_cancelled_exc_class() as exc:
            cancelled = exc
        if not self._left_model.is_set():
            # In a task of its own, because a handler that shields itself would block this one.
            spawn_surely(self._report_in_its_stead, name="langchain_anyio.open_stream end")
        try:
            await wait_uncancellable(self._ended, self._cleanup_since + CLEANUP_SECONDS)
        except anyio.get_cancelled_exc_class() as exc:
            cancelled = exc
        if not self._ended.is_set():
            self._ended.set()
            self._warn_of_left()
        if cancelled is not None:
            try:
                raise cancelled
            finally:
                del cancelled

    async def _report_in_its_stead(self) -> None:
        """Notify the handlers of the end while `_main` still waits for the model."""
        assert self._cleanup_since is not None
        with anyio.CancelScope(shield=True, deadline=self._cleanup_since + OWN_SECONDS):
            await self._report_end()

    def _warn_of_left(self) -> None:
        left = [*self._dispatch.unreturned.values(), *self._calls.left()]
        if not self._left_model.is_set():
            left.insert(0, f"the model {self._name}")
        warn_of_leak(
            f"the cleanup of a stream was given up after {CLEANUP_SECONDS:g} seconds; left behind: "
            + (", ".join(left) or "a generator of the model"),
            self,
        )


class _Events:
    """Converter for items that are events already."""

    __slots__ = ()

    def feed(self, item: Any) -> Iterable[Mapping[str, Any]]:
        return (item,)

    def finish(self) -> Iterable[Mapping[str, Any]]:
        return ()


@final
class _Replay(_Events):
    """Converter for items that are whole messages.

    It adds `additional_kwargs`, which langchain-core leaves out of the events of a message.
    """

    __slots__ = ("_message_id",)

    def __init__(self, message_id: str | None) -> None:
        self._message_id = message_id

    def feed(self, item: AIMessage) -> Iterable[Mapping[str, Any]]:
        for event in message_to_events(item, message_id=self._message_id):
            if event["event"] == "message-finish" and item.additional_kwargs:
                yield {**event, "additional_kwargs": dict(item.additional_kwargs)}
            else:
                yield event
