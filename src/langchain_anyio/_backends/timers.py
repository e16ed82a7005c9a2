"""Timers on the clock of the event loop, and a limit on each of many waits."""

from __future__ import annotations

import heapq
import math
import sys
import weakref
from abc import ABC, abstractmethod
from contextvars import Context
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, final

import anyio
from anyio.lowlevel import RunVar
from typing_extensions import override

from .current import backend
from .tasks import contained_call, spawn_background

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class Timer(Protocol):
    """A call to come."""

    def cancel(self) -> None: ...


class Timers(Protocol):
    """The timers of one event loop."""

    def time(self) -> float:
        """Return the time in seconds."""

    def call_at(self, when: float, func: Callable[[], object], /) -> Timer:
        """Call `func` at a time, outside of the program's tasks; return the timer.

        It may be called by such a function. Exceptions that `func` raises are logged.
        """


def timers() -> Timers:
    """Return the timers of the running event loop."""
    if backend() != "trio":
        return _AsyncioTimers()
    timers = _trio_timers.get(None)
    if timers is None:
        timers = _TrioTimers()
        _trio_timers.set(timers)
    return timers


@final
class _AsyncioTimers:
    __slots__ = ("_loop", "time")

    def __init__(self) -> None:
        import asyncio

        self._loop = asyncio.get_running_loop()
        self.time = self._loop.time

    def call_at(self, when: float, func: Callable[[], object], /) -> Timer:
        # The context of whoever sets the timer would stay in memory until then.
        return self._loop.call_at(when, func, context=Context())


# As many cancelled timers are kept as others, and so many more.
_FEW = 64


@final
class _TrioTimer:
    __slots__ = ("_timers", "func", "when")

    def __init__(self, timers: _TrioTimers, when: float, func: Callable[[], object]) -> None:
        self._timers = timers
        self.when = when
        self.func: Callable[[], object] | None = func

    def __lt__(self, other: _TrioTimer) -> bool:
        return self.when < other.when

    def cancel(self) -> None:
        if self.func is not None:
            self.func = None
            self._timers.drop()


@final
class _TrioTimers:
    """The timers of one run of trio, which has none itself: a task that sleeps until the next.

    The task ends when no timer is left.
    """

    __slots__ = ("_active", "_heap", "_is_running", "_scope", "time")

    def __init__(self) -> None:
        import trio

        self.time = trio.current_time
        # Timers that are cancelled stay, without a function.
        self._heap: list[_TrioTimer] = []
        self._active = 0
        self._is_running = False
        self._scope: Any = None

    def call_at(self, when: float, func: Callable[[], object], /) -> _TrioTimer:
        timer = _TrioTimer(self, when, func)
        heapq.heappush(self._heap, timer)
        self._active += 1
        if not self._is_running:
            try:
                spawn_background(self._run, name="langchain_anyio timers", context=Context())
            except RuntimeError:
                return timer  # trio's run is ending, and cancels whatever waits
            self._is_running = True
        elif self._scope is not None and self._heap[0] is timer:
            self._scope.deadline = when
        return timer

    def drop(self) -> None:
        self._active -= 1
        if not self._active:
            self._heap.clear()
            if self._scope is not None:
                self._scope.cancel()
        elif len(self._heap) > 2 * self._active + _FEW:
            self._heap = [timer for timer in self._heap if timer.func is not None]
            heapq.heapify(self._heap)

    async def _run(self) -> None:
        import trio

        try:
            while self._heap:
                with trio.CancelScope(deadline=self._heap[0].when) as self._scope:
                    await trio.sleep_forever()
                self._scope = None
                self._call_due(self.time())
        finally:
            self._scope = None
            self._is_running = False

    def _call_due(self, now: float) -> None:
        while self._heap and (self._heap[0].func is None or self._heap[0].when <= now):
            func, timer = self._heap[0].func, heapq.heappop(self._heap)
            if func is not None:
                timer.func = None
                self._active -= 1
                contained_call(func)


_trio_timers: RunVar[_TrioTimers] = RunVar("langchain_anyio_trio_timers")

# A timer may go off this much before its time: uvloop counts milliseconds.
_RESOLUTION = 0.001

# Seconds after which a wait is interrupted again that could not be at its deadline.
_RETRY = 0.02


class LazyTimer(ABC):
    """Calls `expire()` when a deadline passes that is moved far more often than it passes.

    Moving it, to a later time than before, costs an assignment: the timer of the event loop is
    left where it is and set again when it goes off. It does not keep this object alive.

    Attributes:
        now: Returns the time on the clock of the event loop.
        deadline: Time on that clock, infinite if there is none; call `arm()` after setting it.
    """

    __slots__ = ("__weakref__", "_timer", "_timers", "_when", "deadline", "now")

    def __init__(self) -> None:
        self._timers = timers()
        self.now: Callable[[], float] = self._timers.time
        self.deadline: float = math.inf
        self._timer: Timer | None = None
        # The time at which the timer of the event loop goes off.
        self._when = math.inf

    @abstractmethod
    def expire(self) -> bool:
        """React to the deadline; return whether it was possible, or is to be tried again soon."""

    def arm(self) -> None:
        """Make sure that the timer goes off at the deadline."""
        if self.deadline < self._when:
            self._set(self.deadline)

    def disarm(self) -> None:
        """Remove the deadline and the timer of the event loop."""
        self.deadline = self._when = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        ref = weakref.ref(self)

        def go_off() -> None:
            timer = ref()
            if timer is not None:
                timer._go_off()

        self._timer = self._timers.call_at(when, go_off)
        self._when = when

    def _go_off(self) -> None:
        self._timer, self._when = None, math.inf
        if self.deadline == math.inf:
            return
        now = self.now()
        if now < self.deadline - _RESOLUTION:
            self._set(self.deadline)
        elif self.expire():
            self.deadline = math.inf
        else:
            self._set(now + _RETRY)


