"""Objects that one task awaits until another task of the same event loop wakes it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import cache, partial
from threading import get_ident
from typing import Any, Protocol

from .current import backend

MOVED = (
    "a consumer runs on another event loop than what it reads; consume it where it began, or hand "
    "what it gives over with anyio.from_thread"
)


class Waiter(Protocol):
    """Awaited once, by one task, until another task of the event loop calls `set_result()`."""

    def __await__(self) -> Generator[Any, Any, object]: ...

    def done(self) -> bool: ...

    def set_result(self, result: None, /) -> None: ...


def waiters() -> Callable[[], Waiter]:
    """Return a factory of waiters for tasks of the running event loop.

    An `anyio.Event` made for a single wait takes longer to make and to await than a switch between
    two tasks takes. On asyncio, a waiter is the future that such an event is built on. Both are
    cancelled alike.
    """
    if backend() == "trio":
        return partial(_trio_waiter(), get_ident())
    import asyncio

    return asyncio.get_running_loop().create_future


def wake(waiter: Waiter) -> None:
    """Wake a waiter, unless it was woken before or, being an asyncio future, was cancelled."""
    if not waiter.done():
        waiter.set_result(None)


async def wait_until(waiter: Waiter, deadline: float) -> None:
    """Wait until `waiter` is woken or the time on the event loop's clock is `deadline`.

    On asyncio this is a timer and not a cancel scope, which could swallow a native cancellation
    that comes in the same loop iteration as the deadline. The timer may be early by its resolution.
    """
    if backend() == "trio":
        import trio

        with trio.move_on_at(deadline):
            await waiter
        return
    import asyncio

    timer = asyncio.get_running_loop().call_at(deadline, wake, waiter)
    try:
        await waiter
    finally:
        timer.cancel()


@cache
def _trio_waiter() -> Callable[[int], Waiter]:
    import trio

    class TrioWaiter:
        __slots__ = ("_event",)

        def __init__(self, thread: int) -> None:
            # Checked here, as an asyncio future itself refuses to be awaited on another loop.
            if thread != get_ident():
                raise RuntimeError(MOVED)
            self._event = trio.Event()

        def __await__(self) -> Generator[Any, Any, object]:
            return self._event.wait().__await__()

        def done(self) -> bool:
            return self._event.is_set()

        def set_result(self, _: None, /) -> None:
            self._event.set()

    return TrioWaiter
