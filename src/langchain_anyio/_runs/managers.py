"""Run managers that notify callback handlers through a `Dispatcher`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForChainRun,
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    BaseCallbackManager,
    BaseRunManager,
    CallbackManagerForLLMRun,
)
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, GenerationChunk, LLMResult
from typing_extensions import override

from langchain_anyio._backends.cancellation import HeldCancellation
from langchain_anyio._langchain_core import end_response, error_response
from langchain_anyio._primitives.event import Event
from langchain_anyio._stream_state import StreamState

from .callbacks import Dispatcher
from .late_error import LateError


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


@final
class OpenRuns:
    """The runs that handlers were notified of: of the model, and of the sequences around it.

    Attributes:
        generation_info: Metadata of the model's answer that is meant for tracing only.
    """

    __slots__ = ("_late", "_reported", "_runs", "_state", "generation_info")

    def __init__(self, state: StreamState, late: LateError) -> None:
        self._state = state
        self._late = late
        self._runs: list[AnyioLLMRunManager | AnyioChainRunManager] = []
        self._reported: Event | None = None
        self.generation_info: dict[str, Any] = {}

    def add(self, run: AnyioLLMRunManager | AnyioChainRunManager) -> None:
        """Add a run that is part of the last one."""
        self._runs.append(run)

    def __len__(self) -> int:
        return len(self._runs)

    async def fail_inner(self, depth: int, error: BaseException) -> None:
        """Notify the handlers that all but the outermost `depth` runs have failed.

        Those of which the handlers could not be notified, as it was cancelled, remain open.
        """
        while len(self._runs) > depth:
            run = self._runs[-1]
            if run.handlers:
                try:
                    await self._report_error_of(run, error)
                except Exception as exc:  # noqa: BLE001 - raised to whoever awaits the stream
                    self._late.note(exc)
            self._runs.pop()
        self.generation_info.clear()

    def have_handlers(self) -> bool:
        """Return whether any handler is notified of the end."""
        return any(run.handlers for run in self._runs)

    async def report_end(self) -> None:
        """Notify the handlers of the end, or wait until another task that does so has finished."""
        if self._reported is not None:
            await self._reported.wait()
            return
        self._reported = Event()
        cancellation = HeldCancellation()  # the outer runs still have to be notified
        try:
            for run in reversed(self._runs):
                if run.handlers:
                    try:
                        with cancellation:
                            await self._report_end_of(run)
                    except BaseException as exc:  # noqa: BLE001 - raised to awaiters
                        self._late.note(exc)
            cancellation.release()
        finally:
            self._reported.set()

    async def _report_end_of(self, run: AnyioLLMRunManager | AnyioChainRunManager) -> None:
        message = self._state.accumulator.message
        error = self._late.error or self._state.accumulator.error
        if error is None:
            assert message is not None
            if isinstance(run, AnyioChainRunManager):
                await run.on_chain_end(message)
            else:
                await run.on_llm_end(end_response(message, self.generation_info))
        else:
            await self._report_error_of(run, error)

    async def _report_error_of(
        self, run: AnyioLLMRunManager | AnyioChainRunManager, error: BaseException
    ) -> None:
        if isinstance(run, AnyioChainRunManager):
            await run.on_chain_error(error)
        else:
            await run.on_llm_error(error, response=error_response(error, self.generation_info))


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
    cancellation = HeldCancellation()
    for _ in range(2):
        untold, run._started = run._started, []
        reached: list[BaseCallbackHandler] = []
        with cancellation:
            await dispatch(untold, event, ignored_if, args, {**_run_of(run), **kwargs}, reached)
            break
        run._started = [h for h in untold if not any(h is told for told in reached)]
    cancellation.release()


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
