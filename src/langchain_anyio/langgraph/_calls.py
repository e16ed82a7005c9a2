"""Calls of blocking functions, in worker threads, in the order in which they are made."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Generic, TypeVar, final

import anyio
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

from langchain_anyio._backends import limits
from langchain_anyio._backends.cancellation import is_cancellation, wait_uncancellable
from langchain_anyio._backends.event_loops import from_finalizer
from langchain_anyio._backends.leaks import warn_of_leak
from langchain_anyio._backends.tasks import uninterrupted
from langchain_anyio._backends.waiters import waiters, wake

T = TypeVar("T")


class _Turn:
    """A call of a synchronous caller, which makes it in its own thread when its turn has come."""

    __slots__ = ("granted", "weight")

    def __init__(self) -> None:
        self.weight = 1
        self.granted = threading.Event()


class _Call(Generic[T]):
    """A call of an asynchronous caller, which a worker thread makes.

    Attributes:
        writes: The call changes something. Its thread keeps the interpreter alive until it ends.
        weight: Number of turns that it takes, out of those that there are.
        ended: It has a result or an error.
    """

    __slots__ = (
        "_context",
        "_func",
        "_lock",
        "_notify",
        "ended",
        "error",
        "label",
        "result",
        "weight",
        "writes",
    )

    def __init__(
        self,
        func: Callable[[], T],
        *,
        label: str,
        writes: bool,
        weight: int,
        lock: threading.Lock,
    ) -> None:
        self._func: Callable[[], T] | None = func
        self._context: Context | None = _context_of_thread()
        self._lock = lock
        self._notify: Callable[[], object] | None = None
        self.label = label
        self.writes = writes
        self.weight = weight
        self.ended = False
        self.error: BaseException | None = None
        self.result: T

    def make(self) -> None:
        """Make the call, in a worker thread."""
        assert self._func is not None
        assert self._context is not None
        try:
            self.result = self._context.run(self._func)
        except BaseException as exc:  # noqa: BLE001 - raised to the caller
            # The caller, a coroutine, would take these for its own end or its own cancellation.
            if isinstance(exc, (StopIteration, GeneratorExit)) or is_cancellation(exc):
                error = RuntimeError(f"{self.label} raised {type(exc).__name__}")
                error.__cause__ = exc
                self.error = error
            else:
                self.error = exc

    def end(self) -> None:
        """Wake the caller, from any thread."""
        # The arguments may be large, and an abandoned caller may still hold this object.
        self._func = self._context = None
        with self._lock:
            self.ended = True
            notify, self._notify = self._notify, None
        if notify is not None:
            notify()

    def is_set(self) -> bool:
        return self.ended

    async def wait(self) -> None:
        call_soon = from_finalizer()
        waiter = waiters()()
        with self._lock:
            ended = self.ended
            if not ended:
                self._notify = partial(call_soon, partial(wake, waiter))
        if ended:
            await cancel_shielded_checkpoint()
        else:
            await waiter


def _context_of_thread() -> Context:
    """Return a copy of the caller's context for a thread, which belongs to no event loop."""
    context = copy_context()
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, None)
    return context


