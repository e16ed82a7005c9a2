"""Checkpoints for those who find what they ask for ready, again and again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, final

from anyio.lowlevel import current_token

from ._background import Waiter, waiters

if TYPE_CHECKING:
    from anyio.abc import AsyncBackend

# A task that finds all it asks for ready gives way to others once in so many steps.
STEPS_BETWEEN_YIELDS = 64

MOVED = (
    "a consumer runs on another event loop than what it reads; consume it where it began, or hand what it "
    "gives over with anyio.from_thread"
)


@final
class Steps:
    """The steps of one consumer, which takes all of them on one event loop.

    anyio looks its backend up at each call, which takes as long as the checkpoint itself; here it is looked
    up once.

    Attributes:
        taken: Number of steps taken. The first gives way, or a task that reads many short projections would not.
        check: A checkpoint that does not give way; for the steps after the first.
    """

    __slots__ = ("_backend", "_make_waiter", "check", "taken")

    check: Callable[[], Awaitable[None]]

    def __init__(self) -> None:
        self._backend: type[AsyncBackend] | None = None
        self._make_waiter: Callable[[], Waiter] | None = None
        self.taken: int = 0

    def take(self) -> Awaitable[None]:
        """Return a checkpoint; the first one and every 64th give way to other tasks too."""
        taken = self.taken
        self.taken = taken + 1
        return self.check() if taken % STEPS_BETWEEN_YIELDS else self.give_way()

    def give_way(self) -> Awaitable[None]:
        """Return a checkpoint that gives way to other tasks."""
        return (self._backend or self._look_up()).checkpoint()

    @property
    def make_waiter(self) -> Callable[[], Waiter]:
        """What makes the objects that the consumer waits for."""
        if self._make_waiter is None:
            self._make_waiter = waiters()
        return self._make_waiter

    def check_loop(self, loop: object) -> None:
        """Refuse to wait for what another event loop makes.

        Args:
            loop: The event loop, as its backend names it.

        Raises:
            RuntimeError: The consumer runs on another one.
        """
        try:
            here = (self._backend or self._look_up()).current_token()
        except RuntimeError:  # it has moved to the other backend
            here = None
        if here is not loop:
            raise RuntimeError(MOVED)

    def _look_up(self) -> type[AsyncBackend]:
        backend = self._backend = current_token().backend_class
        self.check = backend.checkpoint_if_cancelled
        return backend
