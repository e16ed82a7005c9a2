"""asyncio's futures and tasks on trio.

Everything here must be called in a trio task. Each name means what it means on asyncio, with
structured concurrency added: a task does not outlive the call that started it, a task that awaits
something is responsible for it, and a cancelled task raises trio's own `Cancelled` and nothing
else.
"""

from __future__ import annotations

import asyncio
import logging
import reprlib
import sys
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context, copy_context
from inspect import getcoroutinelocals, isawaitable
from types import CoroutineType, GenericAlias, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

import trio
from trio.lowlevel import current_task

from langchain_anyio._backends import limits
from langchain_anyio._backends.cancellation import EXITS
from langchain_anyio._backends.tasks import close_open_nurseries, contain

from .call_scope import CallScope
from .missing_names import missing_of_task
from .start_order import StartOrder

if sys.version_info < (3, 11):
    # Comes with trio there.
    from exceptiongroup import BaseExceptionGroup  # type: ignore[import-not-found,unused-ignore]

T = TypeVar("T")

_logger = logging.getLogger(__name__)

# The task that each trio task runs.
_running: dict[trio.lowlevel.Task, Task[Any]] = {}

_turns: trio.lowlevel.RunVar[StartOrder] = trio.lowlevel.RunVar("langchain_anyio_turns")


def turns_of_this_run() -> StartOrder:
    try:
        return _turns.get()
    except LookupError:
        turns = StartOrder()
        _turns.set(turns)
        return turns


