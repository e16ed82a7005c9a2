"""The bounded cleanup of a run in background tasks, be it a model's or a graph's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence

import anyio

from langchain_anyio._backends import limits
from langchain_anyio._backends.cancellation import EXITS, HeldCancellation, wait_uncancellable
from langchain_anyio._backends.current import backend
from langchain_anyio._backends.event_loops import Loop
from langchain_anyio._backends.leaks import warn_of_leak
from langchain_anyio._backends.tasks import spawn_in, spawn_surely
from langchain_anyio._primitives.event import Event
from langchain_anyio._primitives.projection import raise_as_it_came

_NAME = "langchain_anyio.open_stream"

TimeLimit = tuple[Event, float, Callable[[], None]]
"""An event, the seconds in which it has to be set, and what to call if it is not."""


class BackgroundRun(ABC):
    """A run whose tasks belong to an event loop, and end in bounded time once it is closed.

    | state | meaning |
    |---|---|
    | `_loop is None` | not started |
    | `_cleanup_since is None` | no time limit |
    | `_ended.is_set()` | everything has ended, or was given up |
    """

    def __init__(self) -> None:
        self._loop: Loop | None = None
        self._cleanup_since: float | None = None
        self._cleanup_scope: anyio.CancelScope | None = None
        self._ended = Event()

    @abstractmethod
    def close(self) -> None:
        """Begin to stop; call this on the run's event loop."""

    @abstractmethod
    def _close_unstarted(self) -> None:
        """End a run that has not started."""

    @abstractmethod
    def _is_cut_short_by_close(self) -> bool:
        """Return whether `close()` would take anything from a reader."""

    @abstractmethod
    def _waits_for_caller(self) -> bool:
        """Return whether the run's end waits for the caller."""

    @abstractmethod
    def _errors(self) -> Iterator[BaseException | None]:
        """Yield the errors that the run has ended with."""

    @abstractmethod
    def _time_limits(self) -> Sequence[TimeLimit]:
        """Return the time limits of the cleanup, the shortest first."""

    async def aclose(self) -> None:
        """Stop, and return when everything has ended or was given up."""
        if self._loop is None:
            self._close_unstarted()
            return
        if not self._ended.is_set():
            if not self._loop.is_current():
                raise RuntimeError("the stream runs on another event loop, and is closed there")
            self.close()
            if self._waits_for_caller():
                return  # the run ends after the caller has returned
            await wait_uncancellable(self._ended)
        if backend() == "asyncio":
            return  # the task itself has passed an exit on to the loop
        for error in self._errors():
            if isinstance(error, EXITS):
                raise_as_it_came(error, error.__traceback__)

    def dropped(self) -> bool:
        """Begin to stop, as nobody can read the stream any more; may be called from any thread."""
        if self._loop is None or not self._is_cut_short_by_close():
            return False
        return self._loop.call_soon(self.close)

    def _begin_cleanup(self) -> None:
        """Make sure, from a task of its own, that the cleanup ends in time; only once."""
        if self._cleanup_since is None:
            self._limit_cleanup()
            spawn_surely(self._watch, name=f"{_NAME} cleanup")

    def _limit_cleanup(self) -> None:
        """Start the time limit of the cleanup, which begins now."""
        self._cleanup_since = anyio.current_time()
        if self._cleanup_scope is not None:
            self._cleanup_scope.deadline = self._cleanup_since + limits.OWN_SECONDS

    async def _watch(self) -> None:
        """Enforce the time limits, even if all tasks are cancelled."""
        assert self._cleanup_since is not None
        cancellation = HeldCancellation()
        for event, seconds, give_up in self._time_limits():
            with cancellation:
                await wait_uncancellable(event, self._cleanup_since + seconds)
            if not event.is_set():
                give_up()
        self._ended.set()
        cancellation.release()

    async def _run_cleanup(self, *steps: Callable[[], Awaitable[None]]) -> bool:
        """Run the steps of a cleanup in a shielded scope, with a time limit if there is one.

        If a step is cut short, natively or by the limit, the next one still begins. The limit
        begins at the latest when the scope around it is cancelled, as when the event loop ends.

        Returns:
            Whether the cleanup has ended in time.
        """
        self._cleanup_scope = anyio.CancelScope(shield=True)
        if self._cleanup_since is not None:
            self._cleanup_scope.deadline = self._cleanup_since + limits.OWN_SECONDS
        notice = None
        try:
            async with anyio.create_task_group() as tasks:
                notice = self._notice_cancellation(tasks.cancel_scope)
                spawn_in(tasks, notice, name=f"{_NAME} cancellation")
                with self._cleanup_scope:
                    cancellation = HeldCancellation()
                    for step in steps:
                        with cancellation:
                            await step()
                    cancellation.release()
                tasks.cancel_scope.cancel()
        finally:
            if notice is not None:
                notice.close()
        return not self._cleanup_scope.cancelled_caught

    async def _notice_cancellation(self, own: anyio.CancelScope) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            if self._cleanup_since is None and not own.cancel_called:
                self._limit_cleanup()

    def _warn_of_abandoned(self, names: Sequence[str]) -> None:
        warn_of_leak(
            f"the cleanup of a stream was given up after {limits.CLEANUP_SECONDS:g} seconds; "
            f"left behind: {', '.join(names)}",
            self,
        )
