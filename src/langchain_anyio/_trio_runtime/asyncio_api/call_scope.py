"""Call scopes: own the tasks and async generators that a call starts, and end them with it.

On asyncio, these belong to the event loop and live on after the call that started them has
returned. A trio nursery would be the place for them, but none can stay open across the `yield` of
an async generator, which is where langchain-core starts most of its tasks.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar, final
from weakref import WeakKeyDictionary

import trio
from trio.lowlevel import current_task

from langchain_anyio._backends import limits
from langchain_anyio._backends.async_generators import AsyncGenerators
from langchain_anyio._backends.cancellation import EXITS, HeldCancellation
from langchain_anyio._backends.tasks import contain
from langchain_anyio._primitives.projection import raise_as_it_came

if sys.version_info < (3, 11):
    # Comes with trio there.
    from exceptiongroup import BaseExceptionGroup  # type: ignore[import-not-found,unused-ignore]

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class OwnedTask(Protocol):
    """The part of a task's interface that its call scope uses.

    Attributes:
        finishes: Whether the task may finish when the call is cut off, instead of being cancelled.
    """

    finishes: bool

    def cancel(self) -> object: ...

    def get_name(self) -> str: ...

    async def settled(self) -> None: ...


class _Frame(NamedTuple):
    """A call that a trio task is in the middle of.

    Attributes:
        owner: The scope of the call.
        nurseries: Number of nurseries that the task had open when the call began. Nurseries opened
            later are within the call; tasks in the earlier ones have nothing to do with it.
        outer: The enclosing call, made by the same task.
    """

    owner: CallScope
    nurseries: int
    outer: _Frame | None


# The innermost call that each trio task is in the middle of.
_frames: dict[trio.lowlevel.Task, _Frame] = {}
# The calls that have left a nursery open between two steps of an async generator.
_left_open: WeakKeyDictionary[trio.Nursery, CallScope] = WeakKeyDictionary()


@final
class CallScope:
    """The tasks and async generators that one public call of a library has started.

    Tasks belong to the innermost call in which they were started. Generators belong to the
    outermost call: within it they may be passed around, as the branches of a `RunnableParallel`
    share their input, and after it nobody is left to read them. A generator that is
    garbage-collected earlier is closed then, and the outermost call waits for that. One that may
    have left a nursery open in its task is closed in that task, when the call ends.

    Errors from closing a collected generator are logged, as trio does; `KeyboardInterrupt` and
    `SystemExit` are raised by the outermost call, when it ends.
    """

    __slots__ = (
        "_closing",
        "_collected",
        "_ending",
        "_exit",
        "_generators",
        "_holding",
        "_outermost",
        "_token",
        "tasks",
    )

    def __init__(self) -> None:
        self.tasks: set[OwnedTask] = set()
        outer = CallScope.current()
        self._outermost: CallScope = self if outer is None else outer._outermost
        self._generators = AsyncGenerators(self._generator_collected, _place)
        self._collected: deque[AsyncGenerator[Any, Any]] = deque()
        # Collected generators that may hold a nursery open, with the task in which they began.
        self._holding: deque[tuple[trio.lowlevel.Task, AsyncGenerator[Any, Any]]] = deque()
        self._exit: BaseException | None = None
        self._closing = trio.Lock()
        self._ending = False
        self._token = trio.lowlevel.current_trio_token()

    @staticmethod
    def current() -> CallScope | None:
        """Return the scope of the innermost call around the current task, `None` outside of all.

        A task is within the calls in which its nursery was opened. Other calls that its parent task
        is in the middle of began later, or are made beside it, and do not own what it starts.
        """
        task = current_task()
        if (frame := _frames.get(task)) is not None:
            return frame.owner
        while (nursery := task.parent_nursery) is not None:
            task = nursery.parent_task
            if (frame := _frames.get(task)) is not None:
                position = task.child_nurseries.index(nursery)
                while frame is not None and position < frame.nurseries:
                    frame = frame.outer
                if frame is not None:
                    return frame.owner
            if (owner := _left_open.get(nursery)) is not None:
                return owner
        return None

    @staticmethod
    def is_current_here() -> bool:
        """Return whether the current task itself, not only an ancestor, is within a call."""
        return current_task() in _frames

    async def join(self) -> None:
        """Wait for the tasks when the call has come to its end, and let them finish.

        There is no time limit. After 5 seconds of waiting, a `ResourceWarning` names the tasks.
        """
        if self.tasks and self._holding:
            # The tasks of such a generator end when it is closed.
            self._collected.extend(self._closable_here())
            await self._one_at_a_time(self._close_in_turn)
        if self.tasks:
            with trio.move_on_after(limits.CALL_CLEANUP_SECONDS):
                await self._settled()
        if self.tasks:
            warnings.warn(
                f"a call is waiting for tasks that were started in it: {self._names()}",
                ResourceWarning,
                stacklevel=2,
            )
            await self._settled()

    def end(self, *, everything: bool = True) -> bool:
        """Do what `aclose()` does if nothing is left to clean up; return whether that is the case.

        It mostly is, and this is cheaper. The other case needs `aclose()`.
        """
        if self.tasks or self._collected or self._holding or self._closing.locked():
            return False
        if self._exit is not None:
            return False
        if self._outermost is self:
            if everything and self._generators.are_open():
                return False
            self._generators.release()
        self._ending = True
        return True

    @trio.lowlevel.enable_ki_protection
    async def run(self, awaitable: Awaitable[T]) -> T:
        """Await `awaitable`; what it starts belongs to this scope.

        `KeyboardInterrupt` is raised in it only where the main task waits: between two statements
        of the code that drives coroutines by hand, it would crash the whole run. asyncio does the
        same.
        """
        task = current_task()
        outer = _frames.get(task)
        nurseries = len(task.child_nurseries)
        _frames[task] = _Frame(self, nurseries, outer)
        try:
            if outer is not None and outer.owner._outermost is self._outermost:
                return await awaitable
            return await self._outermost._generators.watch(awaitable)
        finally:
            if outer is None:
                del _frames[task]
            else:
                _frames[task] = outer
            # An async generator may hold nurseries open across its yields.
            for nursery in task.child_nurseries[nurseries:]:
                _left_open.setdefault(nursery, self)

    @trio.lowlevel.enable_ki_protection
    async def aclose(
        self, generator: AsyncGenerator[Any, Any] | None = None, *, everything: bool = True
    ) -> None:
        """Cancel the tasks and wait for them; then close `generator`.

        The outermost scope also closes all other generators. The tasks are stopped first, because
        they may be running the generators. They have 5 seconds to end, whatever is cancelled
        meanwhile. Tasks that have not ended by then are left behind and named in a
        `ResourceWarning`.

        Args:
            generator: The generator that the call has been running.
            everything: Whether to look for generators that only refer to each other. Not where the
                call has returned a value, which they may be part of.
        """
        self._ending = True
        try:
            await self._stop_tasks()
            if self._outermost is self:
                await self._close_collected()
        finally:
            try:
                if generator is not None:
                    await self.run(generator.aclose())
            finally:
                del generator
                try:
                    if self._outermost is self:
                        await self._close_generators(everything=everything)
                finally:
                    if self.tasks:  # started by closing
                        await self._stop_tasks()

    async def _stop_tasks(self) -> None:
        for task in list(self.tasks):
            if not task.finishes:
                task.cancel()
        if not self.tasks:
            return
        with trio.move_on_after(limits.CALL_CLEANUP_SECONDS, shield=True):
            await self._settled()
        if self.tasks:
            names = self._names()
            for task in list(self.tasks):
                task.cancel()
            self.tasks.clear()
            warnings.warn(
                "the cleanup of a call was given up after "
                f"{limits.CALL_CLEANUP_SECONDS:g} seconds; left behind: {names}",
                ResourceWarning,
                stacklevel=2,
            )

    async def _settled(self) -> None:
        while self.tasks:
            await next(iter(self.tasks)).settled()

    def _names(self) -> str:
        return ", ".join(sorted(task.get_name() for task in self.tasks))

    async def _close_generators(self, *, everything: bool) -> None:
        try:
            await self._close_collected()
            if everything:
                # The frames that the current error came through do not read their generators any
                # further.
                await self._one_at_a_time(partial(self._generators.aclose, sys.exc_info()[1]))
        finally:
            try:
                await self._close_collected()
            finally:
                self._generators.release()
                if self._exit is not None:
                    raise_as_it_came(self._exit, self._exit.__traceback__)

    def _generator_collected(self, generator: AsyncGenerator[Any, Any]) -> None:
        # The last reference may be dropped anywhere: in another thread, or in the middle of trio's
        # own code.
        task, nurseries = self._generators.pop_mark(generator) or (None, 0)
        if task is not None and len(task.child_nurseries) > nurseries:
            # One of the nurseries opened since may be the generator's own.
            self._holding.append((task, generator))
            return
        self._collected.append(generator)
        try:
            self._token.run_sync_soon(self._start_closing)
        except trio.RunFinishedError:
            self._collected.clear()

    def _start_closing(self) -> None:
        # If closing is in progress, or the call is ending, these are closed there.
        if self._collected and not self._ending and not self._closing.locked():
            try:
                trio.lowlevel.spawn_system_task(
                    self._close_in_background, name="langchain_anyio closing async generators"
                )
            except RuntimeError:  # the run is ending
                pass

    async def _close_in_background(self) -> None:
        try:
            if not self._closing.locked():
                await self._one_at_a_time(self._close_in_turn)
        except BaseException as exc:  # noqa: BLE001 - any error in a system task crashes the run
            contain(exc, "closing async generators failed")

    async def _close_collected(self) -> None:
        while True:
            self._collected.extend(self._closable_here())
            for _, generator in self._holding:
                _logger.error("%r is left open: it was begun in another task", generator)
            self._holding.clear()
            await self._one_at_a_time(self._close_in_turn)
            if not self._holding:  # closing has added none
                break

    def _closable_here(self) -> list[AsyncGenerator[Any, Any]]:
        """Remove and return the generators of `_holding` that can be closed in the current task.

        These began in this task, or in one that has ended.
        """
        here = current_task()
        closable, others = [], []
        for task, generator in self._holding:
            if task is here or getattr(task.coro, "cr_frame", None) is None:
                closable.append(generator)
            else:
                others.append((task, generator))
        self._holding = deque(others)
        return closable

    async def _one_at_a_time(self, close: Callable[[], Awaitable[None]]) -> None:
        """Call `close` while no other task closes generators: closing one closes those it reads."""
        with trio.move_on_after(limits.CALL_CLEANUP_SECONDS, shield=True):
            await self._closing.acquire()
        try:
            await _insist(close)
        finally:
            if self._closing.statistics().owner is current_task():
                self._closing.release()

    async def _close_in_turn(self) -> None:
        while self._collected:
            generator = self._collected.popleft()
            try:
                await generator.aclose()
            except trio.Cancelled:
                raise
            except BaseException as exc:
                if isinstance(exc, EXITS) or (
                    isinstance(exc, BaseExceptionGroup) and exc.split(EXITS)[0] is not None
                ):
                    self._exit = self._exit or exc
                else:
                    _logger.warning("closing %r failed", generator, exc_info=True)


def _place() -> tuple[trio.lowlevel.Task, int]:
    """Return the current task and the number of nurseries that it has open."""
    task = current_task()
    return task, len(task.child_nurseries)


async def _insist(close: Callable[[], Awaitable[None]]) -> None:
    """Repeat `close` until all generators are closed, even if closing one of them is cancelled."""
    cancellation = HeldCancellation()
    closed = False
    while not closed:
        with cancellation:  # the generator that raises it is closed
            await close()
            closed = True
    cancellation.release()
