"""Park any number of tasks and wake them all with one call."""

from __future__ import annotations

from threading import get_ident
from typing import final

from langchain_anyio._backends.waiters import Waiter

from .checkpoints import ConsumerCheckpoints


def check_thread(thread: int) -> None:
    """Raise before waking a task of another thread, whose event loop could miss it or be corrupted.

    Raises:
        RuntimeError: The current thread is not `thread`.
    """
    if thread != get_ident():
        raise RuntimeError(
            "a waiting task can only be woken from the thread of its event loop; "
            "from another thread, use anyio.from_thread.run_sync()"
        )


_NO_WAITERS: dict[Waiter, None] = {}


@final
class Wakeup:
    """A set of waiting tasks, all woken by one call.

    While no task waits, a wakeup belongs to no event loop and can be used on another one.

    Attributes:
        waiting: Waiters that the next `fire()` wakes, in order of arrival.
    """

    __slots__ = ("_thread", "waiting")

    def __init__(self) -> None:
        self._thread = 0
        # A stream has a dozen wakeups, but tasks wait for only one or two of them.
        self.waiting: dict[Waiter, None] = _NO_WAITERS

    async def wait(self) -> None:
        """Wait for the next `fire()`."""
        waiter = self.join(ConsumerCheckpoints())
        try:
            await waiter
        except BaseException:
            self.leave(waiter)
            raise

    def join(self, steps: ConsumerCheckpoints) -> Waiter:
        """Return a waiter that the next `fire()` wakes, for the caller to await.

        Saves the two nested coroutines of `wait()`. If awaiting raises, the caller calls `leave()`.

        Args:
            steps: The checkpoints of the waiting consumer.

        Raises:
            RuntimeError: Tasks of another thread wait.
        """
        make_waiter = steps.make_waiter or steps.look_up_waiters()
        waiting = self.waiting
        if not waiting:
            waiting = self.waiting = {}
            self._thread = steps.thread
        elif self._thread != steps.thread:
            raise RuntimeError(
                "tasks of another thread wait for this object; "
                "all tasks that wait at the same time must run on one event loop"
            )
        waiter = make_waiter()
        waiting[waiter] = None
        return waiter

    def leave(self, waiter: Waiter) -> bool:
        """Remove a waiter; return whether it was still waiting."""
        waiting = self.waiting
        if waiting and waiter in waiting:
            del waiting[waiter]
            return True
        return False

    def fire(self) -> None:
        """Wake all tasks that wait now.

        Raises:
            RuntimeError: Tasks of another thread wait. None has been woken.
        """
        waiting = self.waiting
        if waiting:
            check_thread(self._thread)
            self.waiting = _NO_WAITERS
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)
