"""Close the async generators that a piece of code has left open and that nobody else can reach.

A generator that is left by `break` or by an error is closed at once only if its user closes it, and
the providers' clients nest several that nobody closes. Such a generator runs its cleanup when the
interpreter collects it: at some later time, in another task, on trio with a warning. A run of a
model must have closed its connection before it ends, so it closes the generators that it has left
behind itself. A generator that somebody still holds is in use: a feed that several runs read, or a
connection that is kept for the next run.
"""

from __future__ import annotations

import gc
import logging
import sys
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from types import AsyncGeneratorType, CodeType, FrameType, ModuleType, coroutine
from typing import Any, TypeVar, cast, final

from anyio.lowlevel import cancel_shielded_checkpoint

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup  # type: ignore[import-not-found,unused-ignore]

T = TypeVar("T")

_logger = logging.getLogger(__name__)

# Maximum number of objects examined to decide whether a generator can still be reached.
OBJECTS_VISITED = 2000


@final
class AsyncGenerators:
    """The async generators that were first iterated over by awaitables given to `watch()`.

    Args:
        collected: Called with a generator to which nobody refers any more, in whichever thread
            dropped the last reference, until `release()`. By default the generator is kept, and
            closed by `aclose()`.
        mark: Called when a generator is first iterated over; `pop_mark()` returns its result.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_collected",
        "_first_of_loop",
        "_kept",
        "_mark",
        "_marks",
        "_started",
    )

    def __init__(
        self,
        collected: Callable[[AsyncGenerator[Any, Any]], object] | None = None,
        mark: Callable[[], object] | None = None,
    ) -> None:
        self._collected = collected
        self._mark = mark
        self._marks: dict[int, Any] = {}
        # By id, in the order in which they were started, which is outermost first.
        self._started: dict[int, weakref.ref[AsyncGeneratorType[Any, Any]]] = {}
        # Those of them that were collected; they refer to the generators that they read.
        self._kept: dict[int, AsyncGeneratorType[Any, Any]] = {}
        self._first_of_loop: Callable[[AsyncGenerator[Any, Any]], object] | None = None
        self._closed = False

    @coroutine
    def watch(self, awaitable: Awaitable[T]) -> Generator[Any, Any, T]:
        """Run `awaitable` and record the generators that it starts."""
        # The interpreter calls the thread's hooks when a generator is first iterated over. They
        # belong to the event loop, or to an outer watcher of this task, so ours replace them only
        # while our code runs.
        steps = awaitable.__await__()
        resume: Callable[[Any], Any] = steps.send
        value: Any = None
        outer, set_hooks = sys.get_asyncgen_hooks(), sys.set_asyncgen_hooks
        self._first_of_loop = outer.firstiter

        def collected(generator: AsyncGenerator[Any, Any]) -> None:
            if not self._closed:
                (self._collected or self._keep)(generator)
            elif outer.finalizer is not None:
                outer.finalizer(generator)

        while True:
            try:
                # Within the `try`, because an interrupt may be raised in any call.
                set_hooks(self._first_iteration, collected)
                yielded = resume(value)
            except StopIteration as stop:
                return cast("T", stop.value)
            finally:
                set_hooks(*outer)
                value = None  # or an exception would refer to itself, through this frame
            try:
                value = yield yielded
                resume = steps.send
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as exc:  # noqa: BLE001 - passed on to the awaitable
                value = exc
                resume = steps.throw

    def are_open(self) -> bool:
        """Return whether any generator is not exhausted, including those held elsewhere."""
        return any(True for _ in self._open())

    async def aclose(self, *errors: BaseException | None) -> None:
        """Close the generators that nobody can reach any more.

        The outermost is closed first, which is the order in which leaving them would close them.

        Errors of a generator are logged, because the run's outcome is settled by the time that this
        is called. An exception that is not an `Exception` is re-raised after the others have been
        closed. In a cancelled scope, generators still run those parts of their cleanup that do not
        wait.

        Cancellation: re-raised after the other generators have been closed.

        Args:
            errors: The errors that ended the code. The frames in their tracebacks refer to
                generators that were read there, but nobody continues reading there.
        """
        first: BaseException | None = None
        rested = False
        closing: list[AsyncGeneratorType[Any, Any]] = []
        while True:
            step: Awaitable[None]
            if closing:
                step = _close(closing.pop(0))
            # One at a time: closing one collects those that only it refers to, which come next.
            elif kept := self._next_kept():
                step = _close(kept.pop())
            elif not self.are_open():
                break
            elif not rested:
                # The loop refers to the exception it resumed the task with until the next wait.
                rested = True
                step = cancel_shielded_checkpoint()
            elif closing := self._unreachable([e for e in (*errors, first) if e is not None]):
                continue
            else:
                break
            try:
                await step
            except BaseException as exc:  # noqa: BLE001 - raised below
                first = first or exc
        if first is not None:
            try:
                raise first
            finally:
                del first

    def release(self) -> None:
        """Hand those that are still open over to the event loop, or to an outer watcher."""
        self._closed = True
        if self._first_of_loop is not None:
            for generator in self._open():
                self._first_of_loop(generator)
        self._first_of_loop = None
        self._started.clear()
        self._marks.clear()
        self._kept.clear()

    def _open(self) -> Iterator[AsyncGeneratorType[Any, Any]]:
        # Over a copy, because one may be collected in another thread at any time.
        for get in list(self._started.values()):
            generator = get()
            if generator is not None and generator.ag_frame is not None:
                yield generator
        yield from [g for g in list(self._kept.values()) if g.ag_frame is not None]

    def _next_kept(self) -> list[AsyncGeneratorType[Any, Any]]:
        """Remove the outermost collected generator and return it; `[]` if there is none."""
        for key in [key for key in list(self._started) if key in self._kept]:
            del self._started[key]
            kept = self._kept.pop(key)
            if kept.ag_frame is not None:
                return [kept]
        self._kept.clear()
        return []

    def _unreachable(self, errors: list[BaseException]) -> list[AsyncGeneratorType[Any, Any]]:
        """Remove and return those reachable only from each other and the frames of `errors`."""
        generators = unreachable(list(self._open()), errors)
        for generator in generators:
            self._started.pop(id(generator), None)
        return generators

    def _first_iteration(self, generator: AsyncGenerator[Any, Any]) -> None:
        if len(self._started) % 64 == 63:  # a long run may start any number of short-lived ones
            for key, get in list(self._started.items()):
                if key not in self._kept and ((g := get()) is None or g.ag_frame is None):
                    del self._started[key]
                    self._marks.pop(key, None)
        # The id may be that of a generator that no longer exists.
        self._started.pop(id(generator), None)
        self._started[id(generator)] = weakref.ref(cast("AsyncGeneratorType[Any, Any]", generator))
        if self._mark is not None:
            self._marks[id(generator)] = self._mark()

    def pop_mark(self, generator: AsyncGenerator[Any, Any]) -> Any:
        """Return the result of `mark` for `generator`, only once; then `None`."""
        return self._marks.pop(id(generator), None)

    def _keep(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Keep a generator that would otherwise be collected."""
        self._kept[id(generator)] = cast("AsyncGeneratorType[Any, Any]", generator)


