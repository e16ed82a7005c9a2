"""What threads that belong to no loop reach one by: its futures, and coroutines that they have it run."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Coroutine
from typing import Any, TypeVar

from ._futures import Future, Task, isfuture
from ._loop import TrioLoop

T = TypeVar("T")


class _OfLoop(type):
    def __call__(cls, *, loop: Any = None) -> Any:
        return Future(loop=loop) if isinstance(loop, TrioLoop) else asyncio.Future(loop=loop)

    def __instancecheck__(cls, instance: object) -> bool:
        return isfuture(instance)


class FutureOfLoop(metaclass=_OfLoop):
    """`asyncio.Future` where nothing runs: of the loop that it is given."""


def run_coroutine_threadsafe(
    coro: Coroutine[Any, Any, T], loop: Any
) -> concurrent.futures.Future[T]:
    """Port `asyncio.run_coroutine_threadsafe`, for a loop of either kind."""
    if not isinstance(loop, TrioLoop):
        return asyncio.run_coroutine_threadsafe(coro, loop)
    future = concurrent.futures.Future[T]()

    def start() -> None:
        task = Task(coro)
        future.add_done_callback(lambda _: future.cancelled() and loop.call_soon(task.cancel))
        task.add_done_callback(settle)

    def settle(task: Task[T]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        if task.cancelled():
            future.set_exception(concurrent.futures.CancelledError())
        elif error := task.exception():
            future.set_exception(error)
        else:
            future.set_result(task.result())

    loop.call_soon_threadsafe(start)
    return future


def set_event_loop(loop: Any) -> None:
    """Port `asyncio.set_event_loop`; a trio run needs not be told which loop it has."""
    if not isinstance(loop, TrioLoop):
        asyncio.set_event_loop(loop)
