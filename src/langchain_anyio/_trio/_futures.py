"""asyncio's futures and tasks on trio, and the functions around them.

Only what runs in a trio task calls anything here. The meaning of each name is asyncio's, with structure added: a task
does not outlive the call that started it, awaiting something is to answer for it, and whoever is cancelled raises
trio's own `Cancelled` and no other.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from contextvars import Context, copy_context
from functools import partial
from types import CoroutineType
from typing import Any, Generic, TypeVar, cast

import trio

from langchain_anyio._background import EXITS, close_open_nurseries, contain

from ._contexts import InContext
from ._owner import CLEANUP_SECONDS, Owner
from ._turns import Turns

if sys.version_info < (3, 11):
    # Comes with trio there.
    from exceptiongroup import BaseExceptionGroup  # type: ignore[import-not-found,unused-ignore]

T = TypeVar("T")

_logger = logging.getLogger(__name__)

# Which task each of trio's runs.
_running: dict[trio.lowlevel.Task, Task[Any]] = {}

_turns: trio.lowlevel.RunVar[Turns] = trio.lowlevel.RunVar("langchain_anyio_turns")


def _turns_of_this_run() -> Turns:
    try:
        return _turns.get()
    except LookupError:
        turns = Turns()
        _turns.set(turns)
        return turns


class Future(Generic[T]):
    """A result that is still to come.

    Ports `asyncio.Future`. Its callbacks are called at once, and not soon, when it is done.
    """

    def __init__(self, *, loop: object = None) -> None:
        self._loop = loop
        self._event = trio.Event()
        self._result: T | None = None
        self._exception: BaseException | None = None
        self._cancelled = False
        self._message: str | None = None
        self._callbacks: list[tuple[Callable[[Any], object], Context]] = []
        self._retrieved = False

    def done(self) -> bool:
        return self._event.is_set()

    def cancelled(self) -> bool:
        return self._cancelled

    def result(self) -> T:
        if error := self.exception():
            raise error
        return cast("T", self._result)

    def exception(self) -> BaseException | None:
        if not self.done():
            raise asyncio.InvalidStateError("the result is still to come")
        if self._cancelled:
            raise self._cancellation()
        self._retrieved = True
        return self._exception

    def _cancellation(self) -> BaseException:
        """Return what tells the awaiting side that this was cancelled.

        It is asyncio's error: trio's own is for cancel scopes to raise, and one that no scope knows would
        go through all nurseries. Where trio's is at hand already, that one goes on.
        """
        at_hand = sys.exc_info()[1]
        if isinstance(at_hand, trio.Cancelled):
            return at_hand
        return asyncio.CancelledError(*() if self._message is None else (self._message,))

    def set_result(self, result: T) -> None:
        self._finish()
        self._result = result
        self._announce()

    def set_exception(self, exception: BaseException | type[BaseException]) -> None:
        self._finish()
        self._exception = exception() if isinstance(exception, type) else exception
        self._announce()

    def cancel(self, msg: str | None = None) -> bool:
        if self.done():
            return False
        self._message = msg
        self._cancelled = True
        self._announce()
        return True

    def _finish(self) -> None:
        if self.done():
            raise asyncio.InvalidStateError("the result is there already")

    def _announce(self) -> None:
        self._event.set()
        callbacks, self._callbacks = self._callbacks, []
        exits: BaseException | None = None
        for callback, context in callbacks:
            try:
                self._call(callback, context)
            except EXITS as exc:
                exits = exits or exc
        if exits is not None:
            try:
                raise exits
            finally:
                del exits

    def _call(self, callback: Callable[[Any], object], context: Context) -> None:
        try:
            context.run(callback, self)
        except EXITS:
            raise
        except BaseException:
            _logger.exception("a callback of %r failed", self)

    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        context = copy_context() if context is None else context
        if self.done():
            self._call(callback, context)
        else:
            self._callbacks.append((callback, context))

    def remove_done_callback(self, callback: Callable[[Any], object]) -> int:
        before = len(self._callbacks)
        self._callbacks = [(c, context) for c, context in self._callbacks if c != callback]
        return before - len(self._callbacks)

    def get_loop(self) -> object:
        from ._loop import running_loop

        return self._loop or running_loop()

    async def settled(self) -> None:
        """Wait until it is done, without raising what it raised."""
        if not self.done():
            await self._event.wait()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._outcome().__await__()

    async def _outcome(self) -> T:
        """Wait, and take the work along when the waiting is interrupted: cancel it, and wait for its end."""
        try:
            await self.settled()
        except BaseException as interruption:
            if isinstance(interruption, trio.Cancelled) and self.done():
                # It was done before the awaiting side could tell. asyncio's primitives count on it that whom they have
                # woken has taken what it was woken for; the next checkpoint raises the cancellation again.
                return self.result()
            self.cancel()
            with trio.CancelScope(shield=True):
                await self.settled()
            # As in a nursery: an error goes before the cancellation that it came up in.
            if isinstance(interruption, trio.Cancelled) and not self._cancelled:
                self._retrieved = True
                if self._exception is not None:
                    raise self._exception from None
            raise
        return self.result()

    def __del__(self) -> None:
        # A generator that has come to its end is no error.
        error = self._exception
        if error is not None and not self._retrieved and not isinstance(error, StopAsyncIteration):
            _logger.error("the exception of %r was never retrieved", self, exc_info=self._exception)


class Task(Future[T]):
    """A coroutine that runs by itself.

    Ports `asyncio.Task`. It runs as a trio system task, because it may be started in an async generator, where no
    nursery can be open; it belongs to the public call that it was started in, and to the run where there is none.

    Attributes:
        finishes: Whether the call lets it finish, within the time that its cleanup has, and does not cancel it at once.
    """

    finishes = False

    def __init__(
        self, coro: Awaitable[T], *, name: str | None = None, context: Context | None = None
    ) -> None:
        super().__init__()
        self._name = name or getattr(coro, "__qualname__", None) or type(coro).__name__
        self._awaitable: Awaitable[T] | None = coro
        self._scope = trio.CancelScope()
        self._owner = Owner.current()
        if self._owner is not None:
            self._owner.tasks.add(self)
        context = copy_context() if context is None else context
        try:
            trio.lowlevel.spawn_system_task(self._begin, name=self._name, context=context)
            self._turn = _turns_of_this_run().make()
        except RuntimeError:
            # The run is ending and takes no more tasks, while its last generators are closed: it runs as it is awaited.
            self._late = True

    _late = False

    @staticmethod
    def of(task: trio.lowlevel.Task) -> Task[Any] | None:
        """Return the task that a trio task runs, `None` where it runs none."""
        return _running.get(task)

    def detach(self) -> None:
        """Have it belong to the run, and not to the call that it was started in; before it has begun."""
        if self._owner is not None:
            self._owner.tasks.discard(self)
            self._owner = None

    def get_name(self) -> str:
        return self._name

    def set_name(self, value: object) -> None:
        self._name = str(value)

    def get_coro(self) -> Awaitable[T] | None:
        return self._awaitable

    def cancel(self, msg: str | None = None) -> bool:
        if self.done():
            return False
        if not self._scope.cancel_called:
            self._message = msg
        self._scope.cancel()
        return True

    def cancelling(self) -> int:
        return int(self._scope.cancel_called or isinstance(sys.exc_info()[1], trio.Cancelled))

    async def settled(self) -> None:
        if self._late:
            self._late = False
            with trio.move_on_after(CLEANUP_SECONDS, shield=True):
                await self._run()
        await super().settled()

    async def _begin(self) -> None:
        try:
            if not self._turn.is_next():
                await self._turn.come()
            self._turn.take()
            await self._run()
        except BaseException as exc:  # noqa: BLE001  # of a system task, which takes the whole run down
            # The run's cancellation need not go on from here: the task ends. No other one may.
            contain(exc, f"{self!r} failed")

    async def _run(self) -> None:
        awaitable = cast("Awaitable[T]", self._awaitable)
        here = trio.lowlevel.current_task()
        outer = _running.get(here)
        _running[here] = self
        nurseries = len(here.child_nurseries)
        cancelled = False
        ours: BaseException | None = None
        try:
            # As on asyncio, a coroutine that was cancelled before it began does not begin. The next step of an async
            # generator does: to close that would be to begin closing the generator, and not to end it.
            if self._scope.cancel_called and isinstance(awaitable, CoroutineType):
                awaitable.close()
                cancelled = True
            else:
                with self._scope:
                    owner = self._owner
                    self._result = await (awaitable if owner is None else owner.run(awaitable))
                cancelled = self._scope.cancelled_caught
        except asyncio.CancelledError as exc:
            self._message = self._message or (str(exc.args[0]) if exc.args else None)
            cancelled = True
        except BaseException as exc:  # noqa: BLE001  # whoever awaits the task gets it
            # trio's cancellation that is left here is that of the run, which has to have it back.
            ours, self._exception = _split(exc)
            cancelled = self._exception is None
        finally:
            if outer is None:
                del _running[here]
            else:
                _running[here] = outer
        if len(here.child_nurseries) > nurseries:
            await close_open_nurseries(nurseries)
        # Not while the exception is at hand: to the callbacks, `CancelledError` would be trio's.
        self._end(cancelled=cancelled)
        if ours is not None:
            try:
                raise ours
            finally:
                del ours

    def _end(self, *, cancelled: bool) -> None:
        self._cancelled = cancelled
        self._awaitable = None
        if self._owner is not None:
            self._owner.tasks.discard(self)
        try:
            self._announce()
        except EXITS as exc:  # of a callback; there is nobody but the awaiting side to have it
            self._cancelled, self._exception = False, exc

    def __repr__(self) -> str:
        return f"<Task {self._name!r}{'' if not self.done() else ' done'}>"


def _split(
    exc: BaseException,
) -> tuple[BaseException | None, BaseException | None]:
    """Part trio's cancellation from what else there is."""
    if isinstance(exc, trio.Cancelled):
        return exc, None
    if isinstance(exc, BaseExceptionGroup):
        cancelled, errors = exc.split(trio.Cancelled)
        return cancelled, errors
    return None, exc


