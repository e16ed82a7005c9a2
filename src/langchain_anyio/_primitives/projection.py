"""`AsyncProjection`: deltas to iterate over as they arrive, and a final value to wait for.

A projection and its cursors share one `ProjectionState`. A producer that refers only to the state
can detect, by a finalizer, that nobody is left who could read it.
"""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, NoReturn, TypeVar, cast

import anyio
from typing_extensions import Self, override

from langchain_anyio._backends.cancellation import without_cancellations
from langchain_anyio._backends.waiters import Waiter, wait_until
from langchain_anyio._errors import StreamCancelledError

from .backpressure import Backpressure
from .batches import BatchIterator, HasPosition, ProjectionBatches
from .checkpoints import STEPS_CHECKED, ConsumerCheckpoints, raise_if_moved
from .wakeup import Wakeup

D = TypeVar("D")
F = TypeVar("F")

# Deltas that every cursor has passed are dropped in batches. For a constant cost per step, the
# cursors are examined once in this many steps, or in as many as there are cursors if that is more.
_MIN_STEPS_BETWEEN_DROPS = 64


class ProjectionState(Generic[D, F]):
    """The deltas, final value and waiting consumers of one projection.

    All methods are sync except those whose names begin with `wait_for_`.

    A producer that takes a step only when it is asked sets `request_more`. One that does so in a
    task of its own also sets `request_step`, which asks without waiting and returns what the end of
    the step fires, or `None` if nothing more will come.

    Invariants: `deltas[i]` is delta number `dropped + i` and belongs to event `marks[i]` of the
    flow; `more` is one of `flow.delta_wakeups`.
    """

    __slots__ = (
        "_cursors",
        "_ended",
        "_traceback",
        "_until_drop",
        "deltas",
        "done",
        "dropped",
        "error",
        "final",
        "flow",
        "marks",
        "more",
        "request_more",
        "request_step",
        "start",
    )

    def __init__(self, flow: Backpressure | None = None, *, replay: bool = True) -> None:
        self.deltas: list[D] = []
        self.marks: array[int] | None = None if flow is None else array("Q")
        self.dropped: int = 0
        self.final: F | None = None
        self.done: bool = False
        self.error: BaseException | None = None
        self._traceback: Any = None
        self.flow: Backpressure | None = flow
        self.start: Callable[[], Awaitable[None]] | None = None
        self.request_more: Callable[[], Awaitable[bool]] | None = None
        self.request_step: Callable[[], Wakeup | None] | None = None
        self.more: Wakeup = Wakeup()
        if flow is not None:
            flow.delta_wakeups.append(self.more)
        self._ended = Wakeup()
        # Not a WeakSet: another thread may collect a cursor while this one iterates over them.
        self._cursors: list[weakref.ref[HasPosition]] | None = None if replay else []
        self._until_drop = _MIN_STEPS_BETWEEN_DROPS

    def push(self, delta: D) -> None:
        """Append a delta of the newest event of the flow, and wake the cursors."""
        if self.more.waiting:
            self._wake()
        self.deltas.append(delta)
        marks = self.marks
        if marks is not None:
            marks.append(self.flow.produced)  # type: ignore[union-attr]  # marks imply a flow
        if self._cursors is not None:
            self._drop_passed()

    def complete(self, final: F) -> None:
        """Set the final value, which ends the projection; only the first end counts."""
        if not self.done:
            self._end()
            self.final = final

    def fail(self, error: BaseException) -> None:
        """End the projection with an error; only the first end counts."""
        if not self.done:
            self._end()
            self.error = error
            self._traceback = error.__traceback__

    def fail_as(self, other: ProjectionState[Any, Any]) -> None:
        """End, before any task waits, with the error and original traceback of `other`."""
        self.done, self.error, self._traceback = True, other.error, other._traceback

    def _end(self) -> None:
        self._ended.fire()
        self._wake()
        self.done = True

    def _wake(self) -> None:
        waited = bool(self.more.waiting)
        # First, because it raises if the tasks wait in another thread.
        self.more.fire()
        if waited and self.flow is not None:
            # Woken cursors now stand just before the newest event.
            self.flow.pass_by(self.flow.produced - 1)

    def holds(self, position: int) -> bool:
        """Return whether delta number `position` has arrived."""
        return position - self.dropped < len(self.deltas)

    def take(self, position: int) -> D:
        """Return delta number `position` and record that a consumer is past it."""
        index = position - self.dropped
        flow = self.flow
        # Usually some consumer is past the newest event already, so there is nothing to record.
        if flow is not None and flow.consumed < flow.produced and self.marks is not None:
            mark = self.marks[index]
            if mark > flow.consumed:
                flow.pass_by(mark)
        delta = self.deltas[index]
        if self._cursors is not None:
            self._drop_passed()
        return delta

    def take_all(self, position: int) -> list[D]:
        """Return the deltas from number `position` on, of which there are some, like `take()`."""
        flow = self.flow
        if flow is not None and flow.consumed < flow.produced and self.marks is not None:
            mark = self.marks[-1]
            if mark > flow.consumed:
                flow.pass_by(mark)
        deltas = self.deltas[position - self.dropped :]
        if self._cursors is not None:
            self._drop_passed()
        return deltas

    def raise_error(self) -> NoReturn:
        """Raise the error with its original traceback, however often it was raised before."""
        assert self.error is not None
        raise_as_it_came(self.error, self._traceback)

    def join(self, steps: ConsumerCheckpoints) -> Waiter:
        """Return a waiter for the next delta or the end.

        If awaiting it raises, the caller must call `leave()`.

        Raises:
            RuntimeError: The consumer runs on another event loop or thread than the producer or the
                other waiting consumers; or the producer waits for the consumer.
        """
        if self.flow is not None:
            self.flow.note_waiting(steps)
        return self.more.join(steps)

    async def wait_for_more(self, steps: ConsumerCheckpoints) -> None:
        """Wait for the next delta or the end; raises as `join()` does."""
        waiter = self.join(steps)
        try:
            await waiter
        except BaseException as exc:
            self.leave(waiter)
            raise_if_moved(exc)
            raise

    def leave(self, waiter: Waiter) -> None:
        """Stop waiting, whether or not the waiter has been woken."""
        if self.more.leave(waiter) and self.flow is not None:
            self.flow.pass_by(self.flow.produced)

    async def wait_for_end(self, steps: ConsumerCheckpoints, deadline: float) -> None:
        """Wait for the end, until `deadline` on the event loop's clock.

        The consumer is not at the head meanwhile, so the producer may be held back.

        Raises:
            RuntimeError: As `join()` does.
        """
        if self.flow is not None:
            self.flow.check_consumer(steps.current_loop())
        await self.wait_for_step(self._ended, steps, deadline)

    async def wait_for_step(
        self, wakeup: Wakeup, steps: ConsumerCheckpoints, deadline: float
    ) -> None:
        """Wait for `wakeup`, until `deadline` on the event loop's clock."""
        waiter = wakeup.join(steps)
        try:
            await wait_until(waiter, deadline)
        except BaseException as exc:
            raise_if_moved(exc)
            raise
        finally:
            wakeup.leave(waiter)

    async def wait_for_producer(self, step: Wakeup | None, steps: ConsumerCheckpoints) -> bool:
        """Wait for a step that was asked for; return whether there is one."""
        if step is None:
            return False
        waiter = step.join(steps)
        try:
            await waiter
        except BaseException as exc:
            step.leave(waiter)
            raise_if_moved(exc)
            raise
        return True

    async def wait_for_final(self) -> F:
        """Wait for the final value and return it, or raise the error."""
        if self.start is not None:
            await self.start()
        steps = ConsumerCheckpoints()
        await steps.take(ready=self.done or self.request_more is not None)
        if self.flow is not None:
            if not self.done:
                self.flow.check_consumer(steps.current_loop())
            self.flow.producer_wakeup.fire()  # first, because it may raise
            self.flow.awaiting_final += 1
        try:
            while not self.done:
                if self.request_more is None:
                    await self._ended.wait()
                elif not await self.request_more():
                    break
                else:  # `request_more()` may never be a checkpoint
                    await steps.take()
        finally:
            if self.flow is not None:
                self.flow.awaiting_final -= 1
        if self.error is not None:
            self.raise_error()
        return cast("F", self.final)

    def add_cursor(self, cursor: HasPosition) -> None:
        """Register a cursor; deltas that it has not passed are kept while it is alive."""
        if self.flow is not None:
            if not self.done:
                self.flow.check_reader()
            self.flow.shared = True
        if self._cursors is not None:
            self._cursors.append(weakref.ref(cursor))
            self._drop_passed()

    def _drop_passed(self) -> None:
        """Drop the deltas that every cursor has passed, in one of many calls."""
        self._until_drop -= 1
        if self._until_drop > 0 or self._cursors is None:
            return
        cursors = [cursor for ref in self._cursors if (cursor := ref()) is not None]
        self._cursors = [weakref.ref(cursor) for cursor in cursors]
        self._until_drop = max(_MIN_STEPS_BETWEEN_DROPS, len(cursors))
        end = self.dropped + len(self.deltas)
        passed = min((c.position_in(self) for c in cursors), default=end) - self.dropped
        if 2 * passed >= len(self.deltas):
            del self.deltas[:passed]
            if self.marks is not None:
                del self.marks[:passed]
            self.dropped += passed

    @property
    def keeps_all(self) -> bool:
        return self._cursors is None


