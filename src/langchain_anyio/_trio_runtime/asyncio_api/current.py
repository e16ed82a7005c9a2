"""Which of asyncio's tasks is current on trio, and tasks that begin at once."""

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
    """A trio task, as far as `asyncio.current_task()` is asked about it, that is no task of the runtime's."""

    __slots__ = ("_task",)

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self._task = task

    def get_name(self) -> str:
        return self._task.name

    def cancelling(self) -> int:
        """Tell whether a scope around the task is cancelled, which asyncio counts the requests for."""
        return int(
            isinstance(sys.exc_info()[1], trio.Cancelled)
            or trio.current_effective_deadline() == -float("inf")
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ForeignTask) and other._task is self._task

    def __hash__(self) -> int:
        return hash(self._task)


def current_task(loop: object = None) -> Task[Any] | ForeignTask | None:
    """Port `asyncio.current_task`; a loop of asyncio's has its own."""
    if loop is not None and not isinstance(loop, TrioLoop):
        return asyncio.current_task(cast("Any", loop))  # type: ignore[return-value]
    task = trio.lowlevel.current_task()
    return Task.of(task) or ForeignTask(task)


def all_tasks(loop: object = None) -> set[Task[Any]]:
    """Port `asyncio.all_tasks`: those of the run that have been made here, whatever call they belong to."""
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
    """Port `asyncio.eager_task_factory`; the task does not begin at once, but before any that is started later."""
    return Task(coro, name=name, context=context)


def create_eager_task_factory(
    custom_task_constructor: Callable[..., T],
) -> Callable[..., T]:
    """Port `asyncio.create_eager_task_factory`; likewise."""

    def factory(loop: object, coro: Awaitable[Any], **kwargs: Any) -> T:
        return custom_task_constructor(coro, loop=loop, eager_start=True, **kwargs)

    return factory
