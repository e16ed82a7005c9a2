"""Tasks that tests cancel, at a scheduling point of their choice and in every way there is."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint


def ways_to_cancel(anyio_backend: tuple[str, Any]) -> tuple[str, ...]:
    """What can cancel a task on the backend: trio knows cancel scopes alone."""
    if anyio_backend[0] == "trio":
        return ("scope", "deadline")
    return ("scope", "deadline", "native", "native twice")


class Victim:
    """A task that calls an async function until it is cancelled.

    Attributes:
        outcome: `"running"`, `"returned"`, `"raised"` or `"cancelled"`.
        value: What it returned or raised.
        cancelling: On asyncio what `Task.cancelling()` said at its end, which is how often it was natively cancelled;
            `None` where nobody counts.
    """

    def __init__(self, group: TaskGroup, func: Callable[[], Awaitable[Any]]) -> None:
        self.outcome = "running"
        self.value: Any = None
        self.cancelling: int | None = None
        self._scope = anyio.CancelScope()
        self._func = func
        self._native: Any = None
        self._natively = 0
        group.start_soon(self._run)

    async def _run(self) -> None:
        if "asyncio" in sys.modules:
            import asyncio

            try:
                self._native = asyncio.current_task()
            except RuntimeError:
                self._native = None
            for _ in range(self._natively):
                self._native.cancel()
        try:
            with self._scope:
                try:
                    self.value = await self._func()
                    self.outcome = "returned"
                except Exception as exc:
                    self.outcome, self.value = "raised", exc
                except anyio.get_cancelled_exc_class():
                    self.outcome = "cancelled"
                    raise
        except anyio.get_cancelled_exc_class():
            if not self._natively:  # which would cancel the whole group
                raise
        finally:
            if hasattr(self._native, "cancelling"):  # from Python 3.11 on
                self.cancelling = self._native.cancelling()

    def cancel(self, how: str) -> None:
        if how == "scope":
            self._scope.cancel()
        elif how == "deadline":
            self._scope.deadline = anyio.current_time()
        elif how in ("native", "native twice"):
            times = 2 if how == "native twice" else 1
            self._natively += times
            # One that has not begun cannot be named yet, and is cancelled as it begins.
            if self._native is not None:
                for _ in range(times):
                    self._native.cancel()


async def ticks(number: int) -> None:
    """Let the other tasks run `number` times."""
    for _ in range(number):
        await checkpoint()


async def settle() -> None:
    """Let the other tasks run until a handful of them, with nothing to wait for, must be blocked."""
    await ticks(40)


def living() -> int:
    """Count the tasks of the running loop."""
    if "trio" in sys.modules:
        import trio

        if trio.lowlevel.in_trio_run():
            return trio.lowlevel.current_statistics().tasks_living
    import asyncio

    return len(asyncio.all_tasks())
