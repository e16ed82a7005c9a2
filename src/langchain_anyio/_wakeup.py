"""What the primitives wait on: one anyio event for however many wait at a time."""

from __future__ import annotations

from typing import final

import anyio


@final
class Wakeup:
    """Tasks that one call wakes, all at once.

    The event is made by the first task that waits and let go when it fires or when the last task
    left, so that an object with nobody waiting belongs to no event loop and may be used on the next.
    """

    __slots__ = ("_event", "_waiting")

    def __init__(self) -> None:
        self._event: anyio.Event | None = None
        self._waiting = 0

    async def wait(self) -> None:
        """Wait for the next `fire()`."""
        event = self._event
        if event is None:
            event = self._event = anyio.Event()
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
        """Wake all who wait now."""
        event = self._event
        if event is not None:
            self._event = None
            event.set()
