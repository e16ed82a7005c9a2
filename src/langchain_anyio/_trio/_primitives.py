"""asyncio's events, locks, semaphores and queues, which belong to trio where they are first waited on there.

They stay asyncio's own classes, and on asyncio do nothing else: all that they need of a loop is futures.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from ._loop import running_loop
from ._running import on_trio

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


class Semaphore(_Portable, asyncio.Semaphore):
    """Ports `asyncio.Semaphore`."""


class Queue(_Portable, asyncio.Queue[T]):
    """Ports `asyncio.Queue`."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        # What `join()` waits on.
        self._finished: asyncio.Event = Event()
        self._finished.set()
