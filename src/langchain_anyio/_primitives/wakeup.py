"""What the primitives wait on: any number of tasks that one call wakes."""

from __future__ import annotations

from threading import get_ident
from typing import final

from langchain_anyio._background import Waiter

from .checkpoints import Steps


def check_thread(thread: int) -> None:
    """Refuse to wake a task of another thread: its event loop would not notice, or be corrupted.

    Raises:
        RuntimeError: The current thread is not `thread`.
    """
    if thread != get_ident():
        raise RuntimeError(
            "a task that waits can only be woken from the thread of its event loop; "
            "from another thread call anyio.from_thread.run_sync()"
        )


_NOBODY: dict[Waiter, None] = {}


@final
class Wakeup:
    """Tasks that one call wakes, all at once.

    An object with nobody waiting belongs to no event loop and may be used on the next.

    Attributes:
        waiting: Those whom the next `fire()` wakes, in the order in which they came.
    """

    __slots__ = ("_thread", "waiting")

    def __init__(self) -> None:
        self._thread = 0
        # A stream has a dozen of these, of which one or two are ever waited for.
        self.waiting: dict[Waiter, None] = _NOBODY

    async def wait(self) -> None:
        """Wait for the next `fire()`."""
        waiter = self.join(Steps())
        try:
            await waiter
        except BaseException:
            self.leave(waiter)
            raise

    def join(self, steps: Steps) -> Waiter:
        """Return a waiter that the next `fire()` wakes, for the caller to await.

        Does what `wait()` does, two coroutines less deep. A caller that is interrupted calls `leave()`.

        Args:
            steps: The checkpoints of the consumer that waits.

        Raises:
            RuntimeError: A task of another thread waits.
        """
        make_waiter = steps.make_waiter or steps.look_up_waiters()
        waiting = self.waiting
        if not waiting:
            waiting = self.waiting = {}
            self._thread = steps.thread
        elif self._thread != steps.thread:
            raise RuntimeError(
                "tasks of another thread wait for this; all that wait at a time run on one event loop"
            )
        waiter = make_waiter()
        waiting[waiter] = None
        return waiter

    def leave(self, waiter: Waiter) -> bool:
        """Wait no longer; return whether nobody has fired."""
        waiting = self.waiting
        if waiting and waiter in waiting:
            del waiting[waiter]
            return True
        return False

    def fire(self) -> None:
        """Wake all who wait now.

        Raises:
            RuntimeError: Somebody waits in another thread; nothing has happened.
        """
        waiting = self.waiting
        if waiting:
            check_thread(self._thread)
            self.waiting = _NOBODY
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)
