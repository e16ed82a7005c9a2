"""Cancellation exceptions of either backend, and waiting in spite of them."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Protocol, cast

import anyio

if TYPE_CHECKING:
    from types import TracebackType

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


class HeldCancellation:
    """Holds cancellations back within `with` blocks, so that a cleanup can take its next step.

    Args:
        scope: A scope whose own cancellation is not held back.
    """

    __slots__ = ("_held", "_scope")

    def __init__(self, scope: anyio.CancelScope | None = None) -> None:
        self._scope = scope
        self._held: BaseException | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if not isinstance(exc, anyio.get_cancelled_exc_class()):
            return False
        if self._scope is not None and self._scope.cancel_called:
            return False
        self._held = exc
        return True

    def release(self) -> None:
        """Raise the last cancellation that was held back, if there was one."""
        held, self._held = self._held, None
        if held is not None:
            try:
                raise held
            finally:
                del held  # its traceback refers to this frame


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
    with anyio.CancelScope(shield=True, deadline=deadline) as scope:
        cancellation = HeldCancellation(scope)
        while not event.is_set():
            with cancellation:
                await event.wait()
    cancellation.release()
