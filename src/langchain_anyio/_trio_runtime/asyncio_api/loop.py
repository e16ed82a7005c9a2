"""The event loop interface that langchain-core uses, of a trio run."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import sys
import threading
import warnings
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from functools import partial
from sys import _getframe
from typing import Any, TypeVar, cast, final

import anyio
import anyio.to_thread
import sniffio
import trio

from langchain_anyio._backends import limits
from langchain_anyio._backends.cancellation import is_cancellation
from langchain_anyio._backends.event_loops import Loop
from langchain_anyio._runs.threads import handler_limiter, model_limiter
from langchain_anyio._trio_runtime.running_backend import on_trio

from .awaited_at_once import awaited_at_once
from .futures import Future, Task
from .missing_names import missing_of_loop

T = TypeVar("T")

_logger = logging.getLogger(__name__)

# Before Python 3.11, these differ from `asyncio.TimeoutError`, which asyncio raises instead.
_TIMEOUTS_OF_THREADS: tuple[type[Exception], ...] = (
    (concurrent.futures.TimeoutError,) if sys.version_info < (3, 11) else ()
)

_loops: trio.lowlevel.RunVar[TrioLoop] = trio.lowlevel.RunVar("langchain_anyio_loop")


def running_loop() -> TrioLoop:
    """Return the loop of the current trio run: the same object each time."""
    try:
        return _loops.get()
    except LookupError:
        loop = TrioLoop(model_limiter)
        _loops.set(loop)
        return loop


def running_loop_of_handlers() -> TrioLoop:
    """Return the loop of the current trio run with the worker threads for handlers.

    Handlers have threads of their own, because models hold theirs while they wait for handlers.
    """
    return running_loop()._of_handlers


@final
class TrioLoop:
    """A trio run, with the methods of `asyncio.AbstractEventLoop` that langchain-core uses.

    The methods are for the run's own thread, except `call_soon_threadsafe`, `is_running` and
    `is_closed`.
    """

    def __init__(self, limiter: Callable[[], anyio.CapacityLimiter]) -> None:
        self._loop = Loop()
        self._limiter = _Limiter(limiter())
        self._closed = False
        # Callbacks scheduled by other threads, and by asyncio's loops in this one.
        self._to_call: deque[Handle] = deque()
        self._of_handlers = self
        if limiter is model_limiter:
            self._of_handlers = TrioLoop(handler_limiter)
            self._of_handlers._to_call = self._to_call

    def create_future(self) -> Future[Any]:
        return Future()

    def create_task(
        self, coro: Awaitable[T], *, name: str | None = None, context: Context | None = None
    ) -> Task[T]:
        return Task(coro, name=name, context=context)

    def run_in_executor(
        self,
        executor: concurrent.futures.Executor | None,
        func: Callable[..., T],
        *args: Any,
    ) -> Awaitable[T]:
        """Call `func` in a thread of the executor, or in a worker thread of this package.

        When the awaiting task is cancelled, it waits for the thread, for 5 seconds at most; then
        the thread is abandoned, and a `ResourceWarning` names the function. A call that has not
        begun does not begin. If the result is not awaited at once, it is a task.
        """
        call = self._run_in_executor(executor, func, *args)
        if awaited_at_once(_getframe(1)):
            return call
        return Task(call, name=_name(func))

    async def _run_in_executor(
        self,
        executor: concurrent.futures.Executor | None,
        func: Callable[..., T],
        *args: Any,
    ) -> T:
        _hide_trio_from(func)
        if executor is not None:
            return await self._in_executor(executor, func, *args)
        call = _Call(func, args, self._loop)
        try:
            result = await anyio.to_thread.run_sync(
                call, abandon_on_cancel=True, limiter=cast("Any", self._limiter)
            )
        except trio.Cancelled:
            if not await call.has_returned():
                _warn_of_abandoned(_name(func))
            raise
        except _TIMEOUTS_OF_THREADS as exc:
            raise asyncio.TimeoutError(*exc.args) from exc
        return cast("T", result[0])

    async def _in_executor(
        self, executor: concurrent.futures.Executor, func: Callable[..., T], *args: Any
    ) -> T:
        over = trio.Event()
        future = executor.submit(func, *args)
        future.add_done_callback(lambda _: self._loop.call_soon(over.set))
        try:
            await over.wait()
        except trio.Cancelled:
            if not future.cancel():
                with trio.move_on_after(limits.CALL_CLEANUP_SECONDS, shield=True):
                    await over.wait()
                if not over.is_set():
                    _warn_of_abandoned(_name(func))
            raise
        try:
            return future.result()
        except _TIMEOUTS_OF_THREADS as exc:
            raise asyncio.TimeoutError(*exc.args) from exc

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        """Schedule `callback` in the run; may be called from any thread.

        In a task of the run it is called at once, so that it precedes whatever the task wakes,
        unless earlier callbacks are still to be called.

        Raises:
            RuntimeError: The run is over.
        """
        handle = Handle(callback, args, copy_context() if context is None else context)
        if not self._to_call and on_trio() and running_loop() in {self, self._of_handlers}:
            handle()
            return handle
        self._to_call.append(handle)
        if not self._loop.call_soon(self._call_next):
            self._closed = True
            raise RuntimeError("the trio run is over")
        return handle

    call_soon = call_soon_threadsafe

    def _call_next(self) -> None:
        # It stays in the queue until it has been called: what it schedules comes after it.
        try:
            self._to_call[0]()
        finally:
            self._to_call.popleft()

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> TimerHandle:
        """Schedule `callback` for a time of the run's clock.

        The timer belongs to the run, and to no call.
        """
        timer = TimerHandle(when, callback, args, copy_context() if context is None else context)
        trio.lowlevel.spawn_system_task(timer.wait, name=_name(callback))
        return timer

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> TimerHandle:
        """Schedule `callback` after a delay in seconds.

        The timer belongs to the run, and to no call.
        """
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Log an error, as asyncio does if no handler has been set."""
        _logger.error(context.get("message"), exc_info=context.get("exception"))

    def get_debug(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(missing_of_loop(name), name=name, obj=self)

    def is_running(self) -> bool:
        return not self.is_closed()

    def is_closed(self) -> bool:
        return self._closed or not self._loop.call_soon(_nothing)

    def time(self) -> float:
        return trio.current_time()


class Handle:
    """A callback that a loop is going to call.

    Ports `asyncio.Handle`.
    """

    __slots__ = ("_args", "_callback", "_cancelled", "_context")

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context
    ) -> None:
        self._callback = callback
        self._args = args
        self._context = context
        self._cancelled = False

    def __call__(self) -> None:
        if self._cancelled:
            return
        try:
            self._context.run(self._callback, *self._args)
        except Exception:
            _logger.exception("a callback of the loop failed")

    def cancel(self) -> None:
        """Cancel the callback, if it has not been called yet."""
        self._cancelled = True

    def cancelled(self) -> bool:
        return self._cancelled

    def get_context(self) -> Context:
        return self._context