class Cursor(Generic[D]):
    """One consumer's position in a projection, which moves only when a delta is returned.

    Tasks that share a cursor each get some of the deltas.
    """

    __slots__ = ("__weakref__", "_owner", "_position", "_state", "_steps")

    def __init__(self, state: ProjectionState[D, Any], owner: object) -> None:
        self._state = state
        self._owner = owner
        self._position = state.dropped
        self._steps = ConsumerCheckpoints()
        state.add_cursor(self)

    def __aiter__(self) -> Cursor[D]:
        return self

    async def __anext__(self) -> D:
        state, steps = self._state, self._steps
        if state.start is not None:
            await state.start()
        ready = (
            self._position - state.dropped < len(state.deltas)
            or state.done
            or state.request_more is not None
        )
        # `steps.take()` and `state.wait_for_more()` are inlined: as calls they make a burst of
        # deltas 12 % slower and a hundred woken consumers 7 to 20 %. Cancellation is checked before
        # a wait too: on asyncio, a task woken in the same loop iteration in which its scope is
        # cancelled would return normally.
        backend, taken = steps.backend or steps.look_up(), steps.taken
        try:
            if not taken % STEPS_CHECKED and (ready or taken):
                await steps.take_longer()
            else:
                steps.taken = taken + 1
                await backend.checkpoint_if_cancelled()
        except Exception as exc:
            raise_if_moved(exc)
            raise
        while not self._position - state.dropped < len(state.deltas):
            if state.done:
                if state.error is not None:
                    state.raise_error()
                raise StopAsyncIteration
            if state.request_more is None:
                waiter = state.join(steps)
                try:
                    await waiter
                except BaseException as exc:
                    state.leave(waiter)
                    raise_if_moved(exc)
                    raise
            elif state.request_step is not None:
                if not await state.wait_for_producer(state.request_step(), steps) and not (
                    state.holds(self._position) or state.done
                ):
                    raise StopAsyncIteration
            elif await state.request_more():
                if not state.holds(self._position):
                    await steps.take()  # `request_more()` may never be a checkpoint
            elif not (state.holds(self._position) or state.done):
                raise StopAsyncIteration
        position = self._position
        self._position = position + 1
        return state.take(position)

    def position_in(self, state: ProjectionState[Any, Any]) -> int:  # noqa: ARG002
        """Return the position in `state`; an `InterleavedCursor` reads several states."""
        return self._position


