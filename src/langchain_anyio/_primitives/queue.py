"""`Queue`, the port of `asyncio.Queue` on an anyio memory object stream."""

from __future__ import annotations

import math
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from threading import get_ident
from typing import Generic, TypeVar, final

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from typing_extensions import Self

from langchain_anyio._background import waiters, wake

from .checkpoints import STEPS_BETWEEN_YIELDS
from .wakeup import check_thread

T = TypeVar("T")


@final
@dataclass(frozen=True)
class QueueStatistics:
    """What a `Queue` holds and who waits for it.

    Attributes:
        current_buffer_used: Number of items in the queue.
        max_buffer_size: Number of items it takes before `put()` waits.
        tasks_waiting_put: Number of tasks that wait in `put()`.
        tasks_waiting_get: Number of tasks that wait in `get()` or in an `async for`.
    """

    current_buffer_used: int
    max_buffer_size: float
    tasks_waiting_put: int
    tasks_waiting_get: int


class _Line:
    """Tasks that wait in the order they came. The first is called; leaving, it calls the next."""

    __slots__ = ("_places",)

    def __init__(self) -> None:
        self._places: OrderedDict[_Place, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    def call_first(self) -> None:
        if self._places:
            next(iter(self._places)).call()

    def join(self) -> _Place:
        return _Place(self._places)


class _Place:
    """One task's place in a line, kept until it leaves it."""

    __slots__ = ("_line", "_make_turn", "_thread", "_turn")

    def __init__(self, line: OrderedDict[_Place, None]) -> None:
        self._line = line
        self._make_turn = waiters()
        self._turn = self._make_turn()
        self._thread = get_ident()
        line[self] = None

    def call(self) -> None:
        check_thread(self._thread)
        wake(self._turn)

    async def wait(self) -> None:
        """Wait to be called; called in vain, wait again in the same place."""
        if self._turn.done():
            self._turn = self._make_turn()
        await self._turn

    def leave(self) -> None:
        del self._line[self]


@final
class Queue(Generic[T]):
    """A first-in, first-out queue between any number of producers and consumers.

    An item is in the queue exactly once from the moment that `put()` returns until the moment that
    `get()` returns it: a `put()` that is cancelled has put nothing and a `get()` that is cancelled has
    taken nothing, by whatever means it is cancelled (a cancel scope, a deadline, `Task.cancel()`). Items
    lie in an anyio memory object stream and are never handed to a task that waits, because a task that is
    cancelled after the hand-over would lose its item. Tasks that wait are served in the order they
    came. `None` is an item like any other.

    All tasks that use it at a time run on one event loop; it may be made outside of one. What would wake a
    task of another thread raises a `RuntimeError` and does nothing.

    Ports `asyncio.Queue`, which `langchain_classic.callbacks.AsyncIteratorCallbackHandler` has as `queue`;
    the errors are anyio's.

    Args:
        max_buffer_size: Number of items that the queue takes before `put()` waits; by default no
            limit. With 0 each `put()` waits for a consumer to ask.

    Raises:
        ValueError: `max_buffer_size` is negative, or neither an integer nor `math.inf`.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_getters",
        "_max_buffer_size",
        "_putters",
        "_receive",
        "_send",
        "_steps",
        "_used",
    )

    def __init__(self, max_buffer_size: float = math.inf) -> None:
        if max_buffer_size != math.inf and not (
            isinstance(max_buffer_size, int) and max_buffer_size >= 0
        ):
            raise ValueError(
                "max_buffer_size must be an integer of 0 or more, or math.inf, "
                f"not {max_buffer_size!r}"
            )
        self._max_buffer_size = max_buffer_size
        # The limit is kept here and not in the stream: a bounded stream would hand items over.
        self._send, self._receive = anyio.create_memory_object_stream[T](math.inf)
        # Both ends are this object's own, so a queue that is dropped closes them in silence.
        weakref.finalize(self, _close, self._send, self._receive)
        self._used = 0
        self._closed = False
        self._getters = _Line()
        self._putters = _Line()
        self._steps = 0

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Queue {state}, {self._used} of {self._max_buffer_size} items>"

    def qsize(self) -> int:
        """Return the number of items in the queue."""
        return self._used

    def empty(self) -> bool:
        """Tell whether there is no item in the queue."""
        return not self._used

    def full(self) -> bool:
        """Tell whether `put_nowait()` would raise `anyio.WouldBlock`."""
        return not self._has_room()

    def statistics(self) -> QueueStatistics:
        """Return what the queue holds and who waits for it."""
        return QueueStatistics(
            self._used, self._max_buffer_size, len(self._putters), len(self._getters)
        )

    def put_nowait(self, item: T) -> None:
        """Append an item without waiting.

        Raises:
            anyio.WouldBlock: The queue is full.
            anyio.ClosedResourceError: The queue was closed.
        """
        if self._closed:
            raise anyio.ClosedResourceError("the queue was closed")
        if not self._has_room():
            raise anyio.WouldBlock
        self._getters.call_first()
        self._send.send_nowait(item)
        self._used += 1

    async def put(self, item: T) -> None:
        """Append an item, waiting for room if there is none.

        Cancellation: the item is not in the queue.

        Raises:
            anyio.ClosedResourceError: The queue was closed, before or while it waited.
        """
        await self._checkpoint()
        if not self._putters:
            try:
                return self.put_nowait(item)
            except anyio.WouldBlock:
                pass
        place = self._putters.join()
        try:
            while True:
                await place.wait()
                try:
                    return self.put_nowait(item)
                except anyio.WouldBlock:
                    continue
        finally:
            place.leave()
            self._call_putter()

    def get_nowait(self) -> T:
        """Take the first item without waiting.

        Raises:
            anyio.WouldBlock: The queue is empty.
            anyio.EndOfStream: The queue is empty and was closed.
        """
        if self._used:
            self._putters.call_first()
        item = self._receive.receive_nowait()
        self._used -= 1
        return item

    async def get(self) -> T:
        """Take the first item, waiting for one if there is none.

        Cancellation: no item is taken.

        Raises:
            anyio.EndOfStream: The queue is empty and was closed, before or while it waited.
        """
        await self._checkpoint()
        if not self._getters:
            try:
                return self.get_nowait()
            except anyio.WouldBlock:
                pass
        place = self._getters.join()
        try:
            # Who asks makes room in a queue without a buffer.
            self._call_putter()
            while True:
                await place.wait()
                try:
                    return self.get_nowait()
                except anyio.WouldBlock:
                    continue
        finally:
            place.leave()
            self._call_getter()

    def close(self) -> None:
        """Take no more items; those in the queue can still be got, then comes the end.

        Idempotent. Wakes all tasks that wait: producers get `anyio.ClosedResourceError`, consumers
        the items that are left and then `anyio.EndOfStream`.
        """
        self._putters.call_first()
        self._getters.call_first()
        self._closed = True
        self._send.close()

    def __aiter__(self) -> Self:
        """Iterate over the items to the end; several iterators share them out."""
        return self

    async def __anext__(self) -> T:
        """Take the next item as `get()` does, or end where that raises `anyio.EndOfStream`."""
        try:
            return await self.get()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    def _has_room(self) -> bool:
        # As in anyio's streams, a consumer that waits has room for one item beyond the buffer.
        return self._used < self._max_buffer_size + len(self._getters)

    def _call_putter(self) -> None:
        if self._closed or self._has_room():
            self._putters.call_first()

    def _call_getter(self) -> None:
        if self._closed or self._used:
            self._getters.call_first()

    async def _checkpoint(self) -> None:
        # The first step gives way, or a task that drains many short queues would not.
        if self._steps % STEPS_BETWEEN_YIELDS:
            await checkpoint_if_cancelled()
        else:
            await checkpoint()
        self._steps += 1


def _close(send: MemoryObjectSendStream[T], receive: MemoryObjectReceiveStream[T]) -> None:
    send.close()
    receive.close()


Queue.__module__ = "langchain_anyio"
