"""The tree of runs that a handler sees: how they nest, what they emitted, how they ended."""

from __future__ import annotations

import math
import weakref
from collections import OrderedDict, deque
from threading import RLock
from typing import TYPE_CHECKING, Any, final
from uuid import UUID
from weakref import WeakValueDictionary

from langchain_anyio._backends.event_loops import from_finalizer
from langchain_anyio._errors import StreamCancelledError
from langchain_anyio._langchain_core import current_caller

from ._run_node import UNKNOWN, Failure, RunGroup, RunNode
from ._task_watch import TaskWatch
from ._token_queue import DoneEvent, TokenQueue

if TYPE_CHECKING:
    pass

# Number of ended and fully read runs to remember; asking for their tokens again is not an error.
REMEMBERED = 1024


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
        self._tasks = TaskWatch(self.lock, self.cancel)
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
            self._tasks.cancel_returned()
        run = self.start(run_id, parent_id)
        if run.ended:
            return
        if caller is None:
            if alone:
                self._tasks.watch(run)
            return
        cut_off, call_soon = self._cut_off, from_finalizer()

        def over() -> None:
            cut_off.append(run)
            call_soon(self.settle)

        run.watch_call(caller, over)
        if caller.frame is not None:
            self._tasks.watch_coroutine(run, caller.frame)

    def follow(self, run: RunNode) -> None:
        """Record that the current task now runs `run`, unless its call is watched."""
        if run.call is None:
            self._tasks.watch(run)

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
        run.unwatch_call()
        self._tasks.unwatch(run)
        run.ended = True
        run.error = None if error is None else Failure(error)
        self._recent.append(run)
        if self._open.get(run.id) is run:
            del self._open[run.id]
        run.root.open_parts.pop(run, None)
        if run.queue is not None:
            run.queue.announce_end()
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
        self.queue.announce_end()

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
            queue.announce_end()
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
