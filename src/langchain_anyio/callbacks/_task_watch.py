"""Detection of runs that end with the task that runs them, where langchain-core reports no end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from langchain_anyio._backends.current import current_task, task_id
from langchain_anyio._langchain_core import frames_of_current_task

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import RLock

    from ._run_node import RunNode


@final
class TaskWatch:
    """Cancels runs whose task or coroutine has ended without a report of their own end.

    Args:
        lock: Guards the runs.
        cancel: Records that a run was cut off, unless it is known to have ended.
    """

    __slots__ = ("_cancel", "_frames", "_lock", "_tasks")

    def __init__(self, lock: RLock, cancel: Callable[[RunNode], None]) -> None:
        self._lock = lock
        self._cancel = cancel
        # Open runs by the asyncio task whose end may be theirs. The flag says whether any end of
        # the task ends the run, or only a cancellation.
        self._tasks: dict[Any, dict[RunNode, bool]] = {}
        # By task, the open runs of coroutines that it runs to the end, and the frames of these.
        self._frames: dict[int, dict[RunNode, int]] = {}

    def watch(self, run: RunNode, *, whole: bool = False) -> None:
        """Treat a cancellation of the current asyncio task as that of the run.

        If the task runs the `whole` run, any end of the task counts.
        """
        task: Any = current_task()
        if task is None or task is run.task or run.ended:
            return
        with self._lock:
            self._unwatch_task(run)
            run.task = task
            # One callback for all runs, because removing a callback takes time linear in their
            # number.
            runs = self._tasks.get(task)
            if runs is None:
                runs = self._tasks[task] = {}
                task.add_done_callback(self._task_ended)
            runs[run] = whole

    def watch_coroutine(self, run: RunNode, frame: int) -> None:
        """Watch the current task, which runs the coroutine of `frame`, and so the whole run."""
        self.watch(run, whole=True)
        with self._lock:
            run.runner = task_id()
            self._frames.setdefault(run.runner, {})[run] = frame

    def unwatch(self, run: RunNode) -> None:
        """Forget a run that has ended; call this with the lock held."""
        if run.task is not None:
            self._unwatch_task(run)
        if run.runner is not None:
            frames = self._frames[run.runner]
            del frames[run]
            if not frames:
                del self._frames[run.runner]
            run.runner = None

    def _unwatch_task(self, run: RunNode) -> None:
        task, run.task = run.task, None
        runs = self._tasks.get(task)
        if runs is not None and runs.pop(run, None) is not None and not runs:
            del self._tasks[task]
            task.remove_done_callback(self._task_ended)

    def _task_ended(self, task: Any) -> None:
        with self._lock:
            for run, whole in self._tasks.pop(task, {}).items():
                run.task = None
                if whole or task.cancelled():
                    self._cancel(run)

    def cancel_returned(self) -> None:
        """Cancel the runs whose coroutines have returned to the current task.

        Keeping the traceback of an error also keeps the objects of its call alive, so the call may
        not be seen to end. But a coroutine that is not on the stack of the task that runs it, while
        that task runs, has returned.
        """
        with self._lock:
            frames = self._frames.get(task_id())
            if frames:
                on_stack = frames_of_current_task()
                for run in [run for run, frame in frames.items() if frame not in on_stack]:
                    self._cancel(run)