def create_task(
    coro: Awaitable[T], *, name: str | None = None, context: Context | None = None
) -> Task[T]:
    """Port `asyncio.create_task`; `context` is taken on every Python."""
    return Task(coro, name=name, context=context)


def ensure_future(awaitable: Awaitable[T]) -> Future[T]:
    """Port `asyncio.ensure_future`."""
    return awaitable if isinstance(awaitable, Future) else Task(awaitable)


def isfuture(value: object) -> bool:
    """Port `asyncio.isfuture`."""
    return isinstance(value, Future) or asyncio.isfuture(value)


async def gather(*awaitables: Awaitable[Any], return_exceptions: bool = False) -> list[Any]:
    """Await all of them at the same time and return their results in order.

    When one fails, the others are cancelled and waited for, then its error is raised, bare.

    Ports `asyncio.gather`, where the others run on and nobody waits for them.
    """
    if len(awaitables) == 1:  # as most often: it needs no task
        try:
            return [await InContext(awaitables[0], copy_context())]
        except (Exception, asyncio.CancelledError) as exc:
            if not return_exceptions:
                raise
            return [exc]
    results: list[Any] = [None] * len(awaitables)
    to_begin = iter(enumerate(awaitables))

    async def run() -> None:
        # In their order, as on asyncio, and all in one tick: trio begins the tasks of a tick in either order.
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


