"""Batches: what has come since the last step of an iteration, all at once."""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Generic, NoReturn, Protocol, TypeVar, final

import anyio
from typing_extensions import Self

from langchain_anyio._backends.waiters import Waiter

from .checkpoints import STEPS_CHECKED, ConsumerCheckpoints, raise_if_moved
from .wakeup import Wakeup

B = TypeVar("B")
D = TypeVar("D")


@final
class Pace:
    """Keeps two batches at least `interval` seconds apart, by the clock of the event loop.

    Args:
        interval: Seconds between two batches; with 0, a batch is always due.

    Raises:
        TypeError: `interval` is not a number.
        ValueError: `interval` is negative, infinite or NaN.
    """

    __slots__ = ("due", "interval")

    def __init__(self, interval: float) -> None:
        if not isinstance(interval, (int, float)) or isinstance(interval, bool):
            raise TypeError(f"interval must be a number of seconds, not {interval!r}")
        # With an infinite one, a producer that is held back would never be let go on.
        if not 0 <= interval <= sys.float_info.max:
            raise ValueError(f"interval must be a finite number of seconds >= 0, not {interval!r}")
        self.interval: float = float(interval)
        self.due: float = -math.inf
        """The time before which the next batch is not given."""

    def is_early(self) -> bool:
        """Return whether the next batch is not due yet."""
        return self.interval > 0 and anyio.current_time() < self.due

    def note_batch(self) -> None:
        """Record that a batch is given now."""
        if self.interval > 0:
            self.due = anyio.current_time() + self.interval


class Source(Protocol):
    """A source of batches, such as a `ProjectionState`."""

    start: Callable[[], Awaitable[None]] | None
    request_more: Callable[[], Awaitable[bool]] | None
    request_step: Callable[[], Wakeup | None] | None
    done: bool
    error: BaseException | None

    def raise_error(self) -> NoReturn: ...

    def join(self, steps: ConsumerCheckpoints) -> Waiter: ...

    def leave(self, waiter: Waiter) -> None: ...

    async def wait_for_end(self, steps: ConsumerCheckpoints, deadline: float) -> None: ...

    async def wait_for_step(
        self, wakeup: Wakeup, steps: ConsumerCheckpoints, deadline: float
    ) -> None: ...


class HasPosition(Protocol):
    """A consumer, whose position in a projection is the number of the next delta it will take."""

    def position_in(self, state: Any, /) -> int: ...


class ProjectionSource(Source, Protocol[D]):
    """The `ProjectionState` of one projection."""

    deltas: list[D]
    dropped: int

    def holds(self, position: int) -> bool: ...

    def take_all(self, position: int) -> list[D]: ...

    def add_cursor(self, cursor: HasPosition) -> None: ...


class BatchIterator(ABC, Generic[B]):
    """One consumer's position, which moves only when a batch is returned.

    Each step returns all that has come since the last one, and waits while that is nothing.
    Tasks that share an iterator each get some of the batches, and share its interval.
    """

    __slots__ = ("__weakref__", "_owner", "_pace", "_source", "_steps")

    def __init__(self, source: Source, owner: object, interval: float) -> None:
        self._pace = Pace(interval)
        self._source = source
        self._owner = owner
        self._steps = ConsumerCheckpoints()

    @abstractmethod
    def _has_more(self) -> bool:
        """Return whether a delta has come since the last step."""

    @abstractmethod
    def _take(self) -> B | None:
        """Move past everything that has come, and return it, if it is anything."""

    @abstractmethod
    def position_in(self, state: Any) -> int:
        """Return the position in a projection, given by its state."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> B:
        """Return the next batch; one checkpoint, besides the waits."""
        source, steps, pace = self._source, self._steps, self._pace
        if source.start is not None:
            await source.start()
        # `steps.take()` and `source.wait_for_more()` are inlined, as in `Cursor.__anext__()`.
        backend, taken = steps.backend or steps.look_up(), steps.taken
        try:
            if not taken % STEPS_CHECKED and (taken or self._is_ready()):
                await steps.take_longer()
            else:
                steps.taken = taken + 1
                await backend.checkpoint_if_cancelled()
        except Exception as exc:
            raise_if_moved(exc)
            raise
        exhausted = False
        while True:
            if pace.interval and not (exhausted or source.done) and pace.is_early():
                exhausted = not await self._wait_until_due()
                continue
            batch = self._take()
            if batch:
                if pace.interval:
                    pace.note_batch()
                return batch
            if source.done:
                if source.error is not None:
                    source.raise_error()
                raise StopAsyncIteration
            if exhausted:
                raise StopAsyncIteration
            if source.request_more is None:
                waiter = source.join(steps)
                try:
                    await waiter
                except BaseException as exc:
                    source.leave(waiter)
                    raise_if_moved(exc)
                    raise
            elif not await source.request_more():
                exhausted = True
            elif not self._has_more():
                await steps.take()  # `request_more()` may never be a checkpoint

    def _is_ready(self) -> bool:
        source = self._source
        return self._has_more() or source.done or source.request_more is not None

    async def _wait_until_due(self) -> bool:
        """Wait until the next batch is due, or for less; return whether more may come.

        A producer that takes a step only when it is asked is asked again and again meanwhile.
        """
        source, steps, due = self._source, self._steps, self._pace.due
        if source.request_more is None:
            await source.wait_for_end(steps, due)
            return True
        if source.request_step is None:
            # It is never cut short: the step of the producer may be executed within it.
            more = await source.request_more()
            await steps.take()
            return more
        wakeup = source.request_step()
        if wakeup is None:
            return False
        await source.wait_for_step(wakeup, steps, due)
        return True


@final
class ProjectionBatches(BatchIterator[B], Generic[D, B]):
    """The batches of a projection.

    Args:
        state: The projection's state.
        owner: Kept alive by the iterator.
        interval: Seconds between two batches.
        combine: Makes a batch of the deltas.
    """

    __slots__ = ("_combine", "_position", "_state")

    def __init__(
        self,
        state: ProjectionSource[D],
        owner: object,
        interval: float,
        combine: Callable[[list[D]], B],
    ) -> None:
        super().__init__(state, owner, interval)
        self._state = state
        self._combine = combine
        self._position = state.dropped
        state.add_cursor(self)

    def _has_more(self) -> bool:
        return self._state.holds(self._position)

    def _take(self) -> B | None:
        position, state = self._position, self._state
        end = state.dropped + len(state.deltas)
        if position == end:
            return None
        self._position = end
        return self._combine(state.take_all(position))

    def position_in(self, state: Any) -> int:  # noqa: ARG002
        return self._position
