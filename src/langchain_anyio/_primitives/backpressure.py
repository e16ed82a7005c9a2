"""Backpressure: how far a producer may run ahead of its consumers."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import final

from langchain_anyio._backends.waiters import MOVED

from .checkpoints import ConsumerCheckpoints
from .wakeup import Wakeup

# The parts of runs that the current task executes, outermost first: a run waits for its parts, so
# they must not wait for the run. Empty in all other tasks.
parts: ContextVar[tuple[object, ...]] = ContextVar("langchain_anyio_parts", default=())


def _allow_every_waiter() -> None:
    pass


@final
class Backpressure:
    """The positions of one producer and of its furthest consumer, counted in events.

    Attributes:
        produced: Number of events produced so far.
        consumed: Number of events that the furthest consumer is past.
        awaiting_final: Number of consumers that wait for a final value.
        read_elsewhere: Whether the producer is read in another way, and so is not held back while
            no cursor has been opened.
        delta_wakeups: Wakeups of the consumers that have read everything and wait for more.
        shared: Whether any cursor was ever opened.
        loop: Token of the event loop that the producer runs on; `None` while unknown.
        check_waiter: Raises `RuntimeError` if the producer itself waits for the calling task.
            Called only for tasks that have `parts`.
        producer_wakeup: Where the producer waits for room, or for a consumer to wait for it.
    """

    __slots__ = (
        "awaiting_final",
        "check_waiter",
        "consumed",
        "delta_wakeups",
        "loop",
        "produced",
        "producer_wakeup",
        "read_elsewhere",
        "shared",
    )

    def __init__(self) -> None:
        self.produced: int = 0
        self.consumed: int = 0
        self.awaiting_final: int = 0
        self.read_elsewhere: bool = False
        self.delta_wakeups: list[Wakeup] = []
        self.shared: bool = False
        self.loop: object = None
        self.check_waiter: Callable[[], None] = _allow_every_waiter
        self.producer_wakeup: Wakeup = Wakeup()

    def note_waiting(self, steps: ConsumerCheckpoints) -> None:
        """Let the producer continue, because a consumer is about to wait for more.

        Raises:
            RuntimeError: The producer runs on another event loop, or waits for the consumer.
        """
        if self.loop is not None:
            if steps.make_waiter is None:
                steps.look_up_waiters()
            self.check_consumer(steps.loop)
        if self.producer_wakeup.waiting:
            self.producer_wakeup.fire()

    def check_reader(self) -> None:
        """Raise if an iteration begins on another event loop than the producer's.

        Raises:
            RuntimeError: The producer runs on another event loop.
        """
        if self.loop is not None:
            loop = ConsumerCheckpoints().current_loop()
            if loop is not None and loop is not self.loop:
                raise RuntimeError(MOVED)

    def check_consumer(self, loop: object) -> None:
        """Raise if a consumer that is about to wait would never be woken.

        Args:
            loop: Token of the event loop that the consumer runs on.

        Raises:
            RuntimeError: The producer runs on another event loop, or waits for the consumer.
        """
        if self.loop is not None:
            if self.loop is not loop:
                raise RuntimeError(MOVED)
            if parts.get():
                self.check_waiter()

    @property
    def at_head(self) -> bool:
        """True if a consumer waits for the next event, so that the producer is not ahead."""
        return (
            self.awaiting_final > 0
            or any(wakeup.waiting for wakeup in self.delta_wakeups)
            or (self.read_elsewhere and not self.shared)
        )

    def has_room(self, limit: float) -> bool:
        """Return whether one more event leaves the producer at most `limit` events ahead."""
        return self.produced - self.consumed < limit or self.at_head

    async def wait_for_room(self, limit: float) -> None:
        """Wait until `has_room(limit)`; not a checkpoint if there is room already."""
        while not self.has_room(limit):
            await self.producer_wakeup.wait()

    def pass_by(self, mark: int) -> None:
        """Record that a consumer is past event number `mark`, counted from 1."""
        if mark > self.consumed:
            self.consumed = mark
            if self.producer_wakeup.waiting:
                self.producer_wakeup.fire()
