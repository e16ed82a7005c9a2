"""Checkpoints for those who find what they ask for ready, again and again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from threading import get_ident
from typing import TYPE_CHECKING, final

import anyio
from anyio.lowlevel import current_token

from langchain_anyio._background import MOVED, Waiter, waiters

if TYPE_CHECKING:
    from anyio.abc import AsyncBackend

# A task that finds all it asks for ready gives way to others once in so many steps.
STEPS_BETWEEN_YIELDS = 64

# In so many steps it does more than to ask whether it is cancelled; a part of the above.
STEPS_CHECKED = 16


def refuse_moved(error: BaseException) -> None:
    """Say what has happened where a checkpoint or a waiter belongs to another event loop than the task.

    Args:
        error: What came of it. No other way leads to a `RuntimeError` or `TypeError`; the backends know it by
            these, each in its words.

    Raises:
        RuntimeError: In words that say what to do.
    """
    if isinstance(error, (RuntimeError, TypeError)):
        raise RuntimeError(MOVED) from error


@final
class Steps:
    """The steps of one consumer, which takes all of them on one event loop.

    anyio looks its backend up at each call, which takes as long as the checkpoint itself; here it is looked
    up once.

    Attributes:
        backend: anyio's backend, once it is looked up.
        taken: Number of steps taken.
        make_waiter: What makes the objects that the consumer waits for, once it is looked up; like the two that follow.
        loop: The event loop that the consumer runs on, as its backend names it.
        thread: The thread of that.
    """

    __slots__ = ("backend", "loop", "make_waiter", "taken", "thread")

    def __init__(self) -> None:
        self.backend: type[AsyncBackend] | None = None
        self.taken: int = 0
        self.make_waiter: Callable[[], Waiter] | None = None
        self.loop: object = None
        self.thread: int = 0

    async def take(self, *, ready: bool = True) -> None:
        """Take the next step's checkpoint.

        The first one and every 64th give way to other tasks too, or a task that reads many short projections would not.

        Args:
            ready: Whether the step will not wait; one that does gives way by that.

        Raises:
            RuntimeError: The consumer has moved to another event loop.
        """
        backend, taken = self.backend or self.look_up(), self.taken
        try:
            if not (taken % STEPS_CHECKED) and (ready or taken):
                await self.take_longer()
            else:
                self.taken = taken + 1
                await backend.checkpoint_if_cancelled()
        except Exception as exc:
            refuse_moved(exc)
            raise

    def take_longer(self) -> Awaitable[None]:
        """Return the checkpoint of the next step, which is one in `STEPS_CHECKED`, or the first."""
        backend, taken = self.backend or self.look_up(), self.taken
        self.taken = taken + 1
        if taken == STEPS_CHECKED:
            # On asyncio anyio looks a task up that has never been in a cancel scope by raising a KeyError, each
            # time; this takes longer than all the rest of a step.
            with anyio.CancelScope():  # noqa: ASYNC100 - it cancels nothing
                pass
        if taken % STEPS_BETWEEN_YIELDS:
            return backend.checkpoint_if_cancelled()
        return backend.checkpoint()

    def look_up_waiters(self) -> Callable[[], Waiter]:
        """Return what makes the objects that the consumer waits for.

        Raises:
            RuntimeError: The consumer has moved to another backend.
        """
        self.loop = self.here()
        if self.loop is None:
            raise RuntimeError(MOVED)
        self.thread = get_ident()
        self.make_waiter = waiters()
        return self.make_waiter

    def check_loop(self, loop: object) -> None:
        """Refuse to wait for what another event loop makes.

        Args:
            loop: The event loop, as its backend names it.

        Raises:
            RuntimeError: The consumer runs on another one.
        """
        if self.here() is not loop:
            raise RuntimeError(MOVED)

    def here(self) -> object:
        """Name the event loop of the caller; `None` where it runs on another backend than before."""
        try:
            return (self.backend or self.look_up()).current_token()
        except RuntimeError:
            return None

    def look_up(self) -> type[AsyncBackend]:
        """Return anyio's backend for the event loop that the consumer runs on."""
        self.backend = current_token().backend_class
        return self.backend