class Future(Generic[T]):
    """A result that is not available yet.

    Ports `asyncio.Future`. When it is done, its callbacks are called at once, not scheduled.
    """

    # Defaults are in the class, which makes a pending future quick to create. `_running_loop`
    # returns the loop of the current run; the module of the loop sets it, because that one makes
    # futures.
    _running_loop: ClassVar[staticmethod[[], object]]
    _loop: object = None
    _result: T | None = None
    _exception: BaseException | None = None
    _traceback: TracebackType | None = None
    _cancelled = False
    _message: object = None
    _retrieved = False

    if not TYPE_CHECKING:
        __class_getitem__ = classmethod(GenericAlias)

    def __init__(self, *, loop: object = None) -> None:
        if loop is not None:
            self._loop = loop
        self._event = trio.Event()
        self._callbacks: list[tuple[Callable[[Any], object], Context]] = []

    def done(self) -> bool:
        return self._event.is_set()

    def cancelled(self) -> bool:
        return self._cancelled

    def result(self) -> T:
        if (error := self.exception()) is not None:
            # Without the traceback entries of earlier raises: a future may be awaited often.
            raise error.with_traceback(self._traceback)
        return cast("T", self._result)

    def exception(self) -> BaseException | None:
        if not self.done():
            raise asyncio.InvalidStateError("the result is still to come")
        if self._cancelled:
            raise self._cancellation()
        self._retrieved = True
        return self._exception

    def _cancellation(self) -> BaseException:
        """Return the exception that tells the awaiting task of the cancellation.

        It is asyncio's error: trio's own is for cancel scopes to raise, and one that no scope knows
        would propagate through all nurseries. If trio's is being handled already, it is returned,
        and goes on.
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
        error = exception() if isinstance(exception, type) else exception
        if isinstance(error, StopIteration):
            wrapper = RuntimeError(
                "StopIteration interacts badly with generators and cannot be raised into a Future"
            )
            wrapper.__context__ = wrapper.__cause__ = error
            error = wrapper
        self._exception = error
        self._traceback = error.__traceback__
        self._announce()

    def cancel(self, msg: object = None) -> bool:
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
        if not self._callbacks:
            return
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
        return self._loop or self._running_loop()

    async def settled(self) -> None:
        """Wait until the future is done, without raising its exception."""
        if not self.done():
            await self._event.wait()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._outcome().__await__()

    async def _outcome(self) -> T:
        """Wait for the result; if the waiting is interrupted, cancel the work and join it."""
        try:
            await self.settled()
        except BaseException as interruption:
            if isinstance(interruption, trio.Cancelled) and self.done():
                # It was done before the awaiting task could notice. asyncio's primitives rely on a
                # woken task to take what it was woken for; the next checkpoint raises the
                # cancellation again.
                return self.result()
            self.cancel()
            with trio.CancelScope(shield=True):
                await self.settled()
            # As in a nursery, an error takes precedence over the cancellation during which it was
            # raised.
            if isinstance(interruption, trio.Cancelled) and not self._cancelled:
                self._retrieved = True
                if self._exception is not None:
                    raise self._exception from None
            raise
        return self.result()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._shown_state()}>"

    def _shown_state(self) -> str:
        if not self.done():
            return "pending"
        if self._cancelled:
            return "cancelled"
        if self._exception is not None:
            return f"finished exception={self._exception!r}"
        return f"finished result={reprlib.repr(self._result)}"

    def __del__(self) -> None:
        # The end of a generator is not an error.
        error = self._exception
        if error is not None and not self._retrieved and not isinstance(error, StopAsyncIteration):
            _logger.error("the exception of %r was never retrieved", self, exc_info=self._exception)


class Task(Future[T]):
    """A coroutine that runs concurrently.

    Ports `asyncio.Task`. It runs as a trio system task, because it may be started in an async
    generator, where no nursery can be open. It belongs to the public call in which it was started,
    and to the run if there is none.

    Attributes:
        finishes: Whether the call lets it finish, within the time limit for cleanup, instead of
            cancelling it at once.
    """

    finishes = False

    def __init__(
        self,
        coro: Awaitable[T],
        *,
        loop: object = None,
        name: object = None,
        context: Context | None = None,
        eager_start: bool = False,  # noqa: ARG002  # asyncio's; tasks begin in start order
    ) -> None:
        if not hasattr(coro, "__await__") and not isawaitable(coro):
            raise TypeError(f"a coroutine was expected, got {coro!r}")
        super().__init__(loop=loop)
        self._name = (
            str(name)
            if name is not None
            else getattr(coro, "__qualname__", None) or type(coro).__name__
        )
        self._awaitable: Awaitable[T] | None = coro
        self._scope = trio.CancelScope()
        self._owner = CallScope.current()
        if self._owner is not None:
            self._owner.tasks.add(self)
        self._context = context = copy_context() if context is None else context
        try:
            trio.lowlevel.spawn_system_task(self._begin, name=self._name, context=context)
            self._turn = turns_of_this_run().make()
        except RuntimeError:
            # The run is ending and accepts no more tasks, while its last generators are closed.
            # This task runs when it is awaited.
            self._late = True

    _late = False

    @staticmethod
    def of(task: trio.lowlevel.Task) -> Task[Any] | None:
        """Return the task that a trio task runs, `None` if it runs none."""
        return _running.get(task)

    @staticmethod
    def started_in(task: trio.lowlevel.Task) -> Task[Any] | None:
        """Return the task that a system task was started for, begun or not; `None` if for none."""
        if getattr(task.coro, "cr_code", None) is not Task._begin.__code__:
            return None
        return cast("Task[Any] | None", getcoroutinelocals(task.coro).get("self"))

    def detach(self) -> None:
        """Make the task belong to the run instead of the call that started it, before it begins."""
        if self._owner is not None:
            self._owner.tasks.discard(self)
            self._owner = None

    def set_result(self, result: T) -> None:  # noqa: ARG002
        raise RuntimeError("Task does not support set_result operation")

    def set_exception(
        self,
        exception: BaseException | type[BaseException],  # noqa: ARG002
    ) -> None:
        raise RuntimeError("Task does not support set_exception operation")

    def get_name(self) -> str:
        return self._name

    def set_name(self, value: object) -> None:
        self._name = str(value)

    def get_coro(self) -> Awaitable[T] | None:
        """Return the awaitable that it runs, `None` once that has ended: it is not kept."""
        return self._awaitable

    def get_context(self) -> Context:
        return self._context

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(missing_of_task(name), name=name, obj=self)

    def cancel(self, msg: object = None) -> bool:
        if self.done():
            return False
        if not self._scope.cancel_called:
            self._message = msg
        self._scope.cancel()
        return True

    def cancelling(self) -> int:
        return int(self._scope.cancel_called or isinstance(sys.exc_info()[1], trio.Cancelled))

    async def settled(self) -> None:
        if self._event.is_set():
            return
        if _running.get(current_task()) is self:
            raise RuntimeError(f"Task cannot await on itself: {self!r}")
        if self._late:
            self._late = False
            with trio.move_on_after(limits.CALL_CLEANUP_SECONDS, shield=True):
                await self._run()
        await self._event.wait()

    async def _begin(self) -> None:
        try:
            turn = self._turn
            if not turn.is_next():
                await turn.come()
            turn.take()
            await self._run()
        except BaseException as exc:  # noqa: BLE001  # any error in a system task crashes the run
            # The run's own cancellation may stop here, as the task ends. Nothing else may leave the
            # task.
            contain(exc, f"{self!r} failed")

    async def _run(self) -> None:
        awaitable = cast("Awaitable[T]", self._awaitable)
        here = current_task()
        outer = _running.get(here)
        _running[here] = self
        nurseries = len(here.child_nurseries)
        cancelled = False
        ours: BaseException | None = None
        try:
            # As on asyncio, a coroutine that was cancelled before it began does not begin. The next
            # step of an async generator does: closing the step would start to close the generator,
            # and not finish.
            if self._scope.cancel_called and isinstance(awaitable, CoroutineType):
                awaitable.close()
                cancelled = True
            else:
                with self._scope:
                    owner = self._owner
                    self._result = await (awaitable if owner is None else owner.run(awaitable))
                cancelled = self._scope.cancelled_caught
        except asyncio.CancelledError as exc:
            if self._message is None and exc.args:
                self._message = exc.args[0]
            cancelled = True
        except BaseException as exc:  # noqa: BLE001  # raised where the task is awaited
            # A cancellation by trio that arrives here is that of the run, and has to be raised
            # again.
            ours, self._exception = _split(exc)
            if self._exception is None:
                cancelled = True
            else:
                self._traceback = self._exception.__traceback__
        finally:
            if outer is None:
                del _running[here]
            else:
                _running[here] = outer
        if len(here.child_nurseries) > nurseries:
            await close_open_nurseries(nurseries)
        # Not while the exception is being handled: callbacks would see `CancelledError` as trio's.
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
        except EXITS as exc:  # from a callback; only the awaiting task can raise it
            self._cancelled, self._exception = False, exc

    def __repr__(self) -> str:
        state, _, outcome = self._shown_state().partition(" ")
        if state == "pending" and self._scope.cancel_called:
            state = "cancelling"
        return f"<Task {state} name={self._name!r}{outcome and ' ' + outcome}>"


def _split(
    exc: BaseException,
) -> tuple[BaseException | None, BaseException | None]:
    """Split an exception into trio's cancellation and everything else."""
    if isinstance(exc, trio.Cancelled):
        return exc, None
    if isinstance(exc, BaseExceptionGroup):
        cancelled, errors = exc.split(trio.Cancelled)
        return cancelled, errors
    return None, exc


def create_task(
    coro: Awaitable[T],
    *,
    name: object = None,
    context: Context | None = None,
    eager_start: bool = False,
) -> Task[T]:
    """Port `asyncio.create_task`; `context` is accepted on every Python version."""
    return Task(coro, name=name, context=context, eager_start=eager_start)


def ensure_future(coro_or_future: Awaitable[T], *, loop: object = None) -> Future[T]:
    """Port `asyncio.ensure_future`."""
    if type(coro_or_future) is CoroutineType:  # the common case
        return Task(coro_or_future, loop=loop)
    if isinstance(coro_or_future, Future):
        if loop is not None and loop is not coro_or_future.get_loop():
            raise ValueError(
                "The future belongs to a different loop than the one specified as the loop argument"
            )
        return coro_or_future
    if asyncio.isfuture(coro_or_future):
        return cast("Future[T]", coro_or_future)
    if not isawaitable(coro_or_future):
        raise TypeError("An asyncio.Future, a coroutine or an awaitable is required")
    return Task(coro_or_future, loop=loop)


def isfuture(value: object) -> bool:
    """Port `asyncio.isfuture`."""
    return isinstance(value, Future) or asyncio.isfuture(value)
