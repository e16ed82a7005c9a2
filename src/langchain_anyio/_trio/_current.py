"""Which of asyncio's tasks is current on trio, and tasks that begin at once."""

from __future__ import annotations

import sys
from collections.abc import Awaitable
from contextvars import Context
from typing import Any, TypeVar, final

import trio

from ._futures import Task

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


def current_task() -> Task[Any] | ForeignTask:
    """Port `asyncio.current_task`, of the running loop."""
    task = trio.lowlevel.current_task()
    return Task.of(task) or ForeignTask(task)


def eager_task_factory(
    loop: object,  # noqa: ARG001  # asyncio's parameter
    coro: Awaitable[T],
    *,
    name: str | None = None,
    context: Context | None = None,
) -> Task[T]:
    """Port `asyncio.eager_task_factory`; the task does not begin at once, but before any that is started later."""
    return Task(coro, name=name, context=context)