class AsyncProjection(Generic[D, F]):
    """An async iterable of deltas, also awaitable for the final value.

    A producer calls `push()` for each delta, then `complete()` or `fail()` once. There are four
    ways to read a projection:

    | to read | gives | can miss |
    |---|---|---|
    | `async for delta in projection` | every delta from the first, whenever it begins | nothing |
    | `async for batch in projection.batches()` | all that has come, at once | nothing |
    | `await projection` | the final value | the deltas |
    | `projection.done`, `.error` | the current state | whatever happens between two reads |

    Any number of iterators and awaiters can come and go, in any tasks of one event loop. Each
    iterator has its own cursor, so that none takes anything from another. A consumer that is
    cancelled, by a scope, a deadline or `Task.cancel()`, loses nothing: its cursor moves only when
    a delta or batch is returned. Each step is a cancellation point for cancel scopes, and lets
    other tasks run at least every 64 steps. All deltas are kept.

    An error is raised to every consumer, after the deltas that came before it and with its original
    traceback.

    Ports `langchain_core.language_models.chat_model_stream.AsyncProjection`. There, a later
    `complete()` or `fail()` replaces an earlier one; here, the first one counts.
    """

    __slots__ = ("_owner", "_state")

    def __init__(self) -> None:
        self._state: ProjectionState[D, F] = ProjectionState()
        self._owner: object = None

    @classmethod
    def _view(cls, state: ProjectionState[D, F], owner: object) -> Self:
        """Make a projection of a state that another object feeds while `owner` is alive."""
        self = cls.__new__(cls)
        self._state = state
        self._owner = owner
        return self

    def __repr__(self) -> str:
        state = self._state
        if not state.done:
            status = "unfinished"
        elif state.error is None:
            status = "finished"
        else:
            status = f"failed with {type(state.error).__name__}"
        names = (cls.__name__ for cls in type(self).__mro__)
        name = next(name for name in names if not name.startswith("_"))
        count = state.dropped + len(state.deltas)
        # Code that prints it may have meant its value.
        return f"<{name} {status}, {count} deltas; iterate over it or await it>"

    @property
    def done(self) -> bool:
        """True once the projection has ended, with its final value or with an error."""
        return self._state.done

    @property
    def error(self) -> BaseException | None:
        """The error that ended the projection, if one did."""
        return self._state.error

    def set_start(self, cb: Callable[[], Awaitable[None]] | None) -> None:
        """Set a callback that is awaited before each step of a consumer, to start the producer.

        Args:
            cb: An async function without arguments, which must start the producer only once however
                often it is called; `None` removes it.
        """
        self._state.start = cb

    def set_arequest_more(self, cb: Callable[[], Awaitable[bool]] | None) -> None:
        """Set a callback that consumers that have read everything await to get more.

        Several consumers may call it at once. One that waits out the interval of `batches()` calls
        it again and again, and never cancels it.

        Args:
            cb: An async function without arguments that makes the producer take one step and
                returns whether it did. `False` means that nothing more will come: iteration ends,
                and awaiters return what there is. `None` removes the callback.
        """
        self._state.request_more, self._state.request_step = cb, None

    def push(self, delta: D) -> None:
        """Append a delta and wake the consumers.

        Raises:
            anyio.ClosedResourceError: The projection has ended.
        """
        if self._state.done:
            raise anyio.ClosedResourceError("the projection has ended and takes no more deltas")
        self._state.push(delta)

    def complete(self, final_value: F) -> None:
        """Set the final value and wake the consumers; no effect after the end."""
        self._state.complete(final_value)

    def fail(self, error: BaseException) -> None:
        """End with an error and wake the consumers; no effect after the end.

        Args:
            error: The exception that consumers are raised. A backend's cancellation exception,
                which belongs to one task, is replaced by `StreamCancelledError`, or left out of an
                exception group. `StopIteration` and `StopAsyncIteration` are replaced by
                `RuntimeError`.
        """
        self._state.fail(shareable_error(error))

    def __aiter__(self) -> Cursor[D]:
        """Iterate over all deltas from the first, then end or raise the error."""
        return Cursor(self._state, self._owner or self)

    def batches(self, interval: float = 0.0) -> BatchIterator[list[D]]:
        """Iterate over what has come since the last step, all at once.

        A batch is a list of deltas, or of an `AsyncTextProjection` one `str`, and is never empty.
        Iteration begins with the first delta and ends like `async for delta in projection`, with
        the same guarantees. A step costs about as much as that of a single delta.

        With an interval, the first batch comes as soon as there is one, and the last one as soon as
        the projection ends. In between, the producer may run ahead, but no further than its buffer
        allows: at most `max_buffer_size` events of `open_stream()` come in one interval.

        Args:
            interval: The shortest time between two batches in seconds, such as 0.05 for a page that
                is updated 20 times a second.

        Raises:
            TypeError: `interval` is not a number.
            ValueError: `interval` is negative, infinite or NaN.

        Example:
            ```python
            async for text in stream.text.batches(interval=0.05):
                await page.append(text)
            ```
        """
        return ProjectionBatches(self._state, self._owner or self, interval, _as_it_is)

    def __await__(self) -> Generator[Any, Any, F]:
        """Wait for the final value; always a checkpoint.

        Raises:
            BaseException: The error that ended the projection.
        """
        return self._wait().__await__()

    async def _wait(self) -> F:
        return await self._state.wait_for_final()


