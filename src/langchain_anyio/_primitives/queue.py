"""`Queue`, a port of `asyncio.Queue` on an anyio memory object stream."""

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

from langchain_anyio._backends.waiters import waiters, wake

from .checkpoints import STEPS_BETWEEN_YIELDS
from .wakeup import check_thread

T = TypeVar("T")


@final
@dataclass(frozen=True)
class QueueStatistics:
    """Statistics of a `Queue`.

    Attributes:
        current_buffer_used: Number of items in the queue.
        max_buffer_size: Number of items that it holds before `put()` waits.
        tasks_waiting_put: Number of tasks waiting in `put()`.
        tasks_waiting_get: Number of tasks waiting in `get()` or in an `async for`.
    """

    current_buffer_used: int
    max_buffer_size: float
    tasks_waiting_put: int
    tasks_waiting_get: int


class _WaitQueue:
    """Waiting tasks in order of arrival. The first is woken; when it leaves, it wakes the next."""

    __slots__ = ("_tickets",)

    def __init__(self) -> None:
        self._tickets: OrderedDict[_Ticket, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tickets)

    def wake_first(self) -> None:
        if self._tickets:
            next(iter(self._tickets)).wake()

    def join(self) -> _Ticket:
        return _Ticket(self._tickets)


class _Ticket:
    """One task's place in a `_WaitQueue`, held until `leave()`."""

    __slots__ = ("_make_waiter", "_thread", "_tickets", "_waiter")

    def __init__(self, tickets: OrderedDict[_Ticket, None]) -> None:
        self._tickets = tickets
        self._make_waiter = waiters()
        self._waiter = self._make_waiter()
        self._thread = get_ident()
        tickets[self] = None

    def wake(self) -> None:
        check_thread(self._thread)
        wake(self._waiter)

    async def wait(self) -> None:
        """Wait for `wake()`; can be called again without losing the place."""
        if self._waiter.done():
            self._waiter = self._make_waiter()
        await self._waiter

    def leave(self) -> None:
        del self._tickets[self]


@final
class Queue(Generic[T]):
    """A first-in, first-out queue between any number of producers and consumers.

    An item is in the queue exactly once from when `put()` returns until `get()` returns it: a
    cancelled `put()` has put nothing and a cancelled `get()` has taken nothing, however it was
    cancelled (a cancel scope, a deadline, `Task.cancel()`). Items stay in an anyio memory object
    stream and are never handed to a waiting task, which would lose its item if it were cancelled
    after the hand-over. Waiting tasks are served in order of arrival. `None` is a legal item.

    A queue can be created outside of an event loop, but all tasks that use it at the same time must
    run on one event loop. A call that would wake a task of another thread raises `RuntimeError` and
    has no effect.

    Ports `asyncio.Queue`, the type of `queue` in
    `langchain_classic.callbacks.AsyncIteratorCallbackHandler`; the errors are anyio's.

    Args:
        max_buffer_size: Number of items that the queue holds before `put()` waits; unlimited by
            default. With 0, each `put()` waits for a `get()`.

    Raises:
        ValueError: `max_buffer_size` is negative, or neither an integer nor `math.inf`.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_getters",
        "_max_buffer_size",
        "_operations",
        "_putters",
        "_receive",
        "_send",
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
        # A bounded stream would hand items to waiting tasks, so the limit is kept here.
        self._send, self._receive = anyio.create_memory_object_stream[T](math.inf)
        # Nobody else can close the two ends, so a dropped queue must not warn about them.
        weakref.finalize(self, _close_ends, self._send, self._receive)
        self._used = 0
        self._closed = False
        self._getters = _WaitQueue()
        self._putters = _WaitQueue()
        self._operations = 0

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Queue {state}, {self._used} of {self._max_buffer_size} items>"

    def qsize(self) -> int:
        """Return the number of items in the queue."""
        return self._used

    def empty(self) -> bool:
        """Return whether the queue holds no items."""
        return not self._used

    def full(self) -> bool:
        """Return whether `put_nowait()` would raise `anyio.WouldBlock`."""
        return not self._has_room()

    def statistics(self) -> QueueStatistics:
        """Return the number of items in the queue and of tasks that wait for it."""
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
        self._getters.wake_first()
        self._send.send_nowait(item)
        self._used += 1

    async def put(self, item: T) -> None:
        """Append an item, waiting for room if there is none.

        Cancellation: the item is not in the queue.

        Raises:
            anyio.ClosedResourceError: The queue was closed, before or during the wait.
        """
        await self._checkpoint()
        if not self._putters:
            try:
                return self.put_nowait(item)
            except anyio.WouldBlock:
                pass
        ticket = self._putters.join()
        try:
            while True:
                await ticket.wait()
                try:
                    return self.put_nowait(item)
                except anyio.WouldBlock:
                    continue
        finally:
            ticket.leave()
            self._wake_putter()

    def get_nowait(self) -> T:
        """Take the first item without waiting.

        Raises:
            anyio.WouldBlock: The queue is empty.
            anyio.EndOfStream: The queue is empty and was closed.
        """
        if self._used:
            self._putters.wake_first()
        item = self._receive.receive_nowait()
        self._used -= 1
        return item

    async def get(self) -> T:
        """Take the first item, waiting for one if there is none.

        Cancellation: no item is taken.

        Raises:
            anyio.EndOfStream: The queue is empty and was closed, before or during the wait.
        """
        await self._checkpoint()
        if not self._getters:
            try:
                return self.get_nowait()
            except anyio.WouldBlock:
                pass
        ticket = self._getters.join()
        try:
            # A waiting consumer makes room for one item, see `_has_room()`.
            self._wake_putter()
            while True:
                await ticket.wait()
                try:
                    return self.get_nowait()
                except anyio.WouldBlock:
                    continue
        finally:
            ticket.leave()
            self._wake_getter()

    def close(self) -> None:
        """Refuse new items; those in the queue can still be taken.

        Idempotent. Wakes all waiting tasks: producers get `anyio.ClosedResourceError`, consumers
        the remaining items and then `anyio.EndOfStream`.
        """
        self._putters.wake_first()
        self._getters.wake_first()
        self._closed = True
        self._send.close()

    def __aiter__(self) -> Self:
        """Take the items until the end; concurrent iterators each get some of them."""
        return self

    async def __anext__(self) -> T:
        """Return `await get()`, or stop where that raises `anyio.EndOfStream`."""
        try:
            return await self.get()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    def _has_room(self) -> bool:
        # As in anyio's streams, each waiting consumer makes room for one item beyond the buffer.
        return self._used < self._max_buffer_size + len(self._getters)

    def _wake_putter(self) -> None:
        if self._closed or self._has_room():
            self._putters.wake_first()

    def _wake_getter(self) -> None:
        if self._closed or self._used:
            self._getters.wake_first()

    async def _checkpoint(self) -> None:
        # Includes the first operation, or a task that drains many short queues would never yield.
        if self._operations % STEPS_BETWEEN_YIELDS:
            await checkpoint_if_cancelled()
        else:
            await checkpoint()
        self._operations += 1


def _close_ends(send: MemoryObjectSendStream[T], receive: MemoryObjectReceiveStream[T]) -> None:
    send.close()
    receive.close()


Queue.__module__ = "langchain_anyio"
