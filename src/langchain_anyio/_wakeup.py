"""What the primitives wait on: one anyio event for however many wait at a time."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import final

import anyio


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


@final
class Wakeup:
    """Tasks that one call wakes, all at once.

    The event is made by the first task that waits and let go when it fires or when the last task
    left, so that an object with nobody waiting belongs to no event loop and may be used on the next.
    """

    __slots__ = ("_event", "_thread", "_waiting")

    def __init__(self) -> None:
        self._event: anyio.Event | None = None
        self._thread = 0
        self._waiting = 0

    async def wait(self, make_event: Callable[[], anyio.Event] = anyio.Event) -> None:
        """Wait for the next `fire()`."""
        event = self._event
        if event is None:
            event = self._event = make_event()
            self._thread = get_ident()
            self._waiting = 0
        self._waiting += 1
        try:
            await event.wait()
        finally:
            if self._event is event:
                self._waiting -= 1
                if not self._waiting:
                    self._event = None

    def fire(self) -> None:
        """Wake all who wait now.

        Raises:
            RuntimeError: Somebody waits in another thread; nothing has happened.
        """
        event = self._event
        if event is not None:
            check_thread(self._thread)
            self._event = None
            event.set()
