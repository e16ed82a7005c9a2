"""The limit on how long a run waits for its model's next chunk."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import anyio

from langchain_anyio._backends.background import Loop


@final
class StallTimer:
    """Cancels its scope when one wait for the model takes too long.

    The timer stands still while callback handlers are told, also where the model's own step tells
    them, and then goes on with what remains of the time. `hold()` and `resume()` may be called from
    any thread, nested and by several tasks at the same time; all else belongs to the task of the run.

    Attributes:
        scope: What the run waits for the model in; entered once.
        seconds: The longest wait.
    """

    __slots__ = ("_holders", "_loop", "_remaining", "scope", "seconds")

    def __init__(self, seconds: float, loop: Loop) -> None:
        self.scope: anyio.CancelScope = anyio.CancelScope()
        self.seconds: float = seconds
        self._loop = loop
        self._holders = 0
        # Of the current wait, while the timer stands still; infinite where there is no wait.
        self._remaining = math.inf

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
        """Stand still until as many calls of `resume()` as of this."""
        self._on_loop(self._hold)

    def resume(self) -> None:
        """Go on, unless somebody else still holds the timer."""
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
