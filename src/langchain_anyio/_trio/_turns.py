"""The order in which tasks begin: that of their making, as on asyncio; trio begins those of a tick in either order."""

from __future__ import annotations

from collections import deque
from typing import final

import trio


@final
class Turns:
    """Tasks that begin one after the other.

    Code written for asyncio counts on it: it numbers its calls as they begin, and finds them again by their numbers.
    """

    __slots__ = ("_to_begin",)

    def __init__(self) -> None:
        self._to_begin: deque[Turn] = deque()

    def make(self) -> Turn:
        """Return the next turn, which a task that is about to be started has to take."""
        turn = Turn(self._to_begin)
        self._to_begin.append(turn)
        return turn


@final
class Turn:
    """A place in the order."""

    __slots__ = ("_to_begin", "_waiting")

    def __init__(self, to_begin: deque[Turn]) -> None:
        self._to_begin = to_begin
        self._waiting: trio.Event | None = None

    def is_next(self) -> bool:
        return self._to_begin[0] is self

    async def come(self) -> None:
        """Wait for those before, whatever is cancelled: they begin in the same tick."""
        self._waiting = trio.Event()
        with trio.CancelScope(shield=True):
            await self._waiting.wait()

    def take(self) -> None:
        """Let the next one begin."""
        to_begin = self._to_begin
        to_begin.popleft()
        if to_begin and (waiting := to_begin[0]._waiting) is not None:
            waiting.set()
