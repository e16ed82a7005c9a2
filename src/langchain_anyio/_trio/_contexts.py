"""Awaiting something in another context, without a task of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextvars import Context
from typing import Any, Generic, TypeVar, cast, final

from trio.lowlevel import checkpoint

T = TypeVar("T")


@final
class InContext(Generic[T]):
    """An awaitable that runs `awaitable` in `context`, in the task of whoever awaits it.

    What it runs is cancelled by the scopes around it, and raises straight to whoever awaits it, so for what is awaited at
    once this is all that `create_task(awaitable, context=context)` is for.

    Args:
        awaitable: What to run.
        context: What to run it in.
        yielding: Whether other tasks run first, as they do before a task begins.

    Raises:
        RuntimeError: The context is entered already.
    """

    __slots__ = ("_awaitable", "_context", "_yielding")

    def __init__(
        self, awaitable: Awaitable[T], context: Context, *, yielding: bool = False
    ) -> None:
        self._awaitable = awaitable
        self._context = context
        self._yielding = yielding

    def __await__(self) -> Generator[Any, Any, T]:
        run = self._context.run
        steps = self._awaitable.__await__()
        resume: Callable[[Any], Any] = steps.send
        value: Any = None
        try:
            if self._yielding:
                yield from checkpoint().__await__()  # noqa: ASYNC105 - as a generator awaits
        except GeneratorExit:
            run(steps.close)
            raise
        except BaseException as exc:  # noqa: BLE001 - as a task that is cancelled before it begins
            value, resume = exc, steps.throw
        while True:
            try:
                yielded = run(resume, value)
            except StopIteration as stop:
                return cast("T", stop.value)
            try:
                value = yield yielded
                resume = steps.send
            except GeneratorExit:
                run(steps.close)
                raise
            except BaseException as exc:  # noqa: BLE001 - whatever is thrown in goes on in there
                value, resume = exc, steps.throw
