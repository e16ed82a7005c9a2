"""Calling callback handlers as langchain-core does, on anyio."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any, final

import anyio
from anyio.lowlevel import checkpoint_if_cancelled
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import get_buffer_string

from langchain_anyio._backends.current import backend, task_id
from langchain_anyio._backends.tasks import spawn_in
from langchain_anyio._primitives.backpressure import parts

from .reentrancy import Part, is_within, own_parts
from .stall_timer import StallTimer
from .threads import ThreadCalls, handler_limiter

_logger = logging.getLogger(__name__)


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
        self._outer = own_parts()
        self.unreturned: dict[object, str] = {}
        """Names of async handler methods that were called and still run or were interrupted."""

    def enter_model(self) -> None:
        """Record that the current task runs the model."""
        parts.set((*self._outer, Part(self, task_id(), self._stall)))

    def check_waiter(self) -> None:
        """Check that the caller may wait for the run.

        Raises:
            RuntimeError: The caller is within the run, and so would wait for itself.
        """
        if is_within(self):
            raise RuntimeError(
                "a callback handler, or the model, waits for the run that waits for it; let a task "
                "of its own wait, or take stream.output_message"
            )

    def hold_timers(self) -> list[StallTimer]:
        """Hold the timers of this run and of the runs that wait for it.

        Returns:
            The timers, which the caller must resume.
        """
        outer = (part.timer for part in self._outer if not part.over)
        timers = [timer for timer in (self._stall, *outer) if timer is not None]
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
            if overrides(handler, event):
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
        part = Part(self, task_id(), self._stall)
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


def overrides(handler: BaseCallbackHandler, event: str) -> bool:
    """Return whether the handler acts on `event`; most handlers override few methods."""
    method = getattr(getattr(handler, event, None), "__func__", None)
    if method is None or method not in (
        getattr(BaseCallbackHandler, event, None),
        getattr(AsyncCallbackHandler, event, None),
    ):
        return True
    return event == "on_chat_model_start" and overrides(handler, "on_llm_start")


def _advice(error: Exception) -> str:
    """Return a hint to append if `error` is one that asyncio code raises on trio, else `""`."""
    if backend() == "trio" and (
        (isinstance(error, RuntimeError) and "event loop" in str(error))
        or (isinstance(error, TypeError) and "trio" in str(error))
    ):
        return "; it uses asyncio itself, which on trio needs langchain_anyio.enable_trio()"
    return ""
