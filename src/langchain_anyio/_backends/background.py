"""Tasks that outlive the call that starts them, on either backend.

anyio deliberately has no such tasks: its tasks belong to a task group, and a task group open in the
task that uses a stream would forbid using that stream inside an async generator. So this module,
and no other of the streaming layers, knows the backends by name.
"""

from __future__ import annotations

import logging
import math
import signal
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import suppress
from contextvars import Context, copy_context
from functools import cache, partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import anyio
from anyio.lowlevel import RunVar

if TYPE_CHECKING:
    import asyncio

    from anyio.abc import TaskGroup


if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup  # type: ignore[import-not-found,unused-ignore]

T = TypeVar("T")

_logger = logging.getLogger(__name__)

# How long `close_open_nurseries()` waits for the children of open nurseries.
ABANDONED_SECONDS = 5.0

# Exceptions meant for the whole program, which are passed on from wherever they are raised.
EXITS = (KeyboardInterrupt, SystemExit)

# asyncio keeps only weak references to its tasks. The strong ones here are dropped with their loop,
# however it ends.
_tasks: RunVar[set[asyncio.Future[None]]] = RunVar("langchain_anyio_tasks")


def backend() -> str:
    """Return the name of the running backend, `"asyncio"` or `"trio"`, as anyio sees it.

    Raises:
        RuntimeError: No event loop runs in this thread.
    """
    # The only public API that distinguishes the backends on all releases of anyio.
    return anyio.get_cancelled_exc_class().__module__.partition(".")[0]


class Loop:
    """The event loop that was running when this object was made.

    `call_soon()` may be called from any thread, at any time, even after the loop has ended.
    """

    __slots__ = ("_context", "_kept", "token")

    def __init__(self) -> None:
        # Calls run in this context, not in the caller's, which may be that of another backend.
        self._context = copy_context()
        self._kept: set[asyncio.Future[None]] | None = None
        self.token: Any
        if backend() == "trio":
            import trio

            self.token = trio.lowlevel.current_trio_token()
        else:
            import asyncio

            self._kept = _kept()
            self.token = asyncio.get_running_loop()

    def call_soon(self, func: Callable[[], object]) -> bool:
        """Make the loop call `func`; return whether the loop still takes calls.

        Exceptions that `func` raises are logged. On asyncio, `KeyboardInterrupt` and `SystemExit`
        end the loop, as from any callback.
        """
        try:
            if self._kept is None:
                self.token.run_sync_soon(self._context.run, _contained_call, func)
            else:
                self.token.call_soon_threadsafe(self._call_in_task, func, context=self._context)
        except RuntimeError:  # closed asyncio loop, or trio.RunFinishedError
            return False
        return True

    def _call_in_task(self, func: Callable[[], object]) -> None:
        # In a task, because anyio does not know its backend in every callback.
        async def call() -> None:
            func()

        assert self._kept is not None
        _keep(self._kept, call(), "langchain_anyio call")

    def is_current(self) -> bool:
        """Return whether the caller runs on this loop, in a task or in a callback."""
        try:
            running = backend()
        except RuntimeError:
            running = "asyncio"
        try:
            if running == "trio":
                import trio

                return trio.lowlevel.current_trio_token() is self.token
            import asyncio

            return asyncio.get_running_loop() is self.token
        except RuntimeError:
            return False


MOVED = (
    "a consumer runs on another event loop than what it reads; consume it where it began, or hand what it "
    "gives over with anyio.from_thread"
)


class Waiter(Protocol):
    """Awaited once, by one task, until another task of the event loop calls `set_result()`."""

    def __await__(self) -> Generator[Any, Any, object]: ...

    def done(self) -> bool: ...

    def set_result(self, result: None, /) -> None: ...


def waiters() -> Callable[[], Waiter]:
    """Return a factory of waiters for tasks of the running event loop.

    An `anyio.Event` made for a single wait takes longer to make and to await than a switch between
    two tasks takes. On asyncio, a waiter is the future that such an event is built on. Both are
    cancelled alike.
    """
    if backend() == "trio":
        return partial(_trio_waiter(), get_ident())
    import asyncio

    return asyncio.get_running_loop().create_future