class WaitLimit(Protocol):
    """A context manager that limits the wait within it, and may be entered again and again.

    Like `anyio.move_on_after(seconds)`, it leaves its block when the time has passed, with
    `expired` set. It is far cheaper, as it is no cancel scope: the wait that takes too long is
    interrupted once, as by `asyncio.wait_for()`, and what cleans up because of that is not
    interrupted again. So the block must be one call of an async function that does not go on after
    it was interrupted.

    A wait may end a millisecond early. Where its task cannot be interrupted when the time has
    passed, as in a call into a thread, it ends when it can.

    A cancellation of the task is never held back. One by a scope that comes at the same time may be
    raised at the next checkpoint only, so execute one if `expired` is set. Before Python 3.11, a
    native one that comes at the same time is not seen.

    Attributes:
        expired: Whether the last wait took too long.
    """

    expired: bool

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool: ...

    def disarm(self) -> None:
        """Remove the timer, after the last wait."""


def wait_limit(seconds: float) -> WaitLimit:
    """Return a limit on waits of tasks of the running event loop.

    Args:
        seconds: The longest wait, more than 0.
    """
    if backend() != "trio":
        return _AsyncioWaitLimit(seconds)
    import trio

    if hasattr(trio.lowlevel.Task, "_attempt_abort"):
        return _trio_wait_limit()(seconds)
    return _ScopeWaitLimit(seconds)


@final
class _AsyncioWaitLimit(LazyTimer):
    __slots__ = ("_current_task", "_interrupted", "_requests", "_seconds", "_task", "expired")

    def __init__(self, seconds: float) -> None:
        import asyncio

        super().__init__()
        self._seconds = seconds
        self.expired: bool = False
        self._current_task: Callable[[], Any] = asyncio.current_task
        self._task: Any = None
        self._requests = 0
        self._interrupted = False

    def __enter__(self) -> None:
        self._task = task = self._current_task()
        if sys.version_info >= (3, 11):
            self._requests = task.cancelling()
        self.expired = False
        self.deadline = deadline = self.now() + self._seconds
        if deadline < self._when:
            self._set(deadline)

    @override
    def expire(self) -> bool:
        self._interrupted = self._task.cancel()
        return True

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self.deadline = math.inf
        task, self._task = self._task, None
        if not self._interrupted:
            return False
        self._interrupted = False
        if sys.version_info >= (3, 11) and task.uncancel() > self._requests:
            return False
        self.expired = isinstance(exc, anyio.get_cancelled_exc_class())
        return self.expired


class _Interrupted(BaseException):
    """Ends a wait of a trio task in place of `trio.Cancelled`, which belongs to a scope."""


@cache
def _trio_wait_limit() -> Callable[[float], WaitLimit]:
    import trio

    current_task = trio.lowlevel.current_task

    @final
    class TrioWaitLimit(LazyTimer):
        __slots__ = ("_interrupted", "_seconds", "_task", "expired")

        def __init__(self, seconds: float) -> None:
            super().__init__()
            self._seconds = seconds
            self.expired: bool = False
            self._task: Any = None
            self._interrupted = False

        def __enter__(self) -> None:
            self._task = current_task()
            self.expired = False
            self.deadline = deadline = self.now() + self._seconds
            if deadline < self._when:
                self._set(deadline)

        @override
        def expire(self) -> bool:
            # trio has no public way to end another task's wait except a scope around it, which
            # costs 7 µs. This is how trio raises `KeyboardInterrupt` in a task that waits.
            if self._task._abort_func is not None:
                self._task._attempt_abort(self._raise)
            return self._interrupted

        def _raise(self) -> NoReturn:
            self._interrupted = True
            raise _Interrupted

        def __exit__(
            self,
            exc_type: type[BaseException] | None,
            exc: BaseException | None,
            traceback: TracebackType | None,
        ) -> bool:
            self.deadline = math.inf
            self._task = None
            if not self._interrupted:
                return False
            self._interrupted = False
            self.expired = isinstance(exc, _Interrupted)
            return self.expired

    return TrioWaitLimit


@final
class _ScopeWaitLimit:
    """A cancel scope for each wait, on releases of trio without the private names needed above."""

    __slots__ = ("_scope", "_seconds", "expired")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._scope: anyio.CancelScope | None = None
        self.expired: bool = False

    def __enter__(self) -> None:
        self._scope = anyio.move_on_after(self._seconds)
        self._scope.__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        scope, self._scope = self._scope, None
        assert scope is not None
        swallowed = bool(scope.__exit__(exc_type, exc, traceback))
        self.expired = scope.cancelled_caught
        return swallowed

    def disarm(self) -> None:
        pass
