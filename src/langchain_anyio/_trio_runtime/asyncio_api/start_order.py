"""The order in which tasks begin: that of their making, as on asyncio; trio begins those of a tick in either order."""

from __future__ import annotations

from collections import deque
from typing import final

import trio


@final
class StartOrder:
    """Tasks that begin one after the other.

    Code written for asyncio counts on it: it numbers its calls as they begin, and finds them again by their numbers.
    """

    __slots__ = ("_parked", "_to_begin")

    def __init__(self) -> None:
        self._to_begin: deque[Turn] = deque()
        self._parked: dict[Turn, trio.Event] = {}

    def make(self) -> Turn:
        """Return the next turn, which a task that is about to be started has to take."""
        turn = Turn(self)
        self._to_begin.append(turn)
        return turn


@final
class Turn:
    """A place in the order."""

    __slots__ = ("_turns",)

    def __init__(self, turns: StartOrder) -> None:
        self._turns = turns

    def is_next(self) -> bool:
        return self._turns._to_begin[0] is self

    async def come(self) -> None:
        """Wait for those before, whatever is cancelled: they begin soon."""
        with trio.CancelScope(shield=True):
            while not self.is_next():
                woken = self._turns._parked[self] = trio.Event()
                await woken.wait()

    def take(self) -> None:
        """Let the next ones begin.

        All that wait are woken, in order: where trio runs them in this order they all begin in one tick, as on asyncio,
        and in the other one of them does, and wakes the rest again.
        """
        to_begin, parked = self._turns._to_begin, self._turns._parked
        to_begin.popleft()
        if parked:
            for turn in to_begin:
                if (woken := parked.pop(turn, None)) is not None:
                    woken.set()
