"""asyncio's events, locks, semaphores and queues, which trio tasks can wait on too.

They are subclasses of asyncio's own classes, and behave the same on asyncio: all that they need of
a loop is futures. On trio they are bound to the run in which they are first waited on.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import trio

from langchain_anyio._trio_runtime.running_backend import on_trio

from .loop import running_loop

T = TypeVar("T")

if TYPE_CHECKING:

    class _Primitive:
        _loop: Any

        def _get_loop(self) -> Any: ...
else:
    _Primitive = object


class _Portable(_Primitive):
    def _get_loop(self) -> Any:
        # All of asyncio's primitives get their loop here.
        if not on_trio():
            return super()._get_loop()
        loop = running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError(f"{self!r} is bound to a different event loop")
        return loop


class Event(_Portable, asyncio.Event):
    """Ports `asyncio.Event`."""


class Lock(_Portable, asyncio.Lock):
    """Ports `asyncio.Lock`."""


class Condition(_Portable, asyncio.Condition):
    """Ports `asyncio.Condition`."""

    def __init__(self, lock: asyncio.Lock | None = None) -> None:
        super().__init__(Lock() if lock is None else lock)

    async def wait(self) -> Literal[True]:
        """Wait to be notified, as asyncio does; the lock is held again, whatever is cancelled."""
        if not on_trio():
            return await super().wait()
        if not self.locked():
            raise RuntimeError("cannot wait on an un-acquired lock")
        waiter = self._get_loop().create_future()
        self.release()
        try:
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                self._waiters.remove(waiter)
                with trio.CancelScope(shield=True):
                    await self.acquire()
        except BaseException:
            if not waiter.cancelled():
                self.notify()  # pass on a wake-up that this waiter may have consumed
            raise
        return True


class PatientCondition(Condition):
    """A condition whose lock is acquired even if the acquiring task is cancelled.

    For code that relies on asyncio cancelling a task only once: it acquires the lock again in a
    `finally`, where trio would raise the cancellation again. Nobody may hold the lock across an
    `await`, except to wait for the condition.
    """

    async def __aenter__(self) -> None:
        if not on_trio():
            return await super().__aenter__()
        with trio.CancelScope(shield=True):
            await self.acquire()
        return None


class Semaphore(_Portable, asyncio.Semaphore):
    """Ports `asyncio.Semaphore`."""


class BoundedSemaphore(_Portable, asyncio.BoundedSemaphore):
    """Ports `asyncio.BoundedSemaphore`."""


class Queue(_Portable, asyncio.Queue[T]):
    """Ports `asyncio.Queue`."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        # The event that `join()` waits for.
        self._finished: asyncio.Event = Event()
        self._finished.set()


class LifoQueue(Queue[T], asyncio.LifoQueue[T]):
    """Ports `asyncio.LifoQueue`."""


class PriorityQueue(Queue[T], asyncio.PriorityQueue[T]):  # type: ignore[type-var]
    """Ports `asyncio.PriorityQueue`."""


if sys.version_info >= (3, 11):

    class Barrier(_Portable, asyncio.Barrier):
        """Ports `asyncio.Barrier`."""

        def __init__(self, parties: int) -> None:
            super().__init__(parties)
            self._cond: asyncio.Condition = Condition()
