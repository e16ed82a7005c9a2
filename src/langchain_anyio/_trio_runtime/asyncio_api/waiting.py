"""asyncio's `wait`, `as_completed`, `wait_for` and `sleep` on trio."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, Generic, TypeVar, final

import trio
from typing_extensions import Self

from .futures import Future, ensure_future, isfuture, turns_of_this_run

T = TypeVar("T")

_RETURN_WHEN = (asyncio.ALL_COMPLETED, asyncio.FIRST_COMPLETED, asyncio.FIRST_EXCEPTION)


def _seconds(timeout: float | None) -> float:
    return math.inf if timeout is None else max(0.0, timeout)


def _refuse_one(fs: object) -> None:
    if isfuture(fs) or asyncio.iscoroutine(fs):
        raise TypeError(f"expect an iterable of futures, not {type(fs).__name__}")


async def wait(
    fs: Iterable[Future[Any]],
    *,
    timeout: float | None = None,
    return_when: str = asyncio.ALL_COMPLETED,
) -> tuple[set[Future[Any]], set[Future[Any]]]:
    """Port `asyncio.wait`.

    When cancelled, it leaves the tasks running; they belong to the call that started them.
    """
    _refuse_one(fs)
    futures = set(fs)
    if not futures:
        raise ValueError("Set of Tasks/Futures is empty.")
    if return_when not in _RETURN_WHEN:
        raise ValueError(f"Invalid return_when value: {return_when}")
    if any(asyncio.iscoroutine(future) for future in futures):
        if sys.version_info >= (3, 11):
            raise TypeError("Passing coroutines is forbidden, use tasks explicitly.")
        futures = {ensure_future(future) for future in futures}
    enough = trio.Event()

    def check(_: object = None) -> None:
        done = [future for future in futures if future.done()]
        if (
            len(done) == len(futures)
            or (done and return_when == asyncio.FIRST_COMPLETED)
            or (
                return_when == asyncio.FIRST_EXCEPTION
                and any(not future.cancelled() and future._exception for future in done)
            )
        ):
            enough.set()

    for future in futures:
        future.add_done_callback(check)
    try:
        with trio.move_on_after(_seconds(timeout)):
            await enough.wait()
    finally:
        for future in futures:
            future.remove_done_callback(check)
    done = {future for future in futures if future.done()}
    return done, futures - done


@final
class as_completed(Generic[T]):  # noqa: N801  # asyncio's name
    """Iterate over awaitables in the order in which they complete, with `for` or `async for`.

    Ports `asyncio.as_completed`, as it is since Python 3.13.
    """

    def __init__(self, fs: Iterable[Awaitable[T]], *, timeout: float | None = None) -> None:
        _refuse_one(fs)
        futures = {ensure_future(awaitable) for awaitable in set(fs)}
        self._left = len(futures)
        self._deadline = trio.current_time() + _seconds(timeout)
        send, self._receive = trio.open_memory_channel[Future[T]](math.inf)
        for future in futures:
            future.add_done_callback(send.send_nowait)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Coroutine[Any, Any, T]:
        if not self._left:
            raise StopIteration
        self._left -= 1
        return self._next_result()

    async def _next_result(self) -> T:
        return (await self._next_future()).result()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Future[T]:
        if not self._left:
            raise StopAsyncIteration
        self._left -= 1
        return await self._next_future()

    async def _next_future(self) -> Future[T]:
        await trio.lowlevel.checkpoint()
        try:
            return self._receive.receive_nowait()
        except trio.WouldBlock:
            with trio.CancelScope(deadline=self._deadline):
                return await self._receive.receive()
        raise asyncio.TimeoutError


async def wait_for(fut: Awaitable[T], timeout: float | None) -> T:
    """Port `asyncio.wait_for`, in the task of the caller."""
    if timeout is not None and timeout <= 0:
        return await _outcome_now(fut)
    with trio.move_on_after(_seconds(timeout)):
        return await fut
    raise asyncio.TimeoutError


async def _outcome_now(fut: Awaitable[T]) -> T:
    """Return the result of a future that is done; cancel one that is not.

    A coroutine is closed before it begins.

    Raises:
        asyncio.TimeoutError: The awaitable was not done, and has been cancelled or closed.
    """
    if asyncio.iscoroutine(fut):
        fut.close()
        raise asyncio.TimeoutError
    future = ensure_future(fut)
    if not future.done():
        future.cancel()
        await future.settled()
        if future.cancelled():
            raise asyncio.TimeoutError
    return future.result()


async def sleep(delay: float, result: T | None = None) -> T | None:
    """Port `asyncio.sleep`.

    After a delay of zero, all tasks that were started before have begun.
    """
    if delay > 0:
        await trio.sleep(delay)
        return result
    if delay != delay:  # NaN
        raise ValueError("Invalid delay: NaN (not a number)")
    turn = turns_of_this_run().make()
    try:
        await trio.lowlevel.checkpoint()
    finally:
        if not turn.is_next():
            await turn.come()
        turn.take()
    return result