class AsyncTextProjection(AsyncProjection[str, str]):
    """An `AsyncProjection` whose deltas and final value are strings.

    Ports `langchain_core.language_models.chat_model_stream.AsyncTextProjection`.
    """

    __slots__ = ()

    def push(self, delta: str) -> None:
        """Append a piece of text and wake the consumers.

        Raises:
            TypeError: `delta` is not a string.
            anyio.ClosedResourceError: The projection has ended.
        """
        _check_text("delta", delta)
        super().push(delta)

    def complete(self, final_value: str) -> None:
        """Set the whole text and wake the consumers; no effect after the end.

        Raises:
            TypeError: `final_value` is not a string.
        """
        _check_text("final value", final_value)
        super().complete(final_value)

    # Whoever knows a projection to be one of text gets strings, which are no lists.
    @override
    def batches(self, interval: float = 0.0) -> BatchIterator[str]:  # type: ignore[override]
        """Iterate over the text that has come since the last step, as one string.

        Otherwise like `AsyncProjection.batches()`.

        Args:
            interval: The shortest time between two batches in seconds.

        Raises:
            TypeError: `interval` is not a number.
            ValueError: `interval` is negative, infinite or NaN.
        """
        return ProjectionBatches(self._state, self._owner or self, interval, "".join)

    async def _wait(self) -> str:
        # `None` if `request_more()` returned `False` before the text was complete.
        return await super()._wait() or ""


