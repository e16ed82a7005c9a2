"""asyncio's task groups on trio."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from contextvars import Context
from types import TracebackType
from typing import Any, TypeVar, cast, final

import trio
from typing_extensions import Self

from .futures import Task

if sys.version_info < (3, 11):
    # Comes with trio there.
    from exceptiongroup import BaseExceptionGroup  # type: ignore[import-not-found,unused-ignore]

T = TypeVar("T")


@final
class TaskGroup:
    """A group of tasks, which all have ended when its block is left.

    When one fails, the others and the block are cancelled.

    Ports `asyncio.TaskGroup`. The block is a cancel scope.
    """

    def __init__(self) -> None:
        self._scope = trio.CancelScope()
        self._entered = False
        self._exiting = False
        self._aborting = False
        self._tasks: set[Task[Any]] = set()
        self._errors: list[BaseException] = []
        self._base_error: BaseException | None = None

    def __repr__(self) -> str:
        info = [f"tasks={len(self._tasks)}"] if self._tasks else []
        info += [f"errors={len(self._errors)}"] if self._errors else []
        info += ["cancelling"] if self._aborting else ["entered"] if self._entered else []
        return f"<TaskGroup {' '.join(info)}>" if info else "<TaskGroup>"

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError(f"TaskGroup {self!r} has already been entered")
        self._entered = True
        self._scope.__enter__()
        return self

    def create_task(
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
        eager_start: bool = False,
    ) -> Task[T]:
        """Start a task in the group.

        Raises:
            RuntimeError: The group has not been entered, is being left after an error, or has been
                left.
        """
        state = (
            "has not been entered"
            if not self._entered
            else "is finished"
            if self._exiting and not self._tasks
            else "is shutting down"
            if self._aborting
            else None
        )
        if state is not None:
            coro.close()
            raise RuntimeError(f"TaskGroup {self!r} {state}")
        task = Task(coro, name=name, context=context, eager_start=eager_start)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        self._add(error)
        self._abort()

    def _add(self, error: BaseException) -> None:
        self._errors.append(error)
        if self._base_error is None and isinstance(error, (SystemExit, KeyboardInterrupt)):
            self._base_error = error

    def _abort(self) -> None:
        if not self._aborting:
            self._aborting = True
            for task in list(self._tasks):
                task.cancel()
            if not self._exiting:
                self._scope.cancel()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exiting = True
        error = _without_cancellation(exc)
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            self._base_error = error
        if exc is not None:
            self._abort()
        outcome: BaseException | None = None
        try:
            await self._settled()
        except trio.Cancelled as interruption:
            outcome = interruption
            self._abort()
            with trio.CancelScope(shield=True):
                await self._settled()
        if error is not None:
            self._errors.append(error)
        if self._base_error is not None:
            outcome = self._base_error
        elif self._errors:
            outcome = BaseExceptionGroup("unhandled errors in a TaskGroup", self._errors)
        try:
            if outcome is None:
                self._scope.__exit__(exc_type, exc, traceback)
            else:
                self._scope.__exit__(type(outcome), outcome, None)
                if outcome is not exc:
                    raise outcome from None
        finally:
            self._errors = []
            del exc, error, outcome

    async def _settled(self) -> None:
        while self._tasks:
            await next(iter(self._tasks)).settled()


def _without_cancellation(exc: BaseException | None) -> BaseException | None:
    if isinstance(exc, (trio.Cancelled, asyncio.CancelledError)):
        return None
    if isinstance(exc, BaseExceptionGroup):
        return cast("BaseException | None", exc.split(trio.Cancelled)[1])
    return exc
