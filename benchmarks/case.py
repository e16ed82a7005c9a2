"""What a case is, and how large it is."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

Side = Callable[[], Awaitable[float]]

# The tests run all cases at a hundredth of their size.
SCALE = float(os.environ.get("BENCHMARKS_SCALE", "1"))


def times(count: int) -> int:
    """Return how often to do what is done `count` times at full size."""
    return max(2, int(count * SCALE))


@dataclass(frozen=True)
class Case:
    """One claim, or what another one is to be seen beside.

    Each side is an async function that does the work once and asserts that it was done.

    Attributes:
        title: What is measured, per what.
        ours: Our side.
        target: The ratio to reach, ours to the peer's; without a peer the value itself. `None` where nothing is claimed.
        peer: The peer's side.
        peer_name: Who the peer is.
        contained: What both sides contain and is no merit or fault of either: its time is subtracted from both.
        backend: The backend of our side, and of the floor.
        peer_backend: The backend of the peer's side.
        returns: What a side returns: the number of units of work that it did, whose time is measured; or seconds or bytes
            that it has measured itself, without a run before to warm up.
        switches: The least number of task switches that a unit needs on our side: its physical floor, unless `least` is given.
        least: A side that does only what no design can do without, which is the physical floor.
        of_floor: The multiple of the physical floor to reach, in place of `target`.
        values: How often each side is measured in each of its processes; a side that is measured once has one process.
        alone: Whether a side changes the process that it runs in, and so cannot run beside others.
    """

    title: str
    ours: Side
    target: float | None
    peer: Side | None = None
    peer_name: str = ""
    contained: Side | None = None
    backend: str = "asyncio"
    peer_backend: str = "asyncio"
    returns: Literal["units", "seconds", "bytes"] = "units"
    switches: float = 0
    least: Side | None = None
    of_floor: float | None = None
    values: int = 5
    alone: bool = False

    def sides(self) -> list[tuple[str, Side, str]]:
        """Return the name, the side and the backend of each side that there is."""
        sides = (
            ("contained", self.contained, self.backend),
            ("least", self.least, self.backend),
            ("ours", self.ours, self.backend),
            ("peer", self.peer, self.peer_backend),
        )
        return [(name, side, backend) for name, side, backend in sides if side is not None]
