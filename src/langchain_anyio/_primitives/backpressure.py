"""How far a producer may run ahead of those who read what it made."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import final

from langchain_anyio._background import MOVED

from .checkpoints import Steps
from .wakeup import Wakeup

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
        awaiting: Number of consumers that wait for a final value.
        heads: What those wait on who have read all there is.
        shared: Whether a consumer ever read along, beside those that wait for a final value.
        loop: The event loop that the producer runs on, as its backend names it, where that is known.
        check_waiter: Refuses, with a `RuntimeError`, a caller that the producer waits for; for those that have `parts`.
        moved: What the producer waits on, until there is room or somebody waits for it.
    """

    __slots__ = (
        "awaiting",
        "check_waiter",
        "consumed",
        "heads",
        "loop",
        "moved",
        "produced",
        "shared",
    )

    def __init__(self) -> None:
        self.produced: int = 0
        self.consumed: int = 0
        self.awaiting: int = 0
        self.heads: list[Wakeup] = []
        self.shared: bool = False
        self.loop: object = None
        self.check_waiter: Callable[[], None] = _may_wait
        self.moved: Wakeup = Wakeup()

    def note_waiting(self, steps: Steps) -> None:
        """Let the producer go on for a consumer that is about to wait for more.

        Raises:
            RuntimeError: The producer runs on another event loop, or waits for the consumer.
        """
        if self.loop is not None:
            if steps.make_waiter is None:
                steps.look_up_waiters()
            self.check_consumer(steps.loop)
        if self.moved.waiting:
            self.moved.fire()

    def check_consumer(self, loop: object) -> None:
        """Refuse a consumer that is about to wait where the producer will never come to it.

        Args:
            loop: The event loop that it runs on, as its backend names it.

        Raises:
            RuntimeError: The producer runs on another one, or waits for the consumer.
        """
        if self.loop is not None:
            if self.loop is not loop:
                raise RuntimeError(MOVED)
            if parts.get():
                self.check_waiter()

    @property
    def at_head(self) -> bool:
        """Whether somebody waits for what is not made yet: then the producer is ahead of nobody."""
        return self.awaiting > 0 or any(head.waiting for head in self.heads)

    def has_room(self, limit: float) -> bool:
        """Tell whether the producer may make one more event and be at most `limit` ahead."""
        return self.produced - self.consumed < limit or self.at_head

    async def wait_for_room(self, limit: float) -> None:
        """Wait until the producer may make one more event; not a checkpoint if it may already."""
        while not self.has_room(limit):
            await self.moved.wait()

    def pass_by(self, mark: int) -> None:
        """Note that a consumer is past event number `mark`, counted from 1."""
        if mark > self.consumed:
            self.consumed = mark
            if self.moved.waiting:
                self.moved.fire()
