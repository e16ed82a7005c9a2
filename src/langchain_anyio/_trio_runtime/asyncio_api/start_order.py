"""Make tasks begin in the order in which they were created, as on asyncio.

trio begins the tasks of one tick in either order.
"""

from __future__ import annotations

from collections import deque
from typing import final

import trio


@final
class StartOrder:
    """The order of tasks that begin one after the other.

    Code written for asyncio relies on this order: it numbers its calls as they begin, and finds
    them again by their numbers.
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
    """A task's place in the start order."""

    __slots__ = ("_turns",)

    def __init__(self, turns: StartOrder) -> None:
        self._turns = turns

    def is_next(self) -> bool:
        return self._turns._to_begin[0] is self

    async def come(self) -> None:
        """Wait for the turns before this one, whatever is cancelled: they come soon."""
        with trio.CancelScope(shield=True):
            while not self.is_next():
                woken = self._turns._parked[self] = trio.Event()
                await woken.wait()

    def take(self) -> None:
        """Take this turn, and let the next tasks begin.

        All waiting tasks are woken, in order. Where trio runs them in this order, they all begin in
        one tick, as on asyncio. In the reverse order one of them begins, and wakes the rest again.
        """
        to_begin, parked = self._turns._to_begin, self._turns._parked
        to_begin.popleft()
        if parked:
            for turn in to_begin:
                if (woken := parked.pop(turn, None)) is not None:
                    woken.set()
