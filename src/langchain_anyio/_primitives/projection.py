"""`AsyncProjection`: deltas to iterate over as they come, and a final value to wait for.

Behind the projection and its cursors stands one `ProjectionState`. Whoever feeds a projection may hold
the state alone, and so sees when the last one who could read it is gone.
"""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, NoReturn, TypeVar, cast

import anyio

from langchain_anyio._background import Waiter, without_cancellations
from langchain_anyio._errors import StreamCancelledError

from .backpressure import Flow
from .checkpoints import STEPS_CHECKED, Steps, refuse_moved
from .wakeup import Wakeup

D = TypeVar("D")
F = TypeVar("F")

# Deltas that every cursor has passed are dropped in batches, and the cursors are looked through once in so many
# steps, or as many as there are cursors, so that each step costs the same.
_SMALLEST_DROP = 64


class ProjectionState(Generic[D, F]):
    """What has come of one projection, and who waits for more of it. All methods but two are sync.

    Invariants: `deltas[i]` is delta number `dropped + i` and came with event `marks[i]` of the flow;
    those who wait for the next delta are among `flow.heads`.
    """

    __slots__ = (
        "_cursors",
        "_over",
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
        "start",
    )

    def __init__(self, flow: Flow | None = None, *, replay: bool = True) -> None:
        self.deltas: list[D] = []
        self.marks: array[int] | None = None if flow is None else array("Q")
        self.dropped: int = 0
        self.final: F | None = None
        self.done: bool = False
        self.error: BaseException | None = None
        self._traceback: Any = None
        self.flow: Flow | None = flow
        self.start: Callable[[], Awaitable[None]] | None = None
        self.request_more: Callable[[], Awaitable[bool]] | None = None
        self.more: Wakeup = Wakeup()
        if flow is not None:
            flow.heads.append(self.more)
        self._over = Wakeup()
        # Not a WeakSet: a cursor may be collected in another thread while this one looks through them.
        self._cursors: list[weakref.ref[Cursor[Any]]] | None = None if replay else []
        self._until_drop = _SMALLEST_DROP

    # Producing

    def push(self, delta: D) -> None:
        """Append a delta, which came with the newest event of the flow, and wake the cursors."""
        if self.more.waiting:
            self._wake()
        self.deltas.append(delta)
        marks = self.marks
        if marks is not None:
            marks.append(self.flow.produced)  # type: ignore[union-attr]  # marks are the flow's
        if self._cursors is not None:
            self._drop_passed()

    def complete(self, final: F) -> None:
        """Set the final value, which ends the projection; only the first end counts."""
        if not self.done:
            self._end()
            self.final = final

    def fail(self, error: BaseException) -> None:
        """End the projection by an error; only the first end counts."""
        if not self.done:
            self._end()
            self.error = error
            self._traceback = error.__traceback__

    def fail_as(self, other: ProjectionState[Any, Any]) -> None:
        """End, before anybody waits, by the error that ended another one, with the traceback that it had then."""
        self.done, self.error, self._traceback = True, other.error, other._traceback

    def _end(self) -> None:
        self._over.fire()
        self._wake()
        self.done = True

    def _wake(self) -> None:
        waited = bool(self.more.waiting)
        # Comes first, since it is refused in another thread than that of those who wait.
        self.more.fire()
        if waited and self.flow is not None:
            # They have been woken and are at the head no longer, but at what was before it.
            self.flow.pass_by(self.flow.produced - 1)

    # Consuming

    def holds(self, position: int) -> bool:
        """Tell whether delta number `position` is there."""
        return position - self.dropped < len(self.deltas)

    def take(self, position: int) -> D:
        """Return delta number `position` and note that a consumer is past it."""
        index = position - self.dropped
        flow = self.flow
        # Where a consumer is past the newest event, which is where most find themselves, none is further.
        if flow is not None and flow.consumed < flow.produced and self.marks is not None:
            mark = self.marks[index]
            if mark > flow.consumed:
                flow.pass_by(mark)
        delta = self.deltas[index]
        if self._cursors is not None:
            self._drop_passed()
        return delta

    def raise_error(self) -> NoReturn:
        """Raise the error as it came, however often it was raised since."""
        assert self.error is not None
        raise_as_it_came(self.error, self._traceback)

    def join(self, steps: Steps) -> Waiter:
        """Return a waiter for the next delta or the end, for a caller that calls `leave()` if it is interrupted.

        Raises:
            RuntimeError: The consumer runs in another thread, or on another event loop, than others
                or than the producer.
        """
        if self.flow is not None:
            self.flow.note_waiting(steps)
        return self.more.join(steps)

    async def wait_for_more(self, steps: Steps) -> None:
        """Wait for the next delta or the end."""
        waiter = self.join(steps)
        try:
            await waiter
        except BaseException as exc:
            self.leave(waiter)
            refuse_moved(exc)
            raise

    def leave(self, waiter: Waiter) -> None:
        """Wait for more no longer, be it that a delta has come or not."""
        if self.more.leave(waiter) and self.flow is not None:
            self.flow.pass_by(self.flow.produced)

    async def wait_for_final(self) -> F:
        """Wait for the final value and return it, or raise the error."""
        if self.start is not None:
            await self.start()
        steps = Steps()
        await steps.take(ready=self.done or self.request_more is not None)
        if self.flow is not None:
            if not self.done:
                self.flow.check_consumer(steps.here())
            self.flow.moved.fire()  # which may refuse, so it comes first
            self.flow.awaiting += 1
        try:
            while not self.done:
                if self.request_more is None:
                    await self._over.wait()
                elif not await self.request_more():
                    break
                else:  # what is asked for more may never wait
                    await steps.take()
        finally:
            if self.flow is not None:
                self.flow.awaiting -= 1
        if self.error is not None:
            self.raise_error()
        return cast("F", self.final)

    # Dropping

    def add_cursor(self, cursor: Cursor[Any]) -> None:
        """Note that `cursor` reads along, for as long as it lives."""
        if self.flow is not None:
            self.flow.shared = True
        if self._cursors is not None:
            self._cursors.append(weakref.ref(cursor))
            self._drop_passed()

    def _drop_passed(self) -> None:
        """Drop what every open cursor has passed; not each time it is called."""
        self._until_drop -= 1
        if self._until_drop > 0 or self._cursors is None:
            return
        cursors = [cursor for ref in self._cursors if (cursor := ref()) is not None]
        self._cursors = [weakref.ref(cursor) for cursor in cursors]
        self._until_drop = max(_SMALLEST_DROP, len(cursors))
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
    """One consumer's place in a projection. It moves only as a delta is returned.

    Tasks that share a cursor share out the deltas.
    """

    __slots__ = ("__weakref__", "_owner", "_position", "_state", "_steps")

    def __init__(self, state: ProjectionState[D, Any], owner: object) -> None:
        self._state = state
        self._owner = owner
        self._position = state.dropped
        self._steps = Steps()
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
        # What nearly every step does is in this one coroutine: each one more takes as long as the rest. It asks for
        # a cancellation before it waits, too: on asyncio a task that is woken in the turn in which its scope is
        # cancelled goes on.
        backend, taken = steps.backend or steps.look_up(), steps.taken
        try:
            if not taken % STEPS_CHECKED and (ready or taken):
                await steps.take_longer()
            else:
                steps.taken = taken + 1
                await backend.checkpoint_if_cancelled()
        except Exception as exc:
            refuse_moved(exc)
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
                    refuse_moved(exc)
                    raise
            elif await state.request_more():
                if not state.holds(self._position):
                    await steps.take()  # what is asked for more may never wait
            elif not (state.holds(self._position) or state.done):
                raise StopAsyncIteration
        position = self._position
        self._position = position + 1
        return state.take(position)

    def position_in(self, state: ProjectionState[Any, Any]) -> int:  # noqa: ARG002 - others have several
        return self._position