def _as_it_is(deltas: list[D]) -> list[D]:
    return deltas


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"AsyncTextProjection requires a string {name}, not {type(value).__name__}")


def raise_as_it_came(error: BaseException, traceback: Any) -> NoReturn:
    """Raise an error that may have been raised before, with its original traceback and context."""
    context = error.__context__
    try:
        raise error.with_traceback(traceback)
    finally:
        # An exception that a consumer is handling now did not cause this error.
        error.__context__ = context
        del error  # its traceback refers to this frame


def shareable_error(error: BaseException) -> BaseException:
    """Return `error`, or a substitute that can be raised to any task.

    Cancellations, also those within a group, belong to one task: a group is returned without them,
    and `StreamCancelledError` if nothing is left. `StopIteration` and `StopAsyncIteration` would
    look like the end to a consumer, as in a generator (PEP 479), and become `RuntimeError`.
    """
    rest = without_cancellations(error)
    if isinstance(rest, (StopIteration, StopAsyncIteration)):
        stopped = RuntimeError(f"the producer raised {type(rest).__name__}")
        stopped.__cause__ = rest
        return stopped
    return StreamCancelledError() if rest is None else rest


for _public in (AsyncProjection, AsyncTextProjection):
    _public.__module__ = "langchain_anyio"
del _public
