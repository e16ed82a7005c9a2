"""Access to a loop from other threads: its futures, and coroutines for it to run."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Coroutine
from typing import Any, TypeVar, cast

from langchain_anyio._trio_runtime.running_backend import on_trio

from .futures import Future, Task, isfuture
from .loop import TrioLoop, running_loop

T = TypeVar("T")


class _OfLoop(type):
    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> Any:
        # A subclass derives from asyncio's class, as it does without this package.
        if any(isinstance(base, _OfLoop) for base in bases):
            bases = tuple(asyncio.Future if isinstance(b, _OfLoop) else b for b in bases)
            return type(name, bases, namespace)
        return super().__new__(mcs, name, bases, namespace)

    def __call__(cls, *, loop: Any = None) -> Any:
        return Future(loop=loop) if isinstance(loop, TrioLoop) else asyncio.Future(loop=loop)

    def __instancecheck__(cls, instance: object) -> bool:
        return isfuture(instance)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, (asyncio.Future, Future))

    def __getitem__(cls, item: Any) -> Any:
        return asyncio.Future[item]


class _Standing(type):
    """Metaclass of stand-ins for asyncio's classes that are imported by name and differ on trio."""

    original: type
    ported: type

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return (cls.ported if on_trio() else cls.original)(*args, **kwargs)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, (cls.original, cls.ported))


def standing_for(original: type, ported: type) -> type:
    """Return a permanent stand-in for a class of asyncio, which picks the class when it is used."""
    return _Standing(original.__name__, (), {"original": original, "ported": ported})


class FutureOfLoop(metaclass=_OfLoop):
    """`asyncio.Future` where no event loop runs: makes futures of the loop that it is given."""


def run_coroutine_threadsafe(
    coro: Coroutine[Any, Any, T], loop: Any
) -> concurrent.futures.Future[T]:
    """Port `asyncio.run_coroutine_threadsafe`, for a loop of either kind."""
    if not isinstance(loop, TrioLoop):
        return asyncio.run_coroutine_threadsafe(coro, loop)
    future = concurrent.futures.Future[T]()

    def start() -> None:
        task = Task(coro)
        future.add_done_callback(lambda _: future.cancelled() and loop.call_soon(task.cancel))
        task.add_done_callback(settle)

    def settle(task: Task[T]) -> None:
        if task.cancelled():
            future.cancel()
        if not future.set_running_or_notify_cancel():
            return
        if error := task.exception():
            future.set_exception(error)
        else:
            future.set_result(task.result())

    loop.call_soon_threadsafe(start)
    return future


def wrap_future(
    future: concurrent.futures.Future[T] | Future[T], *, loop: Any = None
) -> Future[T] | asyncio.Future[T]:
    """Port `asyncio.wrap_future`."""
    if isfuture(future):
        return cast("Future[T]", future)
    if not isinstance(future, concurrent.futures.Future):
        raise TypeError(f"concurrent.futures.Future is expected, got {future!r}")
    if loop is not None and not isinstance(loop, TrioLoop):
        return asyncio.wrap_future(future, loop=loop)
    loop = running_loop() if loop is None else loop
    wrapped = Future[T](loop=loop)

    def settle() -> None:
        if wrapped.done():
            return
        if future.cancelled():
            wrapped.cancel()
        elif (error := future.exception()) is not None:
            wrapped.set_exception(error)
        else:
            wrapped.set_result(future.result())

    def ended(_: object) -> None:
        try:
            loop.call_soon_threadsafe(settle)
        except RuntimeError:  # the run is over
            pass

    wrapped.add_done_callback(lambda _: wrapped.cancelled() and future.cancel())
    future.add_done_callback(ended)
    return wrapped


def set_event_loop(loop: Any) -> None:
    """Port `asyncio.set_event_loop`; a trio run does not need to be told its loop."""
    if not isinstance(loop, TrioLoop):
        asyncio.set_event_loop(loop)
