"""Tasks that outlive the call that starts them, on either backend.

anyio deliberately has no such tasks: its tasks belong to a task group, and a task group open in the
task that uses a stream would forbid using that stream inside an async generator. So this module,
and no other of the streaming layers, knows the backends by name.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from anyio.lowlevel import RunVar

from . import limits
from .cancellation import EXITS, without_cancellations
from .current import backend

if TYPE_CHECKING:
    import asyncio

    from anyio.abc import TaskGroup


if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup  # type: ignore[import-not-found,unused-ignore]

T = TypeVar("T")

_logger = logging.getLogger(__name__)

# asyncio keeps only weak references to its tasks. The strong ones here are dropped with their loop,
# however it ends.
_tasks: RunVar[set[asyncio.Future[None]]] = RunVar("langchain_anyio_tasks")


def spawn_background(
    func: Callable[[], Awaitable[None]],
    *,
    name: str,
    context: Context | None = None,
    on_done: Callable[[], None] = lambda: None,
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
        on_done: Called when the task has ended, even if an asyncio task was cancelled before it
            began.
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
                    on_done()

        trio.lowlevel.spawn_system_task(contained, name=name, context=context)
    else:
        # create_task() has a parameter for the context only from Python 3.11 on.
        context.run(keep_task, kept_tasks(), func(), name, on_done)


def contained_call(func: Callable[[], object]) -> None:
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
    The wait is shielded and lasts at most `limits.CLEANUP_SECONDS`.

    Args:
        before: Number of nurseries that were open before, and stay open.
    """
    import trio

    task = trio.lowlevel.current_task()
    abandoned = task.child_nurseries[before:]
    for nursery in abandoned:
        nursery.cancel_scope.cancel()
    with trio.move_on_after(limits.CLEANUP_SECONDS, shield=True):
        # Polled: there is no way to wait for the children of somebody else's nursery.
        while any(nursery.child_tasks for nursery in abandoned):  # noqa: ASYNC110
            await trio.sleep(0.01)
    # trio has no public way to abandon a nursery.
    del task._child_nurseries[before:]


def spawn_surely(func: Callable[[], Awaitable[None]], *, name: str) -> None:
    """Start `func` like `spawn_background()`, and make sure that it begins.

    An asyncio task that is cancelled before it begins is started again.
    """
    begun = False

    async def run() -> None:
        nonlocal begun
        begun = True
        await func()

    if backend() == "trio":
        spawn_background(run, name=name)
        return
    kept = kept_tasks()

    def on_done() -> None:
        if not begun:
            keep_task(kept, run(), name, on_done)

    keep_task(kept, run(), name, on_done)


def kept_tasks() -> set[asyncio.Future[None]]:
    """Return the tasks kept for the running loop; call this in a task, not in a callback."""
    tasks = _tasks.get(None)
    if tasks is None:
        tasks = set()
        _tasks.set(tasks)
    return tasks


def keep_task(
    tasks: set[asyncio.Future[None]],
    awaitable: Awaitable[None],
    name: str,
    on_done: Callable[[], None] = lambda: None,
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
        on_done()

    task.add_done_callback(ended)


def spawn_in(tasks: TaskGroup, coroutine: Coroutine[Any, Any, Any], *, name: str) -> None:
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
