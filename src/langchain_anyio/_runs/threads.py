"""Worker threads for sync models and sync callback handlers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Generic, TypeVar, cast, final

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from langchain_anyio._backends.cancellation import is_cancellation
from langchain_anyio._backends.event_loops import Loop
from langchain_anyio._errors import StreamCancelledError
from langchain_anyio._primitives.wakeup import Wakeup
from langchain_anyio._providers.interrupts import Interrupts, current_interrupts

T = TypeVar("T")

# Maximum numbers of threads for models and for handlers on one event loop. A model may wait for its
# handlers while it holds a thread, so the two must not share a limiter. Nor may they use anyio's
# default one, which the application's own threads share.
MODEL_THREADS = 256
HANDLER_THREADS = 64

_model_limiter: RunVar[anyio.CapacityLimiter] = RunVar("langchain_anyio_models")
_handler_limiter: RunVar[anyio.CapacityLimiter] = RunVar("langchain_anyio_handlers")


def model_limiter() -> anyio.CapacityLimiter:
    """Return this event loop's limiter for models."""
    return _limiter(_model_limiter, MODEL_THREADS)


def handler_limiter() -> anyio.CapacityLimiter:
    """Return this event loop's limiter for callback handlers."""
    return _limiter(_handler_limiter, HANDLER_THREADS)


def _limiter(var: RunVar[anyio.CapacityLimiter], tokens: int) -> anyio.CapacityLimiter:
    try:
        return var.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(tokens)
        var.set(limiter)
        return limiter


class _Call:
    """The state of one call, shared by the event loop and the worker thread."""

    __slots__ = ("_abandoned", "_lock", "_running", "label")

    def __init__(self, label: str) -> None:
        self.label = label
        self._lock = threading.Lock()
        self._abandoned = False
        self._running = False

    def begin(self) -> bool:
        """Begin the call, in the thread; return whether it is still wanted."""
        with self._lock:
            self._running = not self._abandoned
            return self._running

    def end(self) -> bool:
        """End the call, in the thread; return whether it was abandoned."""
        with self._lock:
            self._running = False
            return self._abandoned

    def abandon(self) -> bool:
        """Abandon the call, on the event loop; return whether the thread is executing it."""
        with self._lock:
            self._abandoned = True
            return self._running


@final
class ThreadCalls:
    """The calls in worker threads that belong to one run.

    A cancelled call raises at once and leaves its thread to finish. Such calls are recorded here
    until their threads have finished.
    """

    __slots__ = ("_abandoned", "_all_returned", "_loop")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._abandoned: dict[_Call, None] = {}
        self._all_returned = Wakeup()

    def abandoned(self) -> list[str]:
        """Return the labels of the calls that were cancelled and have not returned."""
        return sorted(call.label for call in self._abandoned)

    async def join(self) -> None:
        """Wait until the threads of all cancelled calls have finished."""
        while self._abandoned:
            await self._all_returned.wait()

    async def run(self, func: Callable[[], T], *, label: str, limiter: anyio.CapacityLimiter) -> T:
        """Call `func` in a worker thread, in a copy of the current context, and return its result.

        Cancellation: takes effect at once; the thread continues until `func` returns, see `join()`.
        A call that has not begun is never made.

        Args:
            func: The function to call.
            label: Name of the call, for the warning if it has to be left behind.
            limiter: The limiter that the thread is taken from.
        """
        call = _Call(label)

        def work() -> tuple[T]:
            if not call.begin():
                raise StreamCancelledError
            try:
                # In a tuple: trio refuses a bare coroutine, as a sign of an async function.
                return (func(),)
            except BaseException as exc:
                # A future refuses StopIteration, GeneratorExit would close the coroutine that it is
                # raised in, and a cancellation (such as that of a loop that `func` ran) would be
                # taken for that of the task.
                if isinstance(exc, (StopIteration, GeneratorExit)) or is_cancellation(exc):
                    raise RuntimeError(f"{label} raised {type(exc).__name__}") from exc
                raise
            finally:
                if call.end():
                    self._loop.call_soon(partial(self._forget, call))

        try:
            (result,) = await anyio.to_thread.run_sync(
                work, abandon_on_cancel=True, limiter=limiter
            )
            return result
        except anyio.get_cancelled_exc_class():
            if call.abandon():
                self._abandoned[call] = None
            raise

    def _forget(self, call: _Call) -> None:
        self._abandoned.pop(call, None)
        if not self._abandoned:
            self._all_returned.fire()


_END = object()


@final
class ThreadIterator(Generic[T]):
    """An async iterator over a blocking one, each step of which runs in a worker thread.

    The first step creates the blocking iterator. A cancelled step continues in its thread. After
    `aclose()`, that thread closes the iterator when the step is over: at its next item, or at once
    if what it reads can be interrupted.
    """

    __slots__ = ("_calls", "_closed", "_interrupts", "_iterator", "_label", "_lock", "_make")

    def __init__(self, make: Callable[[], Iterator[T]], calls: ThreadCalls, *, label: str) -> None:
        self._make = make
        self._calls = calls
        self._label = label
        self._iterator: Iterator[T] | None = None
        self._closed = threading.Event()
        self._interrupts = Interrupts()
        self._lock = threading.Lock()

    def __aiter__(self) -> ThreadIterator[T]:
        return self

    async def __anext__(self) -> T:
        item = await self._calls.run(self._step, label=self._label, limiter=model_limiter())
        if item is _END:
            raise StopAsyncIteration
        return cast("T", item)

    async def aclose(self) -> None:
        """Close the iterator; if a step is running, its thread does so and is not waited for."""
        self._closed.set()
        if self._lock.locked():
            self._interrupts.fire()
        elif self._iterator is not None:
            # Its own limiter, because ending a run must not wait for the threads of other runs.
            limiter = anyio.CapacityLimiter(1)
            await self._calls.run(self._close, label=self._label, limiter=limiter)

    def _step(self) -> object:
        try:
            with self._lock:
                if self._closed.is_set():
                    return _END
                current_interrupts.set(self._interrupts)  # in the context of this call
                if self._iterator is None:
                    self._iterator = iter(self._make())
                item = next(self._iterator, _END)
                if item is _END:
                    self._closed.set()  # here, so that `aclose()` needs no thread
                return item
        finally:
            # After releasing the lock: an `aclose()` that found it locked relies on this.
            if self._closed.is_set():
                self._close()

    def _close(self) -> None:
        with self._lock:
            iterator, self._iterator = self._iterator, None
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