def wake(waiter: Waiter) -> None:
    """Wake a waiter, unless it was woken before or, being an asyncio future, was cancelled."""
    if not waiter.done():
        waiter.set_result(None)


@cache
def _trio_waiter() -> Callable[[int], Waiter]:
    import trio

    class TrioWaiter:
        __slots__ = ("_event",)

        def __init__(self, thread: int) -> None:
            # Checked here, as an asyncio future itself refuses to be awaited on another loop.
            if thread != get_ident():
                raise RuntimeError(MOVED)
            self._event = trio.Event()

        def __await__(self) -> Generator[Any, Any, object]:
            return self._event.wait().__await__()

        def done(self) -> bool:
            return self._event.is_set()

        def set_result(self, _: None, /) -> None:
            self._event.set()

    return TrioWaiter


def start(
    func: Callable[[], Awaitable[None]],
    *,
    name: str,
    context: Context | None = None,
    over: Callable[[], None] = lambda: None,
) -> None:
    """Start `func` in a task that belongs to the event loop: an asyncio task or a trio system task.

    The task is cancelled when the loop ends: on trio when the main task ends, on asyncio by
    `asyncio.run` and similar functions. If it may be cancelled earlier, `func` needs a cancel scope
    of its own.

    Args:
        func: The async function to run. It must itself pass its errors to those concerned,
            including `KeyboardInterrupt` and `SystemExit`, which on asyncio also end the loop. Any
            other error that it raises is logged.
        name: The task's name, for debuggers.
        context: The context to run it in (on asyncio, in a copy); by default a copy of the current
            one.
        over: Called when the task has ended, even if an asyncio task was cancelled before it began.
    """
    context = copy_context() if context is None else context
    if backend() == "trio":
        import trio

        async def contained() -> None:
            # A system task that fails crashes trio's run with trio.TrioInternalError.
            try:
                await func()
            except EXITS:
                pass  # raised to the consumers
            except BaseException as exc:  # noqa: BLE001 - nothing above this handles it
                # A cancellation ends here with the task. Above it, only the loop's own would be
                # accepted, and not one of a scope that a generator has left open, or of an asyncio
                # loop that the model runs itself.
                contain(exc, f"the background task {name!r} failed")
            finally:
                try:
                    if trio.lowlevel.current_task().child_nurseries:
                        await close_open_nurseries()
                finally:
                    over()

        trio.lowlevel.spawn_system_task(contained, name=name, context=context)
    else:
        # create_task() has a parameter for the context only from Python 3.11 on.
        context.run(_keep, _kept(), func(), name, over)


def _contained_call(func: Callable[[], object]) -> None:
    """Call `func` in a place where an exception would crash trio's run."""
    try:
        func()
    except BaseException as exc:  # noqa: BLE001 - nothing above this handles it
        contain(exc, f"{func!r} failed")


def contain(error: BaseException, message: str) -> None:
    """Log an error that can be raised to nobody.

    A `KeyboardInterrupt` or `SystemExit` in it interrupts the main task, if called in the main
    thread.
    """
    exits: BaseException | None = error if isinstance(error, EXITS) else None
    if isinstance(error, BaseExceptionGroup):
        exits = error.split(EXITS)[0]
    rest = without_cancellations(error)
    if rest is not None and not isinstance(rest, KeyboardInterrupt):
        _logger.error("%s", message, exc_info=rest)
    if exits is not None and threading.current_thread() is threading.main_thread():
        signal.raise_signal(signal.SIGINT)