class AsyncProjection(Generic[D, F]):
    """Deltas to iterate over as they come, which is also awaitable for the final value.

    A producer calls `push()` for each delta, then once `complete()` or `fail()`. All else is a matter of
    how one listens:

    | way to listen | sees | can miss |
    |---|---|---|
    | `async for delta in projection` | every delta from the first, whenever it begins | nothing |
    | `await projection` | the final value | the deltas |
    | `projection.done`, `.error` | the state at this moment | all that is between two looks |

    Any number of iterators and awaiters may come and go, in any tasks of one event loop. Each iterator
    has a cursor of its own, so that none takes anything from another; a consumer that is cancelled, by a
    scope, a deadline or `Task.cancel()`, loses nothing: its cursor moves only as a delta is returned. Each step
    is a cancellation point for cancel scopes, and gives way to other tasks at least every 64 steps. All
    deltas are kept.

    An error is raised to every consumer after the deltas that came before it, with the traceback it came
    with.

    Ports `langchain_core.language_models.chat_model_stream.AsyncProjection`. There a later `complete()` or
    `fail()` replaces an earlier one; here the first one counts.
    """

    __slots__ = ("_owner", "_state")

    def __init__(self) -> None:
        self._state: ProjectionState[D, F] = ProjectionState()
        self._owner: object = None

    @classmethod
    def _view(cls, state: ProjectionState[D, F], owner: object) -> AsyncProjection[D, F]:
        """Make a projection of a state that somebody else feeds as long as `owner` lives."""
        self = cls.__new__(cls)
        self._state = state
        self._owner = owner
        return self

    @property
    def done(self) -> bool:
        """Whether the projection has ended, by its final value or by an error."""
        return self._state.done

    @property
    def error(self) -> BaseException | None:
        """The error that ended the projection, if one did."""
        return self._state.error

    def set_start(self, cb: Callable[[], Awaitable[None]] | None) -> None:
        """Install what is awaited before each step of a consumer: it starts the producer, once.

        Args:
            cb: An async function without arguments that may be called any number of times, or `None` for
                none.
        """
        self._state.start = cb

    def set_arequest_more(self, cb: Callable[[], Awaitable[bool]] | None) -> None:
        """Install what a consumer that has read everything awaits to get more, instead of waiting.

        Several consumers may call it at once.

        Args:
            cb: An async function without arguments that has the producer take one step and returns
                whether it did; `False` means that nothing more will come, which ends iteration and has
                awaiters return what there is. `None` for none.
        """
        self._state.request_more = cb

    def push(self, delta: D) -> None:
        """Append a delta and wake the consumers.

        Raises:
            anyio.ClosedResourceError: The projection has ended.
        """
        if self._state.done:
            raise anyio.ClosedResourceError("the projection has ended; it takes no more deltas")
        self._state.push(delta)

    def complete(self, final_value: F) -> None:
        """Set the final value and wake the consumers; without effect after the end."""
        self._state.complete(final_value)

    def fail(self, error: BaseException) -> None:
        """End by an error and wake the consumers; without effect after the end.

        Args:
            error: What consumers will see. In place of a backend's cancellation exception, which belongs
                to one task, they see a `StreamCancelledError`; of a group, what is no cancellation. In place
                of `StopIteration` and `StopAsyncIteration` they see a `RuntimeError`.
        """
        self._state.fail(sharable(error))

    def __aiter__(self) -> Cursor[D]:
        """Iterate over all deltas from the first, then end or raise the error."""
        return Cursor(self._state, self._owner or self)

    def __await__(self) -> Generator[Any, Any, F]:
        """Wait for the final value; a checkpoint also if it is there already.

        Raises:
            BaseException: The error that ended the projection.
        """
        return self._wait().__await__()

    async def _wait(self) -> F:
        return await self._state.wait_for_final()


class AsyncTextProjection(AsyncProjection[str, str]):
    """An `AsyncProjection` of text: deltas and final value are strings.

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
        """Set the whole text and wake the consumers; without effect after the end.

        Raises:
            TypeError: `final_value` is not a string.
        """
        _check_text("final value", final_value)
        super().complete(final_value)

    async def _wait(self) -> str:
        # None where a source that is asked for more ran dry before the text was whole.
        return await super()._wait() or ""


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"AsyncTextProjection requires a string {name}, not {type(value).__name__}")


def raise_as_it_came(error: BaseException, traceback: Any) -> NoReturn:
    """Raise an error that is raised many times, with the traceback that it had at first."""
    context = error.__context__
    try:
        raise error.with_traceback(traceback)
    finally:
        # What a consumer is handling at the moment is not what the error came of.
        error.__context__ = context
        del error  # it refers to this frame by its traceback


def sharable(error: BaseException) -> BaseException:
    """Return `error`, or what stands for it where no other task can be raised it as it is.

    A cancellation is one task's own, also within a group. `StopIteration` and `StopAsyncIteration`
    would look like the end to a consumer, as they would to that of a generator (PEP 479).
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
