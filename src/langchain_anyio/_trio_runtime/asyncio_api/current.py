"""asyncio's current task, all tasks and eager task factories on trio."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, TypeVar, cast, final

import trio

from .futures import Task
from .loop import TrioLoop

T = TypeVar("T")


@final
class ForeignTask:
    """The result of `asyncio.current_task()` in a trio task that the runtime did not start."""

    __slots__ = ("_task",)

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self._task = task

    def get_name(self) -> str:
        return self._task.name

    def cancelling(self) -> int:
        """Return 1 if a scope around the task is cancelled, else 0; asyncio counts requests."""
        return int(
            isinstance(sys.exc_info()[1], trio.Cancelled)
            or trio.current_effective_deadline() == -float("inf")
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ForeignTask) and other._task is self._task

    def __hash__(self) -> int:
        return hash(self._task)


def current_task(loop: object = None) -> Task[Any] | ForeignTask | None:
    """Port `asyncio.current_task`; for a loop of asyncio, return asyncio's current task."""
    if loop is not None and not isinstance(loop, TrioLoop):
        return asyncio.current_task(cast("Any", loop))  # type: ignore[return-value]
    task = trio.lowlevel.current_task()
    return Task.of(task) or ForeignTask(task)


def all_tasks(loop: object = None) -> set[Task[Any]]:
    """Port `asyncio.all_tasks`: the runtime's unfinished tasks in this run, of whatever call."""
    if loop is not None and not isinstance(loop, TrioLoop):
        return asyncio.all_tasks(cast("Any", loop))  # type: ignore[return-value]
    root = trio.lowlevel.current_root_task()
    assert root is not None
    found = (Task.started_in(task) for n in root.child_nurseries for task in n.child_tasks)
    return {task for task in found if task is not None and not task.done()}


def eager_task_factory(
    loop: object,  # noqa: ARG001  # asyncio's parameter
    coro: Awaitable[T],
    *,
    name: str | None = None,
    context: Context | None = None,
) -> Task[T]:
    """Port `asyncio.eager_task_factory`.

    The task does not begin at once, but before any task that is started later.
    """
    return Task(coro, name=name, context=context)


def create_eager_task_factory(
    custom_task_constructor: Callable[..., T],
) -> Callable[..., T]:
    """Port `asyncio.create_eager_task_factory`, for tasks that begin as in `eager_task_factory`."""

    def factory(loop: object, coro: Awaitable[Any], **kwargs: Any) -> T:
        return custom_task_constructor(coro, loop=loop, eager_start=True, **kwargs)

    return factory
