"""asyncio's events, locks, semaphores and queues, which belong to trio where they are first waited on there.

They stay asyncio's own classes, and on asyncio do nothing else: all that they need of a loop is futures.
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
        # The one place where all of asyncio's primitives ask for their loop.
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
        """Wait to be notified, as asyncio's own; it has the lock again whatever is cancelled meanwhile."""
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
                self.notify()  # whom this wake-up might have gone to
            raise
        return True


class PatientCondition(Condition):
    """A condition whose lock is waited for although the waiting side is cancelled.

    For code that counts on asyncio's cancelling a task once: it takes the lock again in a `finally`, where trio's
    cancellation would come again. Nobody may hold the lock across an `await`, but to wait for the condition.
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
        # What `join()` waits on.
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
