"""The tree of runs that a handler sees: how they nest, what they emitted, how they ended."""

from __future__ import annotations

import math
import weakref
from collections import OrderedDict, deque
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, NoReturn, final
from uuid import UUID
from weakref import WeakValueDictionary

from langchain_anyio._backends.current import current_task, task_id
from langchain_anyio._backends.event_loops import from_finalizer
from langchain_anyio._errors import StreamCancelledError
from langchain_anyio._langchain_core import current_caller, frames_of_current_task
from langchain_anyio._primitives.projection import shareable_error

from ._token_queue import DoneEvent, TokenQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from langchain_anyio._langchain_core import Caller

UNKNOWN: Final = UUID(int=0)
"""Id of the run of text that came without one, as from a subclass that puts into `queue` itself."""

# Number of ended and fully read runs to remember; asking for their tokens again is not an error.
REMEMBERED = 1024


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


@final
class RunTree:
    """All runs that one handler sees, and the queues that their tokens go to.

    All methods are synchronous and take the lock.
    """

    __slots__ = (
        "_by_hand",
        "_claimed",
        "_cut_off",
        "_ended_alone",
        "_frames",
        "_known",
        "_max_buffer_size",
        "_open",
        "_recent",
        "_span",
        "_spans",
        "_tasks",
        "done",
        "hands",
        "lock",
        "queue",
    )

    def __init__(self, max_buffer_size: float = math.inf) -> None:
        self.lock: RLock = RLock()
        self._max_buffer_size = max_buffer_size
        self.queue: TokenQueue[str, RunNode] = self._new_queue()
        self.done: DoneEvent = DoneEvent(self.lock, self._set_by_hand, self._cleared_by_hand)
        self.hands: int = 0
        """Number of times that `done` was set by hand."""
        self._by_hand = False
        self._ended_alone = False
        self._open: dict[UUID, RunNode] = {}
        self._known: WeakValueDictionary[UUID, RunNode] = WeakValueDictionary()
        self._claimed: weakref.WeakSet[RunNode] = weakref.WeakSet()
        self._recent: deque[RunNode] = deque(maxlen=REMEMBERED)
        # Filled by finalizers, which may run while this thread holds the lock.
        self._cut_off: deque[RunNode] = deque()
        # Open runs by the asyncio task whose end may be theirs. The flag says whether any end of
        # the task ends the run, or only a cancellation.
        self._tasks: dict[Any, dict[RunNode, bool]] = {}
        # By task, the open runs of coroutines that it runs to the end, and the frames of these.
        self._frames: dict[int, dict[RunNode, int]] = {}
        # The groups that no plain iteration has read to the end, by number.
        self._spans: OrderedDict[int, RunGroup] = OrderedDict()
        self._open_span(0)

    def _new_queue(self) -> TokenQueue[str, RunNode]:
        return TokenQueue(self._max_buffer_size, self.lock, lambda: self._span.unknown)

    def _open_span(self, number: int) -> None:
        self._span: RunGroup = RunGroup(number)  # the next outermost run joins it
        self._spans[number] = self._span

    # Starts and ends of runs

    def start(self, run_id: UUID | None, parent_id: UUID | None) -> RunNode:
        """Record that a run has started, and return it."""
        run_id = run_id or UNKNOWN
        with self.lock:
            self.settle()
            run = self._known.get(run_id)
            if run is None or run.span is not None:
                run = RunNode(run_id, None)
                self._known[run_id] = run
            if parent_id is not None:
                run.parent = self._open.get(parent_id)
                known = None if run.parent else self._known.get(parent_id)
                if known is not None and known.cut_off:
                    # Started by a worker thread that goes on after its call is over.
                    run.parent, run.span, run.root = known, known.span, known.root
                    run.ended = run.cut_off = True
                    self._recent.append(run)
                    return run
            if run.parent is None:
                run.span = self._span
                run.span.open += 1
                run.span.unread += 1
                self.done.clear()
            else:
                run.span = run.parent.span
                run.root = run.parent.root
                run.root.open_parts[run] = None
            self._open[run_id] = run
            return run

    def get(self, run_id: UUID | None, parent_id: UUID | None) -> RunNode:
        """Return an open run or one that was cut off; one whose start was missed starts now."""
        run = self._open.get(run_id or UNKNOWN)
        if run is None:
            run = self._known.get(run_id or UNKNOWN)
            if run is None or not run.cut_off:
                run = self.start(run_id, parent_id)
        return run

    def find(self, run_id: UUID | None) -> RunNode | None:
        """Return an open run, or `None` if there is none with this id."""
        return self._open.get(run_id or UNKNOWN)

    def end(
        self, run_id: UUID | None, parent_id: UUID | None, error: BaseException | None = None
    ) -> None:
        """Record that a run has ended; only the first end counts."""
        with self.lock:
            known = self._known.get(run_id or UNKNOWN)
            if known is None or not known.ended:
                self._end(self.get(run_id, parent_id), error)

    def begin(self, run_id: UUID | None, parent_id: UUID | None, *, alone: bool) -> None:
        """Record that a run starts in the current task, and watch for an end that nothing reports.

        Args:
            run_id: The id of the run.
            parent_id: The id of the run that it is part of.
            alone: Whether it is a model, a tool or a retriever, whose cancellation may not be
                reported.
        """
        caller = None if run_id is None else current_caller(run_id)
        if caller is not None and caller.frame is not None:
            self._end_returned()
        run = self.start(run_id, parent_id)
        if run.ended:
            return
        if caller is None:
            if alone:
                self._watch_task(run)
            return
        cut_off, call_soon = self._cut_off, from_finalizer()

        def over() -> None:
            cut_off.append(run)
            call_soon(self.settle)

        run.watch_call(caller, over)
        if caller.frame is not None:
            self._watch_task(run, whole=True)
            with self.lock:
                run.runner = task_id()
                self._frames.setdefault(run.runner, {})[run] = caller.frame

    def follow(self, run: RunNode) -> None:
        """Record that the current task now runs `run`, unless its call is watched."""
        if run.call is None:
            self._watch_task(run)

    def _watch_task(self, run: RunNode, *, whole: bool = False) -> None:
        """Treat a cancellation of the current asyncio task as that of the run.

        If the task runs the `whole` run, any end of the task counts.
        """
        task: Any = current_task()
        if task is None or task is run.task or run.ended:
            return
        with self.lock:
            self._unwatch_task(run)
            run.task = task
            # One callback for all runs, because removing a callback takes time linear in their
            # number.
            runs = self._tasks.get(task)
            if runs is None:
                runs = self._tasks[task] = {}
                task.add_done_callback(self._task_ended)
            runs[run] = whole

    def _unwatch(self, run: RunNode) -> None:
        run.unwatch_call()
        if run.task is not None:
            self._unwatch_task(run)
        if run.runner is not None:
            frames = self._frames[run.runner]
            del frames[run]
            if not frames:
                del self._frames[run.runner]
            run.runner = None

    def _unwatch_task(self, run: RunNode) -> None:
        task, run.task = run.task, None
        runs = self._tasks.get(task)
        if runs is not None and runs.pop(run, None) is not None and not runs:
            del self._tasks[task]
            task.remove_done_callback(self._task_ended)

    def _task_ended(self, task: Any) -> None:
        with self.lock:
            for run, whole in self._tasks.pop(task, {}).items():
                run.task = None
                if whole or task.cancelled():
                    self.cancel(run)

    def _end_returned(self) -> None:
        # Keeping the traceback of an error also keeps the objects of its call alive, so the call
        # may not be seen to end. But a coroutine that is not on the stack of the task that runs it,
        # while that task runs, has returned.
        with self.lock:
            frames = self._frames.get(task_id())
            if frames:
                on_stack = frames_of_current_task()
                for run in [run for run, frame in frames.items() if frame not in on_stack]:
                    self.cancel(run)

    def cancel(self, run: RunNode) -> None:
        """Record that a run was cut off, unless it is known to have ended."""
        with self.lock:
            if not run.ended:
                self._cancel(run)

    def _cancel(self, run: RunNode) -> None:
        run.cut_off = run.id != UNKNOWN
        self._end(run, StreamCancelledError())
        # A worker thread that goes on must not wait for room.
        self.queue_of(run).room.ring()

    def settle(self) -> None:
        """End the runs that finalizers have found to be cut off."""
        if self._cut_off:
            with self.lock:
                while self._cut_off:
                    self.cancel(self._cut_off.popleft())

    def _end(self, run: RunNode, error: BaseException | None) -> None:
        self._unwatch(run)
        run.ended = True
        run.error = None if error is None else Failure(error)
        self._recent.append(run)
        if self._open.get(run.id) is run:
            del self._open[run.id]
        run.root.open_parts.pop(run, None)
        if run.queue is not None:
            run.queue.news.ring()
        if run.parent is None and run.span is not None:
            span = run.span
            span.open -= 1
            span.error = span.error or run.error
            # Parts that have not reported their end will not do so any more.
            for inner in [*run.open_parts]:
                inner.cut_off = run.cut_off
                self._end(inner, error)
            if not span.open:
                self._end_span(span)

    def _end_span(self, span: RunGroup) -> None:
        span.ended = True
        if span is self._span:
            self._open_span(span.number + 1)
            self._ended_alone = True
            self.done.mark()
        self.queue.news.ring()

    # `done` set and cleared by hand

    def _set_by_hand(self) -> None:
        self.hands += 1
        span = self._span
        if span.open or not self._ended_alone:
            self._by_hand = True
        # Code that sets `done` after each run means the run that has just ended, not the next one.
        self._ended_alone = False
        for queue in self._queues():
            # Iterations end now, and no model is held back for them.
            queue.released = queue.released or bool(self._open)
            queue.news.ring()
            queue.room.ring()

    def _cleared_by_hand(self) -> None:
        self._by_hand = self._ended_alone = False

    def _queues(self) -> list[TokenQueue[str, RunNode]]:
        return [self.queue, *(run.queue for run in self._claimed if run.queue is not None)]

    # Reading

    def queue_of(self, run: RunNode) -> TokenQueue[str, RunNode]:
        """Return the queue that the tokens of `run` go to."""
        inner: RunNode | None = run
        while inner is not None:
            if inner.queue is not None:
                return inner.queue
            inner = inner.parent
        return self.queue

    def claim(self, run_id: UUID) -> RunNode:
        """Give the tokens of a run and of all its parts a queue of their own; return the run."""
        with self.lock:
            run = self._known.get(run_id)
            if run is None:
                run = self._known[run_id] = RunNode(run_id, None)
            if run.queue is None:
                source = self.queue_of(run)
                queue = self._new_queue()
                source.move(run, queue)
                run.queue = queue
                self._claimed.add(run)
                # Its tokens that wait for room in the one queue have it in the other.
                source.room.ring()
            return run

    def next_span(self) -> RunGroup:
        """Return the group that an iteration beginning now reads."""
        return next(iter(self._spans.values()))

    def is_by_hand(self, hands: int) -> bool:
        """Return whether `done` was set by hand for an iteration that began at count `hands`."""
        return self._by_hand or self.hands != hands

    def read_span(self, span: RunGroup) -> None:
        """Record that an iteration has reached the end of `span`."""
        self._by_hand = False
        self._forget_span(span)

    def _forget_span(self, span: RunGroup) -> None:
        if self._spans.pop(span.number, None) is not None and not self._spans:
            self._open_span(span.number + 1)

    def read_run(self, run: RunNode) -> None:
        """Record that an iteration over the tokens of `run` alone has reached its end."""
        if run.queue is None or run.span is None or not run.ended:
            return
        run.queue = None
        self._claimed.discard(run)
        if run.parent is None:
            run.span.unread -= 1
            if run.span.ended and not run.span.unread:
                self._forget_span(run.span)


def text_of(token: str | list[Any]) -> str:
    """Return the text in a token, which may be a list of content blocks."""
    if isinstance(token, str):
        return token
    return "".join(
        part if isinstance(part, str) else part.get("text") or ""
        for part in token
        if isinstance(part, str) or part.get("type", "text") == "text"
    )


def text_in(event: Any) -> str:
    """Return the text in an event of the content-block protocol."""
    if event.get("event") == "content-block-delta":
        delta = event.get("delta") or {}
        if delta.get("type") == "text-delta":
            return delta.get("text") or ""
    return ""