@final
class OrderedCalls:
    """Calls on one object, each of which begins when those made before it leave it a turn.

    With one turn, which is the default, calls are made one after another in the order in which they
    were asked for, whatever thread or event loop asks. Callers on event loops have worker threads
    make their calls; these are started when there are calls and end when there are none, so that
    there is nothing to close. A synchronous caller makes its call in its own thread. No call needs
    the event loop of its caller to proceed, so a synchronous caller may block an event loop.

    Args:
        name: The name of the threads, and of the object in errors.
        turns: Number of calls that may be in progress at the same time.
    """

    __slots__ = ("_closed", "_free", "_in_progress", "_lock", "_name", "_turns", "_waiting")

    def __init__(self, name: str, turns: int) -> None:
        self._name = name
        self._turns = turns
        self._free = turns
        self._lock = threading.Lock()
        self._waiting: deque[_Call[Any] | _Turn] = deque()
        # Threads that are making a call: what they call themselves is part of it.
        self._in_progress: set[int] = set()
        self._closed = False

    async def run(self, func: Callable[[], T], *, label: str, writes: bool) -> T:
        """Call `func` in a worker thread when its turn has come, in a copy of the current context.

        Cancellation: a call that has not begun is never made. A read that has begun is abandoned:
        its result is dropped, and it keeps its turn until it ends. A write that has begun is waited
        for, for up to `limits.CLEANUP_SECONDS`; then it is abandoned too, and a `ResourceWarning`
        names it. If it fails meanwhile, its error is raised instead of the cancellation.

        Raises:
            anyio.ClosedResourceError: `close()` was called.
        """
        await checkpoint_if_cancelled()
        call = _Call(func, label=label, writes=writes, weight=1, lock=self._lock)
        return await uninterrupted(partial(self._run, call))

    async def close(self, func: Callable[[], T], *, label: str) -> T:
        """Refuse further calls, and call `func` when all those made before have ended.

        Cancellation: as of a write that has begun, but if it is abandoned, `func` is still called
        when the others have ended.

        Raises:
            anyio.ClosedResourceError: `close()` was called before.
        """
        call = _Call(func, label=label, writes=True, weight=self._turns, lock=self._lock)
        return await uninterrupted(partial(self._run, call, closing=True))

    def run_here(self, func: Callable[[], T]) -> T:
        """Call `func` in the current thread when its turn has come."""
        thread = threading.get_ident()
        if thread in self._in_progress:
            return func()
        turn = _Turn()
        self._enter(turn)
        try:
            turn.granted.wait()
        except BaseException:
            if not self._withdraw(turn):
                self._leave(turn)
            raise
        self._in_progress.add(thread)
        try:
            return func()
        finally:
            self._in_progress.discard(thread)
            self._leave(turn)

    async def _run(self, call: _Call[T], *, closing: bool = False) -> T:
        self._enter(call, closing=closing)
        try:
            await call.wait()
        except BaseException:
            if (not closing and self._withdraw(call)) or not call.writes:
                raise
            await self._wait_cancelled(call)
            if call.error is None:
                raise
        if call.error is not None:
            try:
                raise call.error
            finally:
                call.error = None  # its traceback refers to this frame
        return call.result

    async def _wait_cancelled(self, call: _Call[Any]) -> None:
        try:
            await wait_uncancellable(call, anyio.current_time() + limits.CLEANUP_SECONDS)
        finally:
            if not call.ended:
                warn_of_leak(
                    f"{call.label} was cancelled and has not ended after "
                    f"{limits.CLEANUP_SECONDS:g} seconds; "
                    "it is left to its thread, and later calls wait for it",
                    self,
                )

    def _enter(self, call: _Call[Any] | _Turn, *, closing: bool = False) -> None:
        with self._lock:
            if self._closed:
                raise anyio.ClosedResourceError(f"{self._name} was closed at the end of its block")
            self._closed = closing
            self._waiting.append(call)
            granted = self._grant()
        self._begin(granted)

    def _withdraw(self, call: _Call[Any] | _Turn) -> bool:
        """Take back a call that has not begun; return whether it has not."""
        with self._lock:
            try:
                self._waiting.remove(call)
            except ValueError:
                return False
            # It may have been the first, and have waited for more turns than the next one needs.
            granted = self._grant()
        self._begin(granted)
        return True

    def _leave(self, call: _Call[Any] | _Turn) -> None:
        with self._lock:
            self._free += call.weight
            granted = self._grant()
        self._begin(granted)

    def _grant(self) -> list[_Call[Any] | _Turn]:
        """Give the turns that are free to the calls that wait, with the lock held."""
        granted = []
        while self._waiting and self._waiting[0].weight <= self._free:
            call = self._waiting.popleft()
            self._free -= call.weight
            granted.append(call)
        return granted

    def _begin(self, granted: list[_Call[Any] | _Turn]) -> None:
        for call in granted:
            if isinstance(call, _Turn):
                call.granted.set()
                continue
            thread = threading.Thread(
                target=self._work,
                args=(call,),
                name=f"langchain_anyio {self._name}",
                # The interpreter waits for writes as it exits, and not for reads.
                daemon=not call.writes,
            )
            try:
                thread.start()
            except RuntimeError as exc:  # no more threads, or the interpreter is exiting
                call.error = exc
                call.end()
                self._leave(call)

    def _work(self, call: _Call[Any]) -> None:
        """Make a call, and then those that wait for its turn, in a worker thread."""
        thread = threading.get_ident()
        while True:
            self._in_progress.add(thread)
            call.make()
            self._in_progress.discard(thread)
            with self._lock:
                self._free += call.weight
                granted = self._grant()
            call.end()
            daemon = not call.writes
            following = None
            if granted and isinstance(granted[0], _Call) and granted[0].writes is not daemon:
                following = granted.pop(0)
            self._begin(granted)
            if following is None:
                return
            assert isinstance(following, _Call)
            call = following
            del following, granted
