"""The async generators that a piece of code starts, closed when it is over.

A generator that is left by `break` or by an error is closed at once only where its user says so, and the
clients of the providers nest several that do not. What is left runs its cleanup when the interpreter
collects it: at some later time, in another task, on trio with a warning. A run of a model has to have
closed its connection before it ends, so it closes what it started itself.
"""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from types import AsyncGeneratorType, coroutine
from typing import Any, TypeVar, cast, final

T = TypeVar("T")

_logger = logging.getLogger(__name__)

if sys.version_info >= (3, 12):
    # Makes no frame object, which would stay with a generator as long as that does.
    _module_of_caller = sys._getframemodulename
else:

    def _module_of_caller(depth: int) -> str | None:
        return cast("str | None", sys._getframe(depth + 1).f_globals.get("__name__"))


@final
class AsyncGenerators:
    """The async generators that were first iterated over by what `watch()` was given.

    Args:
        collected: Called with one that nobody refers to any more, by whoever let go of it, in any thread, until
            `release()`. By default it is kept, and closed with the others.
    """

    __slots__ = ("__weakref__", "_closed", "_collected", "_first_seen", "_started")

    def __init__(
        self, collected: Callable[[AsyncGenerator[Any, Any]], object] | None = None
    ) -> None:
        self._collected = collected
        # By identity, in the order in which they were started, which is that from the outermost inwards.
        # One that is collected is kept, in its place: it holds those that it reads itself.
        self._started: dict[int, Callable[[], AsyncGeneratorType[Any, Any] | None]] = {}
        self._closed = False
        # The event loop's own hook, or that of what watches the task around this.
        self._first_seen: Callable[[AsyncGenerator[Any, Any]], object] | None = None

    @coroutine
    def watch(self, awaitable: Awaitable[T]) -> Generator[Any, Any, T]:
        """Run `awaitable` and note the generators it starts."""
        # The interpreter asks the hooks of the thread when a generator is first iterated over. They are the
        # event loop's, or of what watches the task around this, so ours are in their place for as long only as our code runs.
        steps = awaitable.__await__()
        resume: Callable[[Any], Any] = steps.send
        value: Any = None
        outer, set_hooks = sys.get_asyncgen_hooks(), sys.set_asyncgen_hooks
        self._first_seen = outer.firstiter

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
        """Tell whether there is anything to close."""
        return bool(self._open())

    async def aclose(self) -> None:
        """Close those that are not exhausted, the outermost first, as leaving them in turn would do.

        What a generator raises is logged: by the time that this is called, the run's outcome is settled.
        Anything but an `Exception` goes on when the others have been closed; in a cancelled scope they
        still get to run what does not wait.

        Cancellation: goes on when the others have been closed.
        """
        self._closed = self._collected is None
        first: BaseException | None = None
        for generator in self._open():
            if generator.ag_frame is None or generator.ag_running:
                continue
            try:
                await generator.aclose()
            except Exception:
                _logger.warning("closing %r failed", generator, exc_info=True)
            except BaseException as exc:  # noqa: BLE001 - raised below
                first = first or exc
        if self._closed:
            self._started.clear()
        if first is not None:
            try:
                raise first
            finally:
                del first

    def release(self) -> None:
        """Leave those that are still open to the event loop, which closes them at its end."""
        self._closed = True
        if self._first_seen is not None:
            for generator in self._open():
                self._first_seen(generator)
        self._started.clear()

    def _open(self) -> list[AsyncGeneratorType[Any, Any]]:
        # A copy: one may be collected in another thread at any time.
        started = [get() for get in list(self._started.values())]
        return [g for g in started if g is not None and g.ag_frame is not None]

    def _first_iteration(self, generator: AsyncGenerator[Any, Any]) -> None:
        if _module_of_caller(1) == "contextlib":
            # It is an async context manager, which whoever entered it leaves: perhaps what several runs
            # share, and only the first of them opened.
            return
        if len(self._started) % 64 == 63:  # a long run may start any number of short-lived ones
            for key, get in list(self._started.items()):
                if (g := get()) is None or g.ag_frame is None:
                    del self._started[key]
        # The identity may be that of one long gone.
        self._started.pop(id(generator), None)
        self._started[id(generator)] = weakref.ref(cast("AsyncGeneratorType[Any, Any]", generator))

    def _keep(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Keep one that would be collected."""
        self._started[id(generator)] = lambda: cast("AsyncGeneratorType[Any, Any]", generator)
