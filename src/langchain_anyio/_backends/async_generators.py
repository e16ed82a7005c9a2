"""The async generators that a piece of code starts, closed when it is over and nobody else can reach them.

A generator that is left by `break` or by an error is closed at once only where its user says so, and the
clients of the providers nest several that do not. What is left runs its cleanup when the interpreter
collects it: at some later time, in another task, on trio with a warning. A run of a model has to have
closed its connection before it ends, so it closes what it has left behind itself. One that somebody still
holds is in use: a feed that several runs read, a connection that is kept for the next one.
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

# Objects looked at to find out who can reach a generator.
OBJECTS_VISITED = 2000


@final
class AsyncGenerators:
    """The async generators that were first iterated over by what `watch()` was given.

    Args:
        collected: Called with one that nobody refers to any more, by whoever let go of it, in any thread, until
            `release()`. By default it is kept, and closed by `aclose()`.
        mark: Called when one is first iterated over; `pop_mark()` returns what it returned.
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
        # By identity, in the order in which they were started, which is that from the outermost inwards.
        self._started: dict[int, weakref.ref[AsyncGeneratorType[Any, Any]]] = {}
        # Those of them that were collected: they hold the ones that they read themselves.
        self._kept: dict[int, AsyncGeneratorType[Any, Any]] = {}
        self._first_of_loop: Callable[[AsyncGenerator[Any, Any]], object] | None = None
        self._closed = False

    @coroutine
    def watch(self, awaitable: Awaitable[T]) -> Generator[Any, Any, T]:
        """Run `awaitable` and note the generators it starts."""
        # The interpreter asks the hooks of the thread when a generator is first iterated over. They are the
        # event loop's, or of what watches the task around this, so ours are in their place for as long only as our code runs.
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
                # In here, as an interrupt may come with any call.
                set_hooks(self._first_iteration, collected)
                yielded = resume(value)
            except StopIteration as stop:
                return cast("T", stop.value)
            finally:
                set_hooks(*outer)
                value = None  # an exception would refer to this frame, and so to itself
            try:
                value = yield yielded
                resume = steps.send
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as exc:  # noqa: BLE001 - whatever is thrown in goes on in there
                value = exc
                resume = steps.throw

    def are_open(self) -> bool:
        """Tell whether there are any that are not exhausted, be it that somebody else holds them."""
        return any(True for _ in self._open())

    async def aclose(self, *errors: BaseException | None) -> None:
        """Close those that nobody can reach any more, the outermost first, as leaving them in turn would do.

        What a generator raises is logged: by the time that this is called, the run's outcome is settled.
        Anything but an `Exception` goes on when the others have been closed; in a cancelled scope they
        still get to run what does not wait.

        Cancellation: goes on when the others have been closed.

        Args:
            errors: What ended the code. The frames of their tracebacks refer to what was read in them, but nobody
                goes on reading there.
        """
        first: BaseException | None = None
        rested = False
        closing: list[AsyncGeneratorType[Any, Any]] = []
        while True:
            step: Awaitable[None]
            if closing:
                step = _close(closing.pop(0))
            # One by one: what only this one holds is collected when it is closed, and comes next.
            elif kept := self._next_kept():
                step = _close(kept.pop())
            elif not self.are_open():
                break
            elif not rested:
                # An event loop holds the exception that it resumed the task with until the task waits again.
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
        """Leave those that are still open to the event loop, or to what watches the task around."""
        self._closed = True
        if self._first_of_loop is not None:
            for generator in self._open():
                self._first_of_loop(generator)
        self._first_of_loop = None
        self._started.clear()
        self._marks.clear()
        self._kept.clear()

    def _open(self) -> Iterator[AsyncGeneratorType[Any, Any]]:
        # Of a copy: one may be collected in another thread at any time.
        for get in list(self._started.values()):
            generator = get()
            if generator is not None and generator.ag_frame is not None:
                yield generator
        yield from [g for g in list(self._kept.values()) if g.ag_frame is not None]

    def _next_kept(self) -> list[AsyncGeneratorType[Any, Any]]:
        """Take out the outermost one of those that were collected, if there is any."""
        for key in [key for key in list(self._started) if key in self._kept]:
            del self._started[key]
            kept = self._kept.pop(key)
            if kept.ag_frame is not None:
                return [kept]
        self._kept.clear()
        return []

    def _unreachable(self, errors: list[BaseException]) -> list[AsyncGeneratorType[Any, Any]]:
        """Take out those that can be reached from each other and from the frames of `errors` alone."""
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
        # The identity may be that of one long gone.
        self._started.pop(id(generator), None)
        self._started[id(generator)] = weakref.ref(cast("AsyncGeneratorType[Any, Any]", generator))
        if self._mark is not None:
            self._marks[id(generator)] = self._mark()

    def pop_mark(self, generator: AsyncGenerator[Any, Any]) -> Any:
        """Return what `mark` returned when `generator` was first iterated over, once; then `None`."""
        return self._marks.pop(id(generator), None)

    def _keep(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Keep one that would be collected."""
        self._kept[id(generator)] = cast("AsyncGeneratorType[Any, Any]", generator)


async def _close(generator: AsyncGeneratorType[Any, Any]) -> None:
    if generator.ag_frame is not None and not generator.ag_running:
        try:
            await generator.aclose()
        except Exception:
            _logger.warning("closing %r failed", generator, exc_info=True)


def unreachable(candidates: list[Any], errors: list[BaseException]) -> list[Any]:
    """Return those of `candidates`, in order, that nothing alive refers to, but for the frames that `errors` came through.

    The garbage collector's own way, on what can be reached from the candidates: an object with more references
    than these objects account for is referred to from elsewhere, and so is what it refers to in its turn. Only so many
    objects are looked at; whatever is beyond counts as alive, so no more than the truth is returned.

    Args:
        candidates: The objects; the caller must hold no other reference to them.
        errors: Those whose finished frames count as dead.
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
    """Tell whether to look at what an object refers to; what belongs to a module is alive with it."""
    return (
        gc.is_tracked(item)
        and not issubclass(type(item), (type, ModuleType, CodeType))  # asks nothing of the object
        and not (type(item) is dict and "__builtins__" in item)
    )


def _finished_frames(errors: list[BaseException]) -> list[FrameType]:
    """Return the frames that the errors, and those that they came of, have gone through and that run no longer."""
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
