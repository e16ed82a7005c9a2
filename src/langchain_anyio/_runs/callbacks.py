"""Calling callback handlers as langchain-core does, on anyio."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any, cast, final

import anyio
from anyio.lowlevel import checkpoint_if_cancelled
from langchain_core.callbacks import (
    AsyncCallbackHandler,
    AsyncCallbackManager,
    AsyncCallbackManagerForChainRun,
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    BaseCallbackManager,
    BaseRunManager,
    CallbackManagerForLLMRun,
)
from langchain_core.messages import BaseMessage, get_buffer_string
from langchain_core.outputs import ChatGenerationChunk, GenerationChunk, LLMResult
from typing_extensions import override

from langchain_anyio._backends.current import backend, task_id
from langchain_anyio._backends.tasks import spawn_in
from langchain_anyio._primitives.backpressure import parts

from .stall_timer import StallTimer
from .threads import ThreadCalls, handler_limiter

_logger = logging.getLogger(__name__)


@final
class Part:
    """One part of a run that is being executed: its model, or one handler call.

    Attributes:
        run: The run's dispatcher.
        task: Id of the task that executes it; `None` for a worker thread.
        over: Whether the call has returned. Tasks that it started may still run.
    """

    __slots__ = ("over", "run", "task")

    def __init__(self, run: Dispatcher, task: int | None) -> None:
        self.run: Dispatcher = run
        self.task: int | None = task
        self.over: bool = False


def _own_parts() -> tuple[Part, ...]:
    """Return the parts that the calling task executes, outermost first.

    There can be several, because a handler or a model may open a stream itself. A task that one of
    them has started executes none.
    """
    own = cast("tuple[Part, ...]", parts.get())
    return own if own and not own[-1].over and own[-1].task in (None, task_id()) else ()


@final
class Dispatcher:
    """Calls the handlers of one run: sync ones in worker threads, async ones in tasks.

    As in langchain-core, handlers with `run_inline` are called first, one after another in the
    calling task; the others run concurrently. A handler's error is logged. If the handler sets
    `raise_error`, the error is also raised, but only after all handlers have finished.

    Ports `langchain_core.callbacks.manager.ahandle_event`.
    """

    __slots__ = ("_calls", "_outer", "_stall", "unreturned")

    def __init__(self, calls: ThreadCalls, stall: StallTimer | None = None) -> None:
        self._calls = calls
        self._stall = stall
        self._outer = _own_parts()
        self.unreturned: dict[object, str] = {}
        """Names of async handler methods that were called and still run or were interrupted."""

    def enter_model(self) -> None:
        """Record that the current task runs the model."""
        parts.set((*self._outer, Part(self, task_id())))

    def is_within(self) -> bool:
        """Return whether the run waits for the caller.

        The caller is then its model, one of its handlers, or a part of a run opened within these.
        """
        for part in reversed(_own_parts()):
            if part.over:
                break  # whoever opened the inner run no longer waits for it
            if part.run is self:
                return True
        return False

    def check_waiter(self) -> None:
        """Check that the caller may wait for the run.

        Raises:
            RuntimeError: The caller is within the run, and so would wait for itself.
        """
        if self.is_within():
            raise RuntimeError(
                "a callback handler, or the model, waits for the run that waits for it; let a task of its "
                "own wait, or take stream.output_message"
            )

    def hold_timers(self) -> list[StallTimer]:
        """Hold the timers of this run and of the runs that wait for it.

        Returns:
            The timers, which the caller must resume.
        """
        runs = (self, *(part.run for part in self._outer if not part.over))
        timers = [run._stall for run in runs if run._stall is not None]
        for timer in timers:
            timer.hold()
        return timers

    async def __call__(
        self,
        handlers: Sequence[BaseCallbackHandler],
        event: str,
        ignored_if: str | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        reached: list[BaseCallbackHandler] | None = None,
    ) -> None:
        """Call the method named `event` of each handler.

        Args:
            handlers: The handlers, in order.
            event: The name of the method.
            ignored_if: Name of the handler attribute that, if true, leaves the handler out.
            args: Positional arguments of the method.
            kwargs: Keyword arguments of the method.
            reached: List to which each handler is appended when its turn comes, even if there is
                nothing to call.
        """
        reached = [] if reached is None else reached
        concerned = []
        for handler in handlers:
            if _overrides(handler, event):
                concerned.append(handler)
            else:
                reached.append(handler)
        if not concerned:
            return
        timers = self.hold_timers()
        try:
            await self._call_all(concerned, event, ignored_if, args, kwargs, reached)
        finally:
            for timer in timers:
                timer.resume()

    async def _call_all(
        self,
        handlers: Sequence[BaseCallbackHandler],
        event: str,
        ignored_if: str | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        reached: list[BaseCallbackHandler],
    ) -> None:
        errors: list[BaseException] = []

        async def call(handler: BaseCallbackHandler) -> None:
            try:
                await self._call(handler, event, ignored_if, args, kwargs, reached)
            except anyio.get_cancelled_exc_class() as exc:
                if handler.run_inline:
                    raise
                # A cancellation that is not a scope's is the handler's own; the others continue.
                await checkpoint_if_cancelled()
                errors.append(exc)
            except BaseException as exc:  # noqa: BLE001 - raised when all handlers have run
                errors.append(exc)

        for handler in handlers:
            if handler.run_inline:
                await call(handler)
        calls = [(handler, call(handler)) for handler in handlers if not handler.run_inline]
        if calls:
            try:
                async with anyio.create_task_group() as tasks:
                    for handler, coroutine in calls:
                        spawn_in(tasks, coroutine, name=f"{type(handler).__name__}.{event}")
            finally:
                for _, coroutine in calls:
                    coroutine.close()
        if errors:
            try:
                raise errors[0]
            finally:
                errors.clear()

    async def _call(
        self,
        handler: BaseCallbackHandler,
        event: str,
        ignored_if: str | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        reached: list[BaseCallbackHandler],
    ) -> None:
        name = f"{type(handler).__name__}.{event}"
        part = Part(self, task_id())
        outside = parts.set((*self._outer, part))
        try:
            if ignored_if is not None and getattr(handler, ignored_if):
                reached.append(handler)
                return
            method = getattr(handler, event)
            if inspect.iscoroutinefunction(method):
                reached.append(handler)
                call_ = object()
                self.unreturned[call_] = name
                try:
                    await method(*args, **kwargs)
                except Exception:
                    self.unreturned.pop(call_, None)
                    raise
                self.unreturned.pop(call_, None)
            elif handler.run_inline:
                reached.append(handler)
                method(*args, **kwargs)
            else:
                part.task = None

                def call() -> None:
                    reached.append(handler)
                    method(*args, **kwargs)

                await self._calls.run(call, label=name, limiter=handler_limiter())
        except NotImplementedError as exc:
            if event == "on_chat_model_start":
                serialized, messages, *others = args
                prompts = [get_buffer_string(batch) for batch in messages]
                await self._call(
                    handler,
                    "on_llm_start",
                    "ignore_llm",
                    (serialized, prompts, *others),
                    kwargs,
                    [],
                )
            else:
                _logger.warning("NotImplementedError in %s callback: %r", name, exc)
        except Exception as exc:
            _logger.warning("Error in %s callback: %r%s", name, exc, _advice(exc))
            if handler.raise_error:
                raise
        finally:
            part.over = True
            parts.reset(outside)


def _overrides(handler: BaseCallbackHandler, event: str) -> bool:
    """Return whether the handler acts on `event`; most handlers override few methods."""
    method = getattr(getattr(handler, event, None), "__func__", None)
    if method is None or method not in (
        getattr(BaseCallbackHandler, event, None),
        getattr(AsyncCallbackHandler, event, None),
    ):
        return True
    return event == "on_chat_model_start" and _overrides(handler, "on_llm_start")


def _advice(error: Exception) -> str:
    """Return a hint to append if `error` is one that asyncio code raises on trio, else `""`."""
    if backend() == "trio" and (
        (isinstance(error, RuntimeError) and "event loop" in str(error))
        or (isinstance(error, TypeError) and "trio" in str(error))
    ):
        return "; it uses asyncio itself, which on trio needs langchain_anyio.enable_trio()"
    return ""


class AnyioLLMRunManager(AsyncCallbackManagerForLLMRun):
    """The run manager passed to a model; it calls the handlers through a `Dispatcher`.

    Ports `langchain_core.callbacks.AsyncCallbackManagerForLLMRun`, whose methods need asyncio.
    """

    def __init__(self, dispatcher: Dispatcher, manager: AsyncCallbackManager, run_id: Any) -> None:
        super().__init__(run_id=run_id, **_inherited(manager))
        self._dispatch = dispatcher
        # Handlers that were notified of the start, and so must be notified of the end.
        self._started: list[BaseCallbackHandler] = []
        self._sync: CallbackManagerForLLMRun | None = None

    async def start(
        self, serialized: dict[str, Any], messages: list[BaseMessage], **kwargs: Any
    ) -> None:
        """Notify the handlers of the start, as `AsyncCallbackManager.on_chat_model_start` does."""
        inline = [handler for handler in self.handlers if handler.run_inline]
        others = [handler for handler in self.handlers if not handler.run_inline]
        for handlers in (*([handler] for handler in inline), others):
            await self._dispatch(
                handlers,
                "on_chat_model_start",
                "ignore_chat_model",
                (serialized, [messages]),
                {**_run_of(self), "metadata": self.metadata, **kwargs},
                self._started,
            )

    @override
    def get_sync(self) -> CallbackManagerForLLMRun:
        """Return the manager for a model in a worker thread; it is silent after the end."""
        if self._sync is None:
            self._sync = _SyncLLMRun(self._dispatch, super().get_sync())
        return self._sync

    @override
    async def on_llm_new_token(
        self,
        token: str | list[str | dict[str, Any]],
        *,
        chunk: GenerationChunk | ChatGenerationChunk | None = None,
        **kwargs: Any,
    ) -> None:
        await self._tell(
            self.handlers, "on_llm_new_token", "ignore_llm", token, chunk=chunk, **kwargs
        )

    @override
    async def on_stream_event(self, event: Any, **kwargs: Any) -> None:
        await self._tell(self.handlers, "on_stream_event", "ignore_llm", event, **kwargs)

    @override
    async def on_text(self, text: str, **kwargs: Any) -> None:
        await self._tell(self.handlers, "on_text", None, text, **kwargs)

    @override
    async def on_retry(self, retry_state: Any, **kwargs: Any) -> None:
        await self._tell(self.handlers, "on_retry", "ignore_retry", retry_state, **kwargs)

    @override
    async def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        await self._tell_end("on_llm_end", response, **kwargs)

    @override
    async def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        await self._tell_end("on_llm_error", error, **kwargs)

    async def _tell_end(self, event: str, *args: Any, **kwargs: Any) -> None:
        if self._sync is not None:
            self._sync.handlers = []
        await _tell_end(self, self._dispatch, event, "ignore_llm", args, kwargs)

    async def _tell(
        self,
        handlers: Sequence[BaseCallbackHandler],
        event: str,
        ignored_if: str | None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if handlers:
            await self._dispatch(handlers, event, ignored_if, args, {**_run_of(self), **kwargs})


class _SyncLLMRun(CallbackManagerForLLMRun):
    """The run manager of a model in a worker thread; it calls the handlers in that thread.

    Ports `langchain_core.callbacks.CallbackManagerForLLMRun`. Here too, the time that
    handlers take does not count as the model's.
    """

    def __init__(self, dispatcher: Dispatcher, manager: CallbackManagerForLLMRun) -> None:
        super().__init__(run_id=manager.run_id, **_inherited(manager))
        self.handlers = list(manager.handlers)
        self._dispatch = dispatcher

    @override
    def on_llm_new_token(self, *args: Any, **kwargs: Any) -> None:
        self._tell(super().on_llm_new_token, *args, **kwargs)

    def on_stream_event(self, *args: Any, **kwargs: Any) -> None:
        self._tell(super().on_stream_event, *args, **kwargs)

    @override
    def on_text(self, *args: Any, **kwargs: Any) -> None:
        self._tell(super().on_text, *args, **kwargs)

    @override
    def on_retry(self, *args: Any, **kwargs: Any) -> None:
        self._tell(super().on_retry, *args, **kwargs)

    def _tell(self, tell: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        timers = self._dispatch.hold_timers() if self.handlers else ()
        try:
            tell(*args, **kwargs)
        finally:
            for timer in timers:
                timer.resume()


class AnyioChainRunManager(AsyncCallbackManagerForChainRun):
    """The run manager of a sequence that ends in a model.

    Ports `langchain_core.callbacks.AsyncCallbackManagerForChainRun`, whose methods need asyncio.
    """

    def __init__(self, dispatcher: Dispatcher, manager: AsyncCallbackManager, run_id: Any) -> None:
        super().__init__(run_id=run_id, **_inherited(manager))
        self._dispatch = dispatcher
        self._started: list[BaseCallbackHandler] = []

    async def start(self, inputs: Any, *, name: str | None) -> None:
        """Notify the handlers of the start, as `AsyncCallbackManager.on_chain_start` does."""
        await self._dispatch(
            self.handlers,
            "on_chain_start",
            "ignore_chain",
            (None, inputs),
            {**_run_of(self), "metadata": self.metadata, "name": name},
            self._started,
        )

    @override
    async def on_chain_end(self, outputs: Any, **kwargs: Any) -> None:
        await self._tell_end("on_chain_end", outputs, **kwargs)

    @override
    async def on_chain_error(self, error: BaseException, **kwargs: Any) -> None:
        await self._tell_end("on_chain_error", error, **kwargs)

    async def _tell_end(self, event: str, *args: Any, **kwargs: Any) -> None:
        await _tell_end(self, self._dispatch, event, "ignore_chain", args, kwargs)


async def _tell_end(
    run: AnyioLLMRunManager | AnyioChainRunManager,
    dispatch: Dispatcher,
    event: str,
    ignored_if: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    """Notify each handler that was notified of the start, once.

    Cancellation: handlers whose turn had not come are still notified before the cancellation
    continues. Callers shield this function, so only a native cancellation or the time limit of the
    cleanup reaches it.
    """
    cancelled: BaseException | None = None
    for _ in range(2):
        untold, run._started = run._started, []
        if not untold:
            break
        reached: list[BaseCallbackHandler] = []
        try:
            await dispatch(untold, event, ignored_if, args, {**_run_of(run), **kwargs}, reached)
            break
        except anyio.get_cancelled_exc_class() as exc:
            cancelled = exc
            run._started = [h for h in untold if not any(h is told for told in reached)]
    if cancelled is not None:
        try:
            raise cancelled
        finally:
            del cancelled


def _run_of(manager: BaseRunManager) -> dict[str, Any]:
    """Return the keyword arguments that tell a handler which run an event belongs to."""
    return {
        "run_id": manager.run_id,
        "parent_run_id": manager.parent_run_id,
        "tags": manager.tags,
    }


def _inherited(manager: BaseCallbackManager | BaseRunManager) -> dict[str, Any]:
    return {
        "handlers": manager.handlers,
        "inheritable_handlers": manager.inheritable_handlers,
        "parent_run_id": manager.parent_run_id,
        "tags": manager.tags,
        "inheritable_tags": manager.inheritable_tags,
        "metadata": manager.metadata,
        "inheritable_metadata": manager.inheritable_metadata,
    }