async def close_open_nurseries(before: int = 0) -> None:
    """Cancel the nurseries left open in the current trio task, and wait for their children.

    A task with an open nursery can only end in an error, and a system task that does so crashes
    trio's run. Code leaves a nursery open if it suspends a generator within the nursery for good.
    The wait is shielded and lasts at most `ABANDONED_SECONDS`.

    Args:
        before: Number of nurseries that were open before, and stay open.
    """
    import trio

    task = trio.lowlevel.current_task()
    abandoned = task.child_nurseries[before:]
    for nursery in abandoned:
        nursery.cancel_scope.cancel()
    with trio.move_on_after(ABANDONED_SECONDS, shield=True):
        # Polled: there is no way to wait for the children of somebody else's nursery.
        while any(nursery.child_tasks for nursery in abandoned):  # noqa: ASYNC110
            await trio.sleep(0.01)
    # trio has no public way to abandon a nursery.
    del task._child_nurseries[before:]


def is_loop_ending() -> bool:
    """Return whether the loop is ending and cancels its tasks, of which the current one is one.

    Always `False` on asyncio, where this cannot be determined.
    """
    if backend() != "trio":
        return False
    import trio

    nursery = trio.lowlevel.current_task().parent_nursery
    return nursery is not None and nursery.cancel_scope.cancel_called


def start_surely(func: Callable[[], Awaitable[None]], *, name: str) -> None:
    """Start `func` like `start()`, and again if its asyncio task is cancelled before it begins."""
    begun = False

    async def run() -> None:
        nonlocal begun
        begun = True
        await func()

    if backend() == "trio":
        start(run, name=name)
        return
    kept = _kept()

    def over() -> None:
        if not begun:
            _keep(kept, run(), name, over)

    _keep(kept, run(), name, over)


def _kept() -> set[asyncio.Future[None]]:
    """Return the tasks kept for the running loop; call this in a task, not in a callback."""
    tasks = _tasks.get(None)
    if tasks is None:
        tasks = set()
        _tasks.set(tasks)
    return tasks


def _keep(
    tasks: set[asyncio.Future[None]],
    awaitable: Awaitable[None],
    name: str,
    over: Callable[[], None] = lambda: None,
) -> None:
    import asyncio

    task = asyncio.ensure_future(awaitable)
    if isinstance(task, asyncio.Task):
        task.set_name(name)
    tasks.add(task)

    # Not a partial: asyncio's repr of a task includes the arguments of a partial. Here these would
    # include all other tasks, each with its own.
    def ended(task: asyncio.Future[None]) -> None:
        tasks.discard(task)
        over()

    task.add_done_callback(ended)


def is_cancellation(error: BaseException) -> bool:
    """Return whether `error` is a backend's cancellation exception, or a group of only these.

    No event loop needs to be running.
    """
    if isinstance(error, Exception):
        return False
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_cancellation, error.exceptions))
    asyncio, trio = sys.modules.get("asyncio"), sys.modules.get("trio")
    return bool(
        (asyncio is not None and isinstance(error, asyncio.CancelledError))
        or (trio is not None and isinstance(error, trio.Cancelled))
    )


def task_id() -> int:
    """Return an id of the current task, unique among the tasks that are alive."""
    if backend() == "trio":
        import trio

        return id(trio.lowlevel.current_task())
    import asyncio

    return id(asyncio.current_task())


def contexts_around() -> Iterator[Context]:
    """Yield the contexts of the tasks that wait for the current one to end, by their task groups.

    On asyncio before Python 3.12, which does not show the context of a task, there are none.
    """
    if backend() == "trio":
        import trio

        task = trio.lowlevel.current_task()
        while task.parent_nursery is not None and task.parent_nursery.parent_task is not (
            trio.lowlevel.current_root_task()
        ):
            task = task.parent_nursery.parent_task
            yield task.context
        return
    import asyncio

    if sys.version_info >= (3, 12):
        tasks = {id(task): task for task in asyncio.all_tasks()}
        parents = {task.id: task.parent_id for task in anyio.get_running_tasks()}
        parent = parents.get(task_id())
        while parent is not None and parent in tasks:
            yield tasks[parent].get_context()
            parent = parents.get(parent)


def current_task() -> object | None:
    """Return the current asyncio task; `None` on trio, where a task's end cannot be observed."""
    asyncio = sys.modules.get("asyncio")
    try:
        return None if asyncio is None else asyncio.current_task()
    except RuntimeError:
        return None


