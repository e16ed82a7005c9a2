"""Detection of callers that a run waits for: its model, its handlers, and runs opened in them."""

from __future__ import annotations

from typing import cast, final

from langchain_anyio._backends.current import task_id
from langchain_anyio._primitives.backpressure import parts

from .stall_timer import StallTimer


@final
class Part:
    """One part of a run that is being executed: its model, or one handler call.

    Attributes:
        run: The run, compared by identity.
        task: Id of the task that executes it; `None` for a worker thread.
        timer: The run's limit on waits for its model, if it has one.
        over: Whether the call has returned. Tasks that it started may still run.
    """

    __slots__ = ("over", "run", "task", "timer")

    def __init__(self, run: object, task: int | None, timer: StallTimer | None) -> None:
        self.run: object = run
        self.task: int | None = task
        self.timer: StallTimer | None = timer
        self.over: bool = False


def own_parts() -> tuple[Part, ...]:
    """Return the parts that the calling task executes, outermost first.

    There can be several, because a handler or a model may open a stream itself. A task that one of
    them has started executes none.
    """
    own = cast("tuple[Part, ...]", parts.get())
    return own if own and not own[-1].over and own[-1].task in (None, task_id()) else ()


def is_within(run: object) -> bool:
    """Return whether `run` waits for the caller.

    The caller is then its model, one of its handlers, or a part of a run opened within these.
    """
    for part in reversed(own_parts()):
        if part.over:
            break  # whoever opened the inner run no longer waits for it
        if part.run is run:
            return True
    return False
