"""How far a producer may run ahead of those who read what it made."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import final

from ._wakeup import Wakeup

# What the current task does for runs that may wait for it, from the outside in; empty in all others.
parts: ContextVar[tuple[object, ...]] = ContextVar("langchain_anyio_parts", default=())


def _may_wait() -> None:
    pass


@final
class Flow:
    """The positions of one producer and of its furthest consumer, counted in events.

    Attributes:
        produced: Number of events made so far.
        consumed: Number of events that the furthest consumer is past.
        at_head: Number of consumers that wait for something not made yet: while there is one, the
            producer is ahead of nobody.
        shared: Whether a consumer ever read along, beside those that wait for a final value.
        loop: The event loop that the producer runs on, as its backend names it, where that is known.
        check_waiter: Refuses, with a `RuntimeError`, a caller that the producer waits for; to be asked by who is about to
            wait and has `parts`.
    """

    __slots__ = ("_moved", "at_head", "check_waiter", "consumed", "loop", "produced", "shared")

    def __init__(self) -> None:
        self.produced: int = 0
        self.consumed: int = 0
        self.at_head: int = 0
        self.shared: bool = False
        self.loop: object = None
        self.check_waiter: Callable[[], None] = _may_wait
        self._moved = Wakeup()

    def has_room(self, limit: float) -> bool:
        """Tell whether the producer may make one more event and be at most `limit` ahead."""
        return self.at_head > 0 or self.produced - self.consumed < limit

    async def wait_for_room(self, limit: float) -> None:
        """Wait until the producer may make one more event; not a checkpoint if it may already."""
        while not self.has_room(limit):
            await self._moved.wait()

    def pass_by(self, mark: int) -> None:
        """Note that a consumer is past event number `mark`, counted from 1."""
        if mark > self.consumed:
            self.consumed = mark
            if self._moved.waiting:
                self._moved.fire()

    def join_head(self) -> None:
        """Note that one more consumer waits for what is not made yet."""
        self.at_head += 1
        if self._moved.waiting:
            self._moved.fire()
