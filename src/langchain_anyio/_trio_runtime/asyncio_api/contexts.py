"""Await something in another context, mostly without a task of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextvars import Context, ContextVar
from types import CoroutineType
from typing import Any, Final, Generic, TypeVar, cast, final

import trio
from outcome import Outcome, acapture
from trio.lowlevel import checkpoint

from .call_scope import CallScope

T = TypeVar("T")

# Python limits the depth of the stack, and each task has a stack of its own. asyncio would use a
# task for each nested awaitable; here one in this many runs in its own task.
_NESTED_IN_ONE_TASK: Final = 16
_nested: ContextVar[int] = ContextVar("langchain_anyio_nested", default=0)


@final
class InContext(Generic[T]):
    """An awaitable that runs `awaitable` in `context`, in the task that awaits it.

    The scopes around it cancel what it runs, and errors are raised directly in the awaiting task.
    For something that is awaited at once, this is all that `create_task()` with a context is for.
    Where many are nested, one in 16 runs in a task of its own, so that the stack stays shallow.

    Args:
        awaitable: The awaitable to run.
        context: The context to run it in.
        yielding: Whether other tasks run first, as they do before a task begins.
        in_list: Whether to return the result in a list, as `gather` does.

    Raises:
        RuntimeError: The context is entered already.
    """

    __slots__ = ("_awaitable", "_context", "_in_list", "_in_own_task", "_yielding")

    def __init__(
        self,
        awaitable: Awaitable[Any],
        context: Context,
        yielding: bool = False,
        in_list: bool = False,
    ) -> None:
        self._awaitable = awaitable
        self._context = context
        self._yielding = yielding
        self._in_list = in_list
        self._in_own_task = False

    def __await__(self) -> Generator[Any, Any, T]:
        if self._in_own_task:
            return self._steps()
        nested = _nested.get() + 1
        # Set each time, as the same context may serve for many steps, one after the other.
        self._context.run(_nested.set, nested)
        if nested % _NESTED_IN_ONE_TASK:
            return self._steps()
        self._in_own_task = True
        return _in_own_task(self).__await__()

    def _steps(self) -> Generator[Any, Any, T]:
        run = self._context.run
        awaitable = self._awaitable
        # A coroutine has the methods of the iterator that its `__await__()` returns.
        steps: Any = awaitable if type(awaitable) is CoroutineType else awaitable.__await__()
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
                return cast("T", [stop.value] if self._in_list else stop.value)
            finally:
                value = None  # an exception would refer to this frame, and so to itself
            try:
                value = yield yielded
                resume = steps.send
            except GeneratorExit:
                run(steps.close)
                raise
            except BaseException as exc:  # noqa: BLE001 - whatever is thrown in goes on in there
                value, resume = exc, steps.throw


async def _in_own_task(awaitable: Awaitable[T]) -> T:
    """Await something in a child task; return its result or raise its error, not in a group."""
    outcome: Outcome[T] | None = None

    @trio.lowlevel.enable_ki_protection
    async def run() -> None:
        nonlocal outcome
        owner = CallScope.current()
        outcome = await acapture(_await, awaitable if owner is None else owner.run(awaitable))

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
    except BaseException:
        # If there is an outcome, this is a cancellation, which comes again at the next checkpoint.
        if outcome is None:
            raise
    assert outcome is not None
    return outcome.unwrap()


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable
