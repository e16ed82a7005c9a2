"""asyncio's timeouts on trio: `timeout`, `timeout_at` and the `Timeout` that they return."""

from __future__ import annotations

import asyncio
import math
import sys
from types import TracebackType
from typing import Literal, final

import trio
from typing_extensions import Self

if sys.version_info < (3, 11):
    # Comes with trio there.
    from exceptiongroup import BaseExceptionGroup  # type: ignore[import-not-found,unused-ignore]


@final
class Timeout:
    """Cancel the block when its deadline passes, and raise `TimeoutError` from it.

    Ports `asyncio.Timeout`. The block is a cancel scope: once the deadline has passed, every
    checkpoint in it raises, not only the first.

    Args:
        when: The deadline in seconds of `loop.time()`, which is trio's clock; `None` for no
            deadline.
    """

    __slots__ = ("_scope", "_state", "_when")

    def __init__(self, when: float | None) -> None:
        self._when = when
        self._scope = trio.CancelScope()
        self._state: Literal["created", "active", "expired", "finished"] = "created"

    def when(self) -> float | None:
        """Return the deadline."""
        return self._when

    def reschedule(self, when: float | None) -> None:
        """Set another deadline.

        Raises:
            RuntimeError: The block has not been entered, has been left, or is being cancelled.
        """
        if self._state == "created":
            raise RuntimeError("Timeout has not been entered")
        if self._state != "active" or self._has_fired():
            raise RuntimeError(f"Cannot change state of {self._shown_state()} Timeout")
        self._set_deadline(when)

    def _set_deadline(self, when: float | None) -> None:
        self._when = when
        self._scope.deadline = math.inf if when is None else when

    def expired(self) -> bool:
        """Return whether the deadline has cancelled the block."""
        return self._state == "expired" or (self._state == "active" and self._has_fired())

    def _has_fired(self) -> bool:
        # Reading `cancel_called` cancels a scope whose deadline has passed, even if the block has
        # come to no checkpoint since. On asyncio, such a block has not timed out.
        scope = self._scope
        deadline, scope.deadline = scope.deadline, math.inf
        fired = scope.cancel_called
        scope.deadline = deadline
        return fired

    def _shown_state(self) -> str:
        return "expiring" if self._state == "active" and self._has_fired() else self._state

    def __repr__(self) -> str:
        state = self._shown_state()
        if state != "active":
            return f"<Timeout [{state}]>"
        return f"<Timeout [active] when={None if self._when is None else round(self._when, 3)}>"

    async def __aenter__(self) -> Self:
        if self._state != "created":
            raise RuntimeError("Timeout has already been entered")
        self._scope.__enter__()
        # Only now, because entering a scope whose deadline has passed cancels it.
        self._set_deadline(self._when)
        self._state = "active"
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        expired = self._has_fired()
        self._state = "expired" if expired else "finished"
        self._scope.deadline = math.inf
        try:
            # The return value is true even for a block that raised nothing, so it is not used.
            self._scope.__exit__(exc_type, exc, traceback)
        except BaseExceptionGroup as others:  # errors other than the cancellation
            _insert_timeout_errors(others)
            raise
        if not expired or exc is None:
            return
        if self._scope.cancelled_caught or isinstance(exc, asyncio.CancelledError):
            raise TimeoutError from exc
        if not isinstance(exc, trio.Cancelled):
            _insert_timeout_errors(exc)


def _insert_timeout_errors(exc: BaseException) -> None:
    """Add the timeout to the context of an error that was raised while the block was cancelled."""
    errors = [exc, *exc.exceptions] if isinstance(exc, BaseExceptionGroup) else [exc]
    for error in errors:
        while (context := error.__context__) is not None:
            if isinstance(context, (trio.Cancelled, asyncio.CancelledError)):
                inserted = TimeoutError()
                inserted.__context__ = inserted.__cause__ = context
                error.__context__ = inserted
                break
            error = context


def timeout(delay: float | None) -> Timeout:
    """Port `asyncio.timeout`."""
    return Timeout(None if delay is None else trio.current_time() + delay)


def timeout_at(when: float | None) -> Timeout:
    """Port `asyncio.timeout_at`."""
    return Timeout(when)
