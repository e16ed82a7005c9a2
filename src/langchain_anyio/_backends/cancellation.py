"""Cancellation exceptions of either backend, and waiting in spite of them."""

from __future__ import annotations

import math
import sys
from typing import Protocol, cast

import anyio

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup  # type: ignore[import-not-found,unused-ignore]

# Exceptions meant for the whole program, which are passed on from wherever they are raised.
EXITS = (KeyboardInterrupt, SystemExit)


def is_cancellation(error: BaseException) -> bool:
    """Return whether `error` is a backend's cancellation exception, or a group of only these.

    No event loop needs to be running.
    """
    if isinstance(error, Exception):
        return False
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_cancellation, error.exceptions))
    asyncio, trio = sys.modules.get("asyncio"), sys.modules.get("trio")
    return bool(
        (asyncio is not None and isinstance(error, asyncio.CancelledError))
        or (trio is not None and isinstance(error, trio.Cancelled))
    )


def without_cancellations(error: BaseException) -> BaseException | None:
    """Return `error` without cancellations, or `None` if it is nothing else.

    Of a group that contains cancellations, the other exceptions are returned, without the group if
    there is only one.
    """
    if is_cancellation(error):
        return None
    if isinstance(error, BaseExceptionGroup):
        cancellations, rest = error.split(is_cancellation)
        if cancellations is not None and rest is not None:
            errors = cast("tuple[BaseException, ...]", rest.exceptions)
            return errors[0] if len(errors) == 1 else cast("BaseException", rest)
    return error


class Waitable(Protocol):
    """An event of any kind."""

    def is_set(self) -> bool: ...

    async def wait(self) -> object: ...


async def wait_uncancellable(event: Waitable, deadline: float = math.inf) -> None:
    """Wait for `event` despite cancellation, then let a cancellation that came meanwhile continue.

    A shielded scope keeps out cancellation by other scopes. A native `Task.cancel()` comes through
    it each time it is called, and is held back here until the event is set or the deadline has
    passed. Without a deadline, the caller must make sure that the event is set in bounded time.
    """
    cancelled: BaseException | None = None
    with anyio.CancelScope(shield=True, deadline=deadline) as scope:
        while not event.is_set():
            try:
                await event.wait()
            except anyio.get_cancelled_exc_class() as exc:
                if scope.cancel_called:
                    raise
                cancelled = exc
    if cancelled is not None:
        try:
            raise cancelled
        finally:
            del cancelled
