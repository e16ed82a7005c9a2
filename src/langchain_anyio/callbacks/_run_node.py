"""The runs that a handler sees, and the groups that they form."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final, NoReturn, final
from uuid import UUID

from langchain_anyio._errors import StreamCancelledError
from langchain_anyio._primitives.projection import shareable_error

from ._token_queue import TokenQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from langchain_anyio._langchain_core import Caller

UNKNOWN: Final = UUID(int=0)
"""Id of the run of text that came without one, as from a subclass that puts into `queue` itself."""


@final
class RunGroup:
    """A group of outermost runs that overlap: the unit that one plain iteration reads.

    A group begins with the start of an outermost run and ends when no outermost run is open.

    Attributes:
        number: The number of the group in its handler.
        open: Number of outermost runs that have not ended.
        unread: Number of outermost runs whose end no `aiter(run_id=...)` iterator has reached yet.
        ended: Whether the last outermost run has ended.
        error: The error of the first outermost run that failed.
        unknown: The run of text that comes without a run while this group is current.
    """

    __slots__ = ("ended", "error", "number", "open", "unknown", "unread")

    def __init__(self, number: int) -> None:
        self.number: int = number
        self.open: int = 0
        self.unread: int = 0
        self.ended: bool = False
        self.error: Failure | None = None
        self.unknown: RunNode = RunNode(UNKNOWN, self)

    def gives(self, run: RunNode, /) -> bool:
        """Return whether an iteration over this group takes the tokens of `run`.

        It also takes those that were left over in earlier groups.
        """
        return run.span is not None and run.span.number <= self.number


@final
class Failure:
    """An error with its original traceback, which can be raised any number of times."""

    __slots__ = ("_error", "_traceback")

    def __init__(self, error: BaseException) -> None:
        # A generator that is closed is a cancelled run.
        if isinstance(error, GeneratorExit):
            error = StreamCancelledError()
        self._error = shareable_error(error)
        self._traceback = self._error.__traceback__

    def throw(self) -> NoReturn:
        """Raise the error."""
        raise self._error.with_traceback(self._traceback)


@final
class RunNode:
    """One run of a model, a chain, a tool or a retriever.

    Attributes:
        id: The id of the run.
        span: The group that it belongs to; `None` for a run that is waited for and has not started.
        parent: The run that it is part of, as far as the handler has seen it.
        root: The outermost run that it is part of.
        open_parts: Of an outermost run, its parts that have not ended, in the order of their
            starts.
        queue: The queue of its tokens and those of its parts; `None` if they go to its parent's.
        ended: Whether it has ended.
        error: The error that ended it, if any.
        cut_off: Whether it has ended without reporting it. Text that it still emits is dropped.
        call: The call that runs it, while it is open, if the call is watched.
        task: The asyncio task that is watched because its end may be that of the run.
        runner: The id of the task that runs its coroutine to the end, while it is open, if known.
    """

    __slots__ = (
        "__weakref__",
        "_ahead",
        "_speaks",
        "call",
        "cut_off",
        "ended",
        "error",
        "id",
        "open_parts",
        "parent",
        "queue",
        "root",
        "runner",
        "span",
        "task",
    )

    def __init__(self, id: UUID | None, span: RunGroup | None = None) -> None:
        self.id: UUID = id or UNKNOWN
        self.span: RunGroup | None = span
        self.parent: RunNode | None = None
        self.root: RunNode = self
        self.open_parts: dict[RunNode, None] = {}
        self.queue: TokenQueue[str, RunNode] | None = None
        self.ended: bool = False
        self.error: Failure | None = None
        self.cut_off: bool = False
        self._speaks = False
        self._ahead = 0
        self.call: weakref.ref[object] | None = None
        self.task: Any = None
        self.runner: int | None = None

    def gives(self, _run: RunNode, /) -> bool:
        """Return `True`: an iteration over the queue of this run takes every token in it."""
        return True

    def outer(self) -> Iterator[RunNode]:
        """Yield this run and the runs that it is part of, from the inside out."""
        run: RunNode | None = self
        while run is not None:
            yield run
            run = run.parent

    # The same text may arrive in two ways: as the tokens that the model reports, before or after it
    # yields them, and as the events of what it yielded.

    def new_from_token(self, text: str) -> str:
        """Return the part of a reported token that has not arrived in an event."""
        if text:
            self._speaks = True
            if self._ahead:
                skipped = min(self._ahead, len(text))
                self._ahead -= skipped
                return text[skipped:]
        return text

    def new_from_event(self, text: str) -> str:
        """Return the text of an event, or "" if the model reports its tokens."""
        if self._speaks:
            return ""
        self._ahead += len(text)
        return text

    # langchain-core does not report the end of a call that was cut off before every handler had
    # seen its start, nor that of a model, a tool or a retriever that was called directly.

    def watch_call(self, caller: Caller, cut_off: Callable[[], object]) -> None:
        """Call `cut_off` when the call is over.

        This may happen in any thread, in the middle of any other code.
        """
        self.call = weakref.ref(caller.token, lambda _: cut_off())

    def unwatch_call(self) -> None:
        """Stop watching the call."""
        self.call = None
