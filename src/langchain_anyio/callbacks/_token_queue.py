"""Queue and events where a handler's producers and consumers meet, each on any loop and thread.

langchain-core calls the async handlers of a synchronous run on event loops of its own, one after
the other, in the thread of that run. So the state of a handler is guarded by a lock, and a waiting
task is woken through its own event loop.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from threading import RLock, get_ident
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, cast, final

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled
from typing_extensions import override

from langchain_anyio._backends.event_loops import Loop
from langchain_anyio._backends.waiters import Waiter, wait_until, waiters, wake
from langchain_anyio._primitives.event import Event
from langchain_anyio._primitives.queue import Queue, QueueStatistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


T = TypeVar("T")


class Tag(Protocol):
    """The run that an item belongs to, and through it the runs that this run is part of."""

    def outer(self) -> Iterator[Any]:
        """Yield this run and the runs that it is part of, from the inside out."""
        ...


R = TypeVar("R", bound=Tag)

# A queue may hold as many cells without a run as it has with one, and this many more.
_FEW = 64


@final
class ThreadsafeWakeup:
    """Wakes all waiting tasks, from any thread.

    A waiter joins under the lock that guards the condition it waits for.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[Waiter, tuple[int, Loop]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, waiter: Waiter, loop: Loop) -> None:
        """Register `waiter` to be woken by the next `ring()`.

        `waiter` and `loop` belong to the running event loop. If the waiter gives up before a
        `ring()`, it has to `leave()`.
        """
        self._waiting[waiter] = (get_ident(), loop)

    def leave(self, waiter: Waiter) -> None:
        """Unregister `waiter`; does nothing if it has been woken already."""
        self._waiting.pop(waiter, None)

    async def wait(self, waiter: Waiter, deadline: float | None = None) -> None:
        """Wait for the next `ring()`, or until `deadline`; `waiter` must have joined."""
        try:
            if deadline is None:
                await waiter
            else:
                await wait_until(waiter, deadline)
        except BaseException:
            self.leave(waiter)
            raise
        if deadline is not None:
            self.leave(waiter)

    def ring(self) -> None:
        """Wake all tasks that are waiting now."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, {}
        for waiter, (thread, loop) in waiting.items():
            if thread == get_ident():
                wake(waiter)
            else:
                loop.call_soon(partial(wake, waiter))


@final
class DoneEvent(Event):  # type: ignore[misc]  # final for users of the package
    """The `done` event of a handler: usable from any thread, with callbacks for set and clear."""

    __slots__ = ("_bell", "_lock", "_on_clear", "_on_set")

    def __init__(
        self, lock: RLock, on_set: Callable[[], None], on_clear: Callable[[], None]
    ) -> None:
        super().__init__()
        self._lock = lock
        self._bell = ThreadsafeWakeup()
        self._on_set = on_set
        self._on_clear = on_clear

    @override
    def set(self) -> None:
        with self._lock:
            self.mark()
            self._on_set()

    @override
    def clear(self) -> None:
        with self._lock:
            super().clear()
            self._on_clear()

    def mark(self) -> None:
        """Set the flag and wake every waiter, without calling `on_set`."""
        super().set()
        self._bell.ring()

    @override
    async def wait(self) -> Literal[True]:
        await checkpoint_if_cancelled()
        with self._lock:
            waiter = None if self.is_set() else waiters()()
            if waiter is not None:
                self._bell.join(waiter, Loop())
        if waiter is None:
            await checkpoint()
        else:
            await self._bell.wait(waiter)
        return True


@final
class TokenQueue(Queue[T], Generic[T, R]):  # type: ignore[misc]  # final for users of the package
    """The `queue` of a handler: usable from any thread, and aware of each item's run.

    The stream holds cells, each with an item and its run. When an item is moved to another queue,
    its cell stays behind without a run and is skipped; there are never many more of these than of
    the others.

    Invariants: `_cells` are the cells in the stream, of which `_used` have a run. `_index` maps
    each run to the cells up to `_last_indexed` that belong to it or to its parts, and contains all
    of them that still have a run.
    """

    __slots__ = (
        "_cells",
        "_index",
        "_last_indexed",
        "_lock",
        "_unknown",
        "ends",
        "news",
        "readers",
        "released",
        "room",
    )

    def __init__(self, max_buffer_size: float, lock: RLock, unknown: Callable[[], R]) -> None:
        super().__init__(max_buffer_size)
        self._lock = lock
        self._cells: deque[list[Any]] = deque()
        self._index: dict[R, list[list[Any]]] = {}
        self._last_indexed: list[Any] | None = None
        self._unknown = unknown
        self.news: ThreadsafeWakeup = ThreadsafeWakeup()
        self.ends: ThreadsafeWakeup = ThreadsafeWakeup()
        self.room: ThreadsafeWakeup = ThreadsafeWakeup()
        self.readers: int = 0
        """Number of iterators that read from this queue."""
        self.released: bool = False
        """True once the last iterator has left for good: no model is held back any more."""

    @property
    def first_run(self) -> R | None:
        """The run of the first item, `None` if there is none; read it with the lock held."""
        cells = self._cells
        while cells:
            run: R | None = cells[0][0]
            if run is not None:
                return run
            cells.popleft()
            self._receive.receive_nowait()
        return None

    @override
    def put_nowait(self, item: T) -> None:
        with self._lock:
            self.put_of(self._unknown(), item)

    def put_of(self, run: R, item: T) -> None:
        """Append an item that belongs to `run`, like `put_nowait()`; call it with the lock held."""
        if self._closed or not (self._used < self._max_buffer_size or self._has_room()):
            super().put_nowait(item)  # raises
        cell: Any = [run, item]
        self._send.send_nowait(cell)
        self._used += 1
        self._cells.append(cell)
        self.news.ring()

    @override
    async def put(self, item: T) -> None:
        await self._checkpoint()
        while True:
            with self._lock:
                try:
                    return self.put_nowait(item)
                except anyio.WouldBlock:
                    waiter = waiters()()
                    self.room.join(waiter, Loop())
            await self.room.wait(waiter)

    @override
    def get_nowait(self) -> T:
        with self._lock:
            return self.take()

    def take(self) -> T:
        """Remove and return the first item, like `get_nowait()`; call it with the lock held."""
        receive, cells = self._receive.receive_nowait, self._cells
        cell: Any = receive()
        while cells.popleft()[0] is None:
            cell = receive()
        self._used -= 1
        if self._index:
            cell[0] = None
            if not self._used:
                self._forget_index()
        self.room.ring()
        taken: T = cell[1]
        return taken

    @override
    async def get(self) -> T:
        await self._checkpoint()
        while True:
            with self._lock:
                try:
                    return self.get_nowait()
                except anyio.WouldBlock:
                    waiter = waiters()()
                    self.expect_news(waiter, Loop())
            await self.news.wait(waiter)

    @override
    def close(self) -> None:
        with self._lock:
            super().close()
            self.news.ring()
            self.room.ring()

    @override
    def statistics(self) -> QueueStatistics:
        return QueueStatistics(self._used, self._max_buffer_size, len(self.room), len(self.news))

    def expect_news(self, waiter: Waiter, loop: Loop) -> None:
        """Register `waiter` to be woken when there may be an item; call it with the lock held."""
        self.news.join(waiter, loop)
        # A waiting consumer makes room in a queue without a buffer.
        self.room.ring()

    def announce_end(self) -> None:
        """Wake the iterators, of which some may have ended; call it with the lock held."""
        self.news.ring()
        self.ends.ring()

    def move(self, run: R, target: TokenQueue[T, R]) -> None:
        """Move the items of `run` and of its parts to `target`, in order and whatever its size.

        The total cost of all calls is linear in the number of items that have been in the queue.
        """
        if self._closed:
            return
        self._extend_index()
        found = [cell for cell in self._index.pop(run, ()) if cell[0] is not None]
        for cell in found:
            moved = [*cell]
            target._send.send_nowait(cast("T", moved))
            target._cells.append(moved)
            cell[:] = (None, None)
        target._used += len(found)
        self._used -= len(found)
        if len(self._cells) > 2 * self._used + _FEW:
            self._drop_empty_cells()

    def _extend_index(self) -> None:
        new: list[list[Any]] = []
        for cell in reversed(self._cells):
            if cell is self._last_indexed:
                break
            new.append(cell)
        if new:
            self._last_indexed = new[0]
        for cell in reversed(new):
            if cell[0] is not None:
                for run in cell[0].outer():
                    self._index.setdefault(run, []).append(cell)

    def _drop_empty_cells(self) -> None:
        cells, self._cells = self._cells, deque()
        for cell in cells:
            kept = self._receive.receive_nowait()
            if cell[0] is not None:
                self._send.send_nowait(kept)
                self._cells.append(cell)
        self._forget_index()

    def _forget_index(self) -> None:
        self._index.clear()
        self._last_indexed = None

    @override
    def _has_room(self) -> bool:
        used, size = self._used, self._max_buffer_size
        return used < size or self.released or used < size + len(self.news)