@final
class TimerHandle(Handle):
    """A callback that a loop is going to call at a given time.

    Ports `asyncio.TimerHandle`.
    """

    __slots__ = ("_scope", "_when")

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context,
    ) -> None:
        super().__init__(callback, args, context)
        self._when = when
        self._scope = trio.CancelScope()

    async def wait(self) -> None:
        with self._scope:
            await trio.sleep_until(self._when)
            try:
                self()
            except BaseException:
                # Only trio's cancellation may leave a system task, and no callback raises that.
                _logger.exception("a callback of the loop failed")

    def cancel(self) -> None:
        super().cancel()
        self._scope.cancel()

    def when(self) -> float:
        """Return the time, in seconds of `loop.time()`."""
        return self._when


async def to_thread(func: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Port `asyncio.to_thread`."""
    call = partial(copy_context().run, func, *args, **kwargs)
    return await running_loop().run_in_executor(None, call)


@final
class _Call:
    """The state of one call in a worker thread, shared by the thread and the run."""

    __slots__ = ("_abandoned", "_args", "_func", "_lock", "_loop", "_over", "_running")

    def __init__(self, func: Callable[..., object], args: tuple[Any, ...], loop: Loop) -> None:
        self._func = func
        self._args = args
        self._loop = loop
        self._lock = threading.Lock()
        self._running = False
        self._abandoned = False
        self._over: trio.Event | None = None

    def __call__(self) -> tuple[object]:
        with self._lock:
            if self._abandoned:
                return (None,)
            self._running = True
        try:
            # In a tuple: trio refuses a bare coroutine, as it takes the function for an async one.
            return (self._func(*self._args),)
        except BaseException as exc:
            if is_cancellation(exc):
                # It comes from an event loop inside `func`: nothing here was cancelled.
                raise RuntimeError(f"{_name(self._func)} raised {type(exc).__name__}") from exc
            raise
        finally:
            with self._lock:
                self._running = False
            if self._over is not None:
                self._loop.call_soon(self._over.set)

    async def has_returned(self) -> bool:
        """Wait for the thread, without its result; return whether it has left the function.

        Waits for 5 seconds at most, whatever is cancelled.
        """
        over = trio.Event()
        with self._lock:
            self._abandoned = True
            if not self._running:
                return True
            self._over = over
        with trio.move_on_after(limits.CALL_CLEANUP_SECONDS, shield=True):
            await over.wait()
        return over.is_set()


@final
class _Limiter:
    """A limiter that acquires without a checkpoint if it can.

    Waiting for a worker thread is a checkpoint anyway.
    """

    __slots__ = ("_limiter",)

    def __init__(self, limiter: anyio.CapacityLimiter) -> None:
        self._limiter = limiter

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        try:
            self._limiter.acquire_on_behalf_of_nowait(borrower)
        except anyio.WouldBlock:
            await self._limiter.acquire_on_behalf_of(borrower)

    def release_on_behalf_of(self, borrower: object) -> None:
        self._limiter.release_on_behalf_of(borrower)


def _nothing() -> None:
    pass


def _hide_trio_from(func: object) -> None:
    """Let a loop that a function runs in its thread be the one that sniffio sees.

    langchain-core has the function run in a copy of the caller's context, in which `anyio.run()`
    has noted that trio runs.
    """
    context = getattr(func.func, "__self__", None) if isinstance(func, partial) else None
    if isinstance(context, Context):
        context.run(sniffio.current_async_library_cvar.set, None)


def _name(func: Callable[..., Any]) -> str:
    # langchain-core calls its functions within a context: `partial(copy_context().run, func)`.
    while isinstance(func, partial) and func.args:
        func = func.args[0]
    return getattr(func, "__qualname__", None) or repr(func)


def _warn_of_abandoned(label: str) -> None:
    warnings.warn(
        f"the call of {label} in a worker thread was cancelled and has not returned for "
        f"{limits.CALL_CLEANUP_SECONDS:g} seconds; it is abandoned",
        ResourceWarning,
        stacklevel=2,
    )


Future._running_loop = staticmethod(running_loop)
