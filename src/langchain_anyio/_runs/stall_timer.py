"""The limit on how long a run waits for its model's next chunk."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import anyio

from langchain_anyio._backends.event_loops import Loop


@final
class StallTimer:
    """Cancels the scope of an attempt when one wait for the model takes too long.

    The timer is paused while callback handlers run, even if the model's own step calls them, and
    then continues with the remaining time. `hold()` and `resume()` may be called from any thread,
    nested, and by several tasks at once; all other methods only by the task of the run.

    Attributes:
        scope: The scope in which the current attempt waits for the model; entered once.
        seconds: The longest wait in seconds.
    """

    __slots__ = ("_holders", "_loop", "_remaining", "scope", "seconds")

    def __init__(self, seconds: float, loop: Loop) -> None:
        self.scope: anyio.CancelScope = anyio.CancelScope()
        self.seconds: float = seconds
        self._loop = loop
        self._holders = 0
        # Seconds left of the current wait while the timer is paused; infinite if there is no wait.
        self._remaining = math.inf

    def new_scope(self) -> anyio.CancelScope:
        """Return a scope for another attempt."""
        self.scope = anyio.CancelScope()
        return self.scope

    def start(self) -> None:
        """Begin a wait."""
        self._remaining = self.seconds
        if not self._holders:
            self.scope.deadline = anyio.current_time() + self.seconds

    def stop(self) -> None:
        """End the wait."""
        self._remaining = math.inf
        self.scope.deadline = math.inf

    def hold(self) -> None:
        """Pause until `resume()` has been called as often as `hold()`."""
        self._on_loop(self._hold)

    def resume(self) -> None:
        """Continue, unless another call of `hold()` has not been resumed."""
        self._on_loop(self._resume)

    def _on_loop(self, change: Callable[[], None]) -> None:
        if self._loop.is_current():
            change()
        else:
            self._loop.call_soon(change)

    def _hold(self) -> None:
        self._holders += 1
        if self._holders == 1 and self.scope.deadline != math.inf:
            self._remaining = max(0.0, self.scope.deadline - anyio.current_time())
            self.scope.deadline = math.inf

    def _resume(self) -> None:
        self._holders -= 1
        if not self._holders and self._remaining != math.inf:
            self.scope.deadline = anyio.current_time() + self._remaining