async def _close(generator: AsyncGeneratorType[Any, Any]) -> None:
    if generator.ag_frame is not None and not generator.ag_running:
        try:
            await generator.aclose()
        except Exception:
            _logger.warning("closing %r failed", generator, exc_info=True)


def unreachable(candidates: list[Any], errors: list[BaseException]) -> list[Any]:
    """Return the candidates, in order, to which nothing alive refers but frames of `errors`.

    This is the garbage collector's algorithm, applied to the objects that can be reached from the
    candidates: an object with more references than these objects account for is referred to from
    elsewhere, and so are the objects that it refers to. At most `OBJECTS_VISITED` objects are
    examined. All others count as alive, so a candidate that is alive is never returned.

    Args:
        candidates: The objects; the caller must hold no other reference to them.
        errors: Exceptions; the finished frames that they came through count as dead.
    """
    objects = candidates
    number = len(objects)
    dead = len(objects) + len(frames := _finished_frames(errors))
    objects.extend(frames)
    del frames, errors
    places = {id(item): place for place, item in enumerate(objects)}
    found = [0] * len(objects)
    place = 0
    while place < len(objects):
        for item in gc.get_referents(objects[place]):
            known = places.get(id(item))
            if known is not None:
                found[known] += 1
            elif len(objects) < OBJECTS_VISITED and _may_lead_on(item):
                places[id(item)] = len(objects)
                objects.append(item)
                found.append(1)
        place += 1
    item = object()
    objects.append(item)
    del item
    held = sys.getrefcount(objects[-1])  # by the list, and by the call
    objects.pop()
    alive = [
        place
        for place in range(len(objects))
        if not number <= place < dead and sys.getrefcount(objects[place]) - held > found[place]
    ]
    reached = set(alive)
    while alive:
        for item in gc.get_referents(objects[alive.pop()]):
            known = places.get(id(item))
            if known is not None and known not in reached and not number <= known < dead:
                reached.add(known)
                alive.append(known)
    return [objects[place] for place in range(number) if place not in reached]


def _may_lead_on(item: object) -> bool:
    """Return whether to examine what `item` refers to; objects of a module are alive anyway."""
    return (
        gc.is_tracked(item)
        and not issubclass(type(item), (type, ModuleType, CodeType))  # isinstance() may run code
        and not (type(item) is dict and "__builtins__" in item)
    )


def _finished_frames(errors: list[BaseException]) -> list[FrameType]:
    """Return the frames that the errors came through and that no longer run.

    These include the frames of their causes, contexts and exception groups' members.
    """
    running = set()
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        running.add(id(frame))
        frame = frame.f_back
    frames: dict[int, FrameType] = {}
    seen: set[int] = set()
    while errors:
        error = errors.pop()
        if id(error) in seen:
            continue
        seen.add(id(error))
        traceback = error.__traceback__
        while traceback is not None:
            if id(traceback.tb_frame) not in running:
                frames[id(traceback.tb_frame)] = traceback.tb_frame
            traceback = traceback.tb_next
        related = [error.__cause__, error.__context__]
        if isinstance(error, BaseExceptionGroup):
            related.extend(error.exceptions)
        errors.extend(other for other in related if other is not None)
    return list(frames.values())
