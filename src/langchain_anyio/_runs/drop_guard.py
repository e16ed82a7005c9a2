"""What notices that nobody can read a stream any more."""

from __future__ import annotations

import warnings
from typing import Protocol, final


class Run(Protocol):
    """What is stopped then."""

    def dropped(self) -> bool:
        """Begin to stop, called from any thread; return whether that cuts the run short."""
        ...


@final
class DropGuard:
    """What everything that can read a stream refers to: when it goes, nobody can."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    def __del__(self) -> None:
        run = getattr(self, "_run", None)  # none if it was interrupted as it was made
        if run is not None and run.dropped():
            warnings.warn(
                "a stream of open_stream() was dropped before it was read to its end, and its run is "
                "cancelled; use it with 'async with', or close it with 'await stream.aclose()'",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