def from_finalizer() -> Callable[[Callable[[], object]], object]:
    """Return a function that makes the running event loop call another function soon.

    It may be called from anywhere, including finalizers. The other function runs outside of any
    task, and is not called if the loop has ended.
    """
    call_soon: Callable[[Callable[[], object]], object]
    if backend() == "trio":
        import trio

        call_soon = trio.lowlevel.current_trio_token().run_sync_soon
    else:
        import asyncio

        call_soon = asyncio.get_running_loop().call_soon_threadsafe

    def call(func: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # closed asyncio loop, or trio.RunFinishedError
            call_soon(func)

    return call


def without_cancellations(error: BaseException) -> BaseException | None:
    """Return `error` without cancellations, or `None` if it is nothing else.

    Of a group that contains cancellations, the other exceptions are returned, without the group if
    there is only one.
    """
    if is_cancellation(error):
        return None
    if isinstance(error, BaseExceptionGroup):
        cancellations, rest = error.split(is_cancellation)
        if cancellations is not None and rest is not None:
            errors = cast("tuple[BaseException, ...]", rest.exceptions)
            return errors[0] if len(errors) == 1 else cast("BaseException", rest)
    return error


class Waitable(Protocol):
    """An event of any kind."""

    def is_set(self) -> bool: ...

    async def wait(self) -> object: ...


async def wait_uncancellable(event: Waitable, deadline: float = math.inf) -> None:
    """Wait for `event` despite cancellation, then let a cancellation that came meanwhile continue.

    A shielded scope keeps out cancellation by other scopes. A native `Task.cancel()` comes through
    it each time it is called, and is held back here until the event is set or the deadline has
    passed. Without a deadline, the caller must make sure that the event is set in bounded time.
    """
    cancelled: BaseException | None = None
    with anyio.CancelScope(shield=True, deadline=deadline) as scope:
        while not event.is_set():
            try:
                await event.wait()
            except anyio.get_cancelled_exc_class() as exc:
                if scope.cancel_called:
                    raise
                cancelled = exc
    if cancelled is not None:
        try:
            raise cancelled
        finally:
            del cancelled


def start_in(tasks: TaskGroup, coroutine: Coroutine[Any, Any, Any], *, name: str) -> None:
    """Start `coroutine` in a task group; its creator must close it after the group has ended.

    If a task is natively cancelled before it begins, asyncio drops its coroutine, and Python warns
    that it was never awaited. On trio, the coroutine is protected from `KeyboardInterrupt`, which
    trio may raise anywhere: in a task below a system task, it would crash the whole run.
    """
    if backend() == "trio":
        tasks.start_soon(_trio_uninterrupted(), coroutine, name=name)
    else:
        tasks.start_soon(lambda: coroutine, name=name)


async def uninterrupted(func: Callable[[], Awaitable[T]]) -> T:
    """Await `func()`, on trio protected from `KeyboardInterrupt` except where the main task waits.

    On asyncio, from Python 3.11 on, a cancellation of the main task replaces `KeyboardInterrupt`.
    """
    if backend() == "trio":
        uninterrupted = _trio_uninterrupted()
        return cast("T", await uninterrupted(func()))
    return await func()


@cache
def _trio_uninterrupted() -> Callable[[Awaitable[Any]], Coroutine[Any, Any, Any]]:
    import trio

    @trio.lowlevel.enable_ki_protection
    async def uninterrupted(awaitable: Awaitable[Any]) -> Any:
        return await awaitable

    return uninterrupted


class _Warning:
    __slots__ = ("_message", "_source")

    def __init__(self, message: str, source: object) -> None:
        self._message = message
        self._source = source

    def __del__(self) -> None:
        warnings.warn(self._message, ResourceWarning, stacklevel=3, source=self._source)


def warn_of_leak(message: str, source: object) -> None:
    """Emit a `ResourceWarning` in a background task.

    Where warnings are errors, it is reported by `sys.unraisablehook`, like that of a destructor.
    Raised here, it would end the task, and on trio crash the whole run.
    """
    _Warning(message, source)
