"""Detection of streams that nobody can read any more."""

from __future__ import annotations

import warnings
from typing import Protocol, final


class Run(Protocol):
    """A run that is stopped when nobody can read its stream any more."""

    def dropped(self) -> bool:
        """Begin to stop; return whether this cuts the run short. May be called from any thread."""
        ...


@final
class DropGuard:
    """Liveness token shared by a stream, its projections and cursors; its finalizer stops the run.

    If this cuts the run short, a `ResourceWarning` is emitted.
    """

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    def __del__(self) -> None:
        run = getattr(self, "_run", None)  # absent if `__init__` was interrupted
        if run is not None and run.dropped():
            warnings.warn(
                "a stream of open_stream() was dropped before it was read to its end, and its run "
                "is cancelled; use it with 'async with', or close it with 'await stream.aclose()'",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
