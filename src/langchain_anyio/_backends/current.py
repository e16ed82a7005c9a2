"""The running backend, the current task, and the contexts of the tasks that wait for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextvars import Context

import anyio

if sys.version_info < (3, 11):
    pass  # type: ignore[import-not-found,unused-ignore]


def backend() -> str:
    """Return the name of the running backend, `"asyncio"` or `"trio"`, as anyio sees it.

    Raises:
        RuntimeError: No event loop runs in this thread.
    """
    # The only public API that distinguishes the backends on all releases of anyio.
    return anyio.get_cancelled_exc_class().__module__.partition(".")[0]


def task_id() -> int:
    """Return an id of the current task, unique among the tasks that are alive."""
    if backend() == "trio":
        import trio

        return id(trio.lowlevel.current_task())
    import asyncio

    return id(asyncio.current_task())


def current_task() -> object | None:
    """Return the current asyncio task; `None` on trio, where a task's end cannot be observed."""
    asyncio = sys.modules.get("asyncio")
    try:
        return None if asyncio is None else asyncio.current_task()
    except RuntimeError:
        return None


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


def is_loop_ending() -> bool:
    """Return whether the loop is ending and cancels its tasks, of which the current one is one.

    Always `False` on asyncio, where this cannot be determined.
    """
    if backend() != "trio":
        return False
    import trio

    nursery = trio.lowlevel.current_task().parent_nursery
    return nursery is not None and nursery.cancel_scope.cancel_called
