"""Ways to stop a blocking call in a worker thread, from outside of that thread."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable


@final
class Interrupts:
    """Functions that make the reads of a blocking call return.

    A worker thread adds to it, and the event loop fires it. What is added later is fired at once.
    """

    __slots__ = ("_fired", "_interrupts", "_lock")

    def __init__(self) -> None:
        self._interrupts: list[Callable[[], None]] = []
        self._fired = False
        self._lock = threading.Lock()

    def add(self, interrupt: Callable[[], None]) -> None:
        with self._lock:
            if not self._fired:
                self._interrupts.append(interrupt)
                return
        interrupt()

    def fire(self) -> None:
        with self._lock:
            self._fired = True
            interrupts, self._interrupts = self._interrupts, []
        for interrupt in interrupts:
            interrupt()


# Those of the call that is made in this context, if it can be interrupted.
current_interrupts: Final[ContextVar[Interrupts | None]] = ContextVar(
    "langchain_anyio_interrupts", default=None
)
