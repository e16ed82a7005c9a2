"""asyncio's functions that await several things, or shield one, on trio: `gather` and `shield`."""

from __future__ import annotations

import asyncio
import logging
import sys
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextvars import copy_context
from inspect import isawaitable
from sys import _getframe
from typing import Any, TypeVar, cast

import trio

from langchain_anyio._backends import limits

from .awaited_at_once import awaited_at_once
from .call_scope import CallScope
from .contexts import InContext
from .futures import Future, Task, ensure_future

if sys.version_info < (3, 11):
    # Comes with trio there.
    from exceptiongroup import BaseExceptionGroup  # type: ignore[import-not-found,unused-ignore]

T = TypeVar("T")

_logger = logging.getLogger(__name__)


def gather(*awaitables: Awaitable[Any], return_exceptions: bool = False) -> Awaitable[list[Any]]:
    """Await all awaitables concurrently, and return their results in order.

    When one fails, the others are cancelled and waited for, then its error is raised, bare.

    Ports `asyncio.gather`, where the others continue and nobody waits for them. If the result is
    not awaited at once, it is a task.
    """
    if not awaited_at_once(_getframe(1)):
        return _begun(_gather(awaitables, return_exceptions), awaitables)
    if len(awaitables) == 1 and not return_exceptions:  # the common case needs no task
        return InContext(awaitables[0], copy_context(), False, True)
    return _gather(awaitables, return_exceptions)


def _begun(gathering: Coroutine[Any, Any, list[Any]], awaitables: Iterable[Any]) -> Task[list[Any]]:
    """Return a task for a gathering that is not awaited at once."""
    if not all(map(isawaitable, awaitables)):
        gathering.close()
        raise TypeError("An asyncio.Future, a coroutine or an awaitable is required")
    return Task(gathering, name="gather")


async def _gather(awaitables: tuple[Awaitable[Any], ...], return_exceptions: bool) -> list[Any]:
    if len(awaitables) == 1:
        try:
            return [await InContext(awaitables[0], copy_context())]
        except (Exception, asyncio.CancelledError) as exc:
            if not return_exceptions:
                raise
            return [exc]
    if len(set(awaitables)) < len(awaitables):
        # An awaitable that is passed twice is awaited once.
        different = tuple(dict.fromkeys(awaitables))
        outcomes = dict(zip(different, await _gather(different, return_exceptions), strict=True))
        return [outcomes[awaitable] for awaitable in awaitables]
    results: list[Any] = [None] * len(awaitables)
    to_begin = iter(enumerate(awaitables))

    async def run() -> None:
        # In order, as on asyncio, and all in one tick: trio begins the tasks of a tick in either
        # order.
        index, awaitable = next(to_begin)
        try:
            results[index] = await _owned(awaitable)
        except (Exception, asyncio.CancelledError) as exc:
            if not return_exceptions:
                raise
            results[index] = exc

    if awaitables:
        await _all(run, len(awaitables))
    return results


def gather_to_the_end(
    *awaitables: Awaitable[Any], return_exceptions: bool = False
) -> Awaitable[list[Any]]:
    """Like `gather`, but when one awaitable fails, the others are allowed to finish.

    For callback handlers: none may miss an event because of another's error.
    """
    gathering = _gather_to_the_end(awaitables, return_exceptions)
    if awaited_at_once(_getframe(1)):
        return gathering
    return _begun(gathering, awaitables)


async def _gather_to_the_end(
    awaitables: tuple[Awaitable[Any], ...], return_exceptions: bool
) -> list[Any]:
    if len(awaitables) == 1:
        return await _gather(awaitables, return_exceptions)
    results = await _gather(tuple(map(_to_the_end, awaitables)), False)
    if not return_exceptions:
        errors = [result for result in results if isinstance(result, _Failed)]
        for other in errors[1:]:
            _logger.error("a second error among those gathered", exc_info=other.exception)
        if errors:
            raise errors[0].exception
    return [result.exception if isinstance(result, _Failed) else result for result in results]


class _Failed:
    __slots__ = ("exception",)

    def __init__(self, exception: Exception) -> None:
        self.exception = exception


async def _to_the_end(awaitable: Awaitable[Any]) -> Any:
    try:
        return await awaitable
    except Exception as exc:  # noqa: BLE001  # raised when all have run to their end
        return _Failed(exc)


async def _owned(awaitable: Awaitable[T]) -> T:
    owner = CallScope.current()
    return await (awaitable if owner is None else owner.run(awaitable))


async def _all(run: Callable[[], Awaitable[None]], times: int) -> None:
    """Run `run` several times in a nursery, and raise the first error bare.

    Callers that were written for asyncio expect no exception group.
    """
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(times):
                nursery.start_soon(run)
        return
    except BaseExceptionGroup as exc:
        group = exc
    cancelled, errors = group.split(trio.Cancelled)
    try:
        if errors is None:
            await trio.lowlevel.checkpoint_if_cancelled()  # raises it bare
            raise cast("BaseException", cancelled)
        for other in errors.exceptions[1:]:
            _logger.error("a second error among those gathered", exc_info=other)
        raise errors.exceptions[0]
    finally:
        # Their tracebacks refer to this frame: without this, only the garbage collector would free
        # it.
        del group, cancelled, errors
        other = None


def shield(arg: Awaitable[T]) -> Awaitable[T]:
    """Await something that continues when the awaiting task is cancelled.

    The task then waits for it, for 5 seconds at most, before the cancellation goes on; if it has
    not ended by then, it is cancelled too.

    Ports `asyncio.shield`, where nobody waits. If the result is not awaited at once, it is a task.
    """
    future = ensure_future(arg)
    if future.done():
        return future
    shielding = _shield(future)
    if awaited_at_once(_getframe(1)):
        return shielding
    return Task(shielding, name="shield")


async def _shield(future: Future[T]) -> T:
    try:
        await future.settled()
    except trio.Cancelled:
        with trio.move_on_after(limits.CALL_CLEANUP_SECONDS, shield=True):
            await future.settled()
        if not future.done():
            future.cancel()
            warnings.warn(
                f"{future!r} was cancelled, as it had not ended "
                f"{limits.CALL_CLEANUP_SECONDS:g} seconds after its surroundings were cancelled",
                ResourceWarning,
                stacklevel=2,
            )
        raise
    return future.result()
