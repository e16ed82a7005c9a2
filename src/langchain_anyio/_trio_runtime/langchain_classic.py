"""Wrappers for functions of langchain-classic that need more than a namespace."""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, TypeVar

import trio

from .asyncio_api.call_scope import CallScope
from .asyncio_api.futures import Task
from .asyncio_api.timeouts import timeout
from .running_backend import on_trio

T = TypeVar("T")


def _stepped_in_one_task(
    function: Callable[..., AsyncGenerator[T, None]],
) -> Callable[..., AsyncGenerator[T, None]]:
    """Run the steps of a generator in a task of its own on trio.

    For a generator that holds a cancel scope, such as a timeout, across its yields: in the task of
    the reader, the scope would stay open between the steps, among the reader's own scopes.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> AsyncGenerator[T, None]:
        generator = function(*args, **kwargs)
        return _in_one_task(generator) if on_trio() else generator

    return call


async def _in_one_task(generator: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    ask, asked = trio.open_memory_channel[None](1)
    give, given = trio.open_memory_channel[T](1)

    async def run() -> None:
        owner = CallScope()
        try:
            async for _ in asked:
                try:
                    give.send_nowait(await owner.run(anext(generator)))
                except StopAsyncIteration:
                    await owner.join()
                    return
        finally:
            await owner.aclose(generator)

    task = Task(run(), name=getattr(generator, "__qualname__", None))
    # The call that reads the generator closes this one, which waits for the task.
    task.detach()
    task.add_done_callback(lambda _: give.close())
    try:
        while True:
            ask.send_nowait(None)
            try:
                item = await given.receive()
            except trio.EndOfChannel:
                await task
                return
            yield item
            del item
    finally:
        # A reader that leaves makes the task close the generator; one that is cancelled cancels the
        # task.
        ask.close()
        await task


def _timeout(original: Callable[[float | None], Any]) -> Callable[[float | None], Any]:
    """Use the port of `asyncio.timeout` on trio, in place of its backport for Python 3.10."""

    @functools.wraps(original)
    def asyncio_timeout(delay: float | None) -> Any:
        return timeout(delay) if on_trio() else original(delay)

    return asyncio_timeout


WRAPPERS_OF_CLASSIC: Final[dict[str, Callable[[Any], Any]]] = {
    "langchain_classic.agents.agent_iterator.AgentExecutorIterator.__aiter__": _stepped_in_one_task,
}
if sys.version_info < (3, 11):
    WRAPPERS_OF_CLASSIC.update(
        (f"langchain_classic.{module}.asyncio_timeout", _timeout)
        for module in ("agents.agent", "agents.agent_iterator", "utilities.asyncio")
    )