async def gather_to_the_end(
    *awaitables: Awaitable[Any], return_exceptions: bool = False
) -> list[Any]:
    """As `gather`, but when one fails, the others are let finish.

    For callback handlers: none shall miss an event because of another's error.
    """
    if len(awaitables) == 1:
        return await gather(*awaitables, return_exceptions=return_exceptions)
    results = await gather(*map(_to_the_end, awaitables))
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
    owner = Owner.current()
    return await (awaitable if owner is None else owner.run(awaitable))


async def _all(run: Callable[[], Awaitable[None]], times: int) -> None:
    """Run something several times in a nursery and raise the first error bare, as asyncio's callers expect it."""
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
        # Their tracebacks refer to this frame, which else would be freed by the garbage collector alone.
        del group, cancelled, errors
        other = None


async def wait(
    fs: Iterable[Future[Any]],
    *,
    timeout: float | None = None,
    return_when: str = asyncio.ALL_COMPLETED,
) -> tuple[set[Future[Any]], set[Future[Any]]]:
    """Port `asyncio.wait`; cancelled, it leaves the tasks running, which belong to the call that started them."""
    futures = set(fs)
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


def as_completed(
    fs: Iterable[Awaitable[T]], *, timeout: float | None = None
) -> Iterator[Coroutine[Any, Any, T]]:
    """Port `asyncio.as_completed`, as the iterator of awaitables that it is on every Python."""
    send, receive = trio.open_memory_channel[Future[T]](float("inf"))
    futures = [ensure_future(awaitable) for awaitable in fs]
    deadline = trio.current_time() + _seconds(timeout)

    async def next_result() -> T:
        with trio.CancelScope(deadline=deadline) as scope:
            future = await receive.receive()
        if scope.cancelled_caught:
            raise asyncio.TimeoutError
        return future.result()

    for future in futures:
        future.add_done_callback(send.send_nowait)
    for _ in futures:
        yield next_result()


async def wait_for(fut: Awaitable[T], timeout: float | None) -> T:
    """Port `asyncio.wait_for`, in the task of the caller."""
    with trio.move_on_after(_seconds(timeout)):
        return await fut
    raise asyncio.TimeoutError


def _seconds(timeout: float | None) -> float:
    return float("inf") if timeout is None else max(0.0, timeout)


async def sleep(delay: float, result: T | None = None) -> T | None:
    """Port `asyncio.sleep`; after that of no time, all tasks have begun that were started before."""
    if delay > 0:
        await trio.sleep(delay)
        return result
    turn = _turns_of_this_run().make()
    try:
        await trio.lowlevel.checkpoint()
    finally:
        if not turn.is_next():
            await turn.come()
        turn.take()
    return result


async def shield(arg: Awaitable[T]) -> T:
    """Await something that goes on when the awaiting side is cancelled.

    It is waited for then, for 5 seconds at most, before the cancellation goes on; what has not ended by then is
    cancelled with the rest.

    Ports `asyncio.shield`, where nobody waits.
    """
    future = ensure_future(arg)
    try:
        await future.settled()
    except trio.Cancelled:
        with trio.move_on_after(CLEANUP_SECONDS, shield=True):
            await future.settled()
        if not future.done():
            future.cancel()
            warnings.warn(
                f"{future!r} was cancelled, as it had not ended {CLEANUP_SECONDS:g} seconds after its surroundings "
                "were cancelled",
                ResourceWarning,
                stacklevel=2,
            )
        raise
    return future.result()


async def to_thread(func: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Port `asyncio.to_thread`."""
    from ._loop import running_loop

    call = partial(copy_context().run, func, *args, **kwargs)
    return cast("T", await running_loop().run_in_executor(None, call))
