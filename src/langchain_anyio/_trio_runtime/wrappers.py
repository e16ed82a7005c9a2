"""Wrappers for functions of a library that need more than another `asyncio` in their modules."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import Context
from types import FrameType, FunctionType, ModuleType
from typing import Any, Final, cast

from trio.lowlevel import checkpoint

from langchain_anyio._backends.asyncio_notes import libraries, note_use_of_asyncio
from langchain_anyio._providers.table import EMBEDDINGS, for_current_loop
from langchain_anyio._providers.within_runs import (
    CHOOSES_CLIENT,
    OF_EMBEDDINGS,
    OF_MODELS,
    within_run,
)

from .asyncio_api.call_scope import CallScope
from .asyncio_api.contexts import InContext
from .asyncio_api.loop import TrioLoop, running_loop
from .core_stream import open_for_core
from .langchain_classic import WRAPPERS_OF_CLASSIC
from .langgraph import WRAPPERS_OF_LANGGRAPH
from .running_backend import on_trio

# The public async generators: the outermost one closes the inner ones, and joins their tasks,
# before its own closing ends.
GENERATORS: Final = frozenset(
    {
        "abatch_as_completed",
        "alazy_load",
        "astream",
        "astream_events",
        # Of `RunnableGenerator`, whose public methods only return its generator.
        "_atransform_stream_with_config",
        # Of `astream_events`, which is no generator itself since `version="v3"`.
        "_astream_events_v1_v2",
        "astream_log",
        "atransform",
        "ayield_keys",
    }
)

# The public coroutine functions: the outermost one joins the tasks that were started in it before
# it returns.
COROUTINES: Final = frozenset({"abatch", "agenerate", "ainvoke", "arun"})

# What modules of the enabled `libraries` call belongs to the call that led to it, and so does what
# this package calls for them.
_OWN_PACKAGE: Final = __name__.partition(".")[0]
_SUSPENDABLE: Final = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR

# On earlier Pythons a task takes no context, and releases of langchain-core differ in what they do
# then.
_TASKS_TAKE_CONTEXTS: Final[bool] = sys.version_info >= (3, 11)


def wrapped_in_module(module: ModuleType, name: str, value: Any) -> Any:
    """Return the wrapper of a module's value if `_BY_NAME` has one, else the value itself."""
    wrap = _BY_NAME.get(f"{module.__name__}.{name}")
    return value if wrap is None else wrap(value)


def wrapped_in_class(cls: type, name: str, value: Any) -> Any:
    """Return the wrapper of a value in a class's dictionary, or the value itself."""
    if not isinstance(value, (FunctionType, classmethod)):
        return value
    wrap = _BY_NAME.get(f"{cls.__module__}.{cls.__qualname__}.{name}")
    wrapped: Any = value if wrap is None else wrap(value)
    if _calls_provider(cls, name):
        wrapped = _of_this_loop(wrapped)
    if name in GENERATORS and inspect.isasyncgenfunction(value):
        wrapped = _closing_what_it_starts(wrapped)
    elif name in COROUTINES and inspect.iscoroutinefunction(value):
        wrapped = _joining(wrapped)
    return wrapped


def _calls_provider(cls: type, name: str) -> bool:
    """Return whether a method runs on a view with an HTTP client of the current event loop."""
    if name in OF_EMBEDDINGS:
        return f"{cls.__module__}.{cls.__qualname__}" in EMBEDDINGS
    return name in OF_MODELS and (
        _derives(cls, "langchain_core.language_models.chat_models", "BaseChatModel")
        or _derives(cls, "langchain_core.language_models.llms", "BaseLLM")
    )


def _derives(cls: type, module: str, name: str) -> bool:
    # Never imported here: this is called with a lock that another thread, which imports it, may be
    # waiting for.
    base = getattr(sys.modules.get(module), name, None)
    return base is not None and issubclass(cls, base)


def _closing_what_it_starts(
    function: Callable[..., AsyncGenerator[Any, None]],
) -> Callable[..., AsyncGenerator[Any, None]]:
    """Wrap an async generator function: on trio its generators close what they have started.

    They do so before their own closing ends. On asyncio nothing changes.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        if not on_trio() or _belongs_to_an_owner(sys._getframe(1)):
            return function(*args, **kwargs)
        generator: Any = _closing(function, args, kwargs)
        # The names by which trio reports a generator that was left open.
        generator.__name__, generator.__qualname__ = function.__name__, function.__qualname__
        return cast("AsyncGenerator[Any, None]", generator)

    return call


async def _closing(
    function: Callable[..., AsyncGenerator[Any, None]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> AsyncGenerator[Any, None]:
    owner = CallScope()
    generator: Any = function(*args, **kwargs)
    del args, kwargs
    try:
        while True:
            await checkpoint()  # the steps themselves may have none
            try:
                item = await owner.run(generator.__anext__())
            except StopAsyncIteration:
                await owner.join()
                return
            yield item
            del item
    except Exception as exc:
        note_use_of_asyncio(exc)
        raise
    finally:
        if generator.ag_frame is not None or not owner.end():
            await owner.aclose(generator)


def _joining(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        if not on_trio() or _belongs_to_an_owner(sys._getframe(1)):
            return await function(*args, **kwargs)
        await checkpoint()  # the call itself may have none
        owner = CallScope()
        returned = False
        try:
            result = await owner.run(function(*args, **kwargs))
            await owner.join()
            returned = True
            return result
        except Exception as exc:
            note_use_of_asyncio(exc)
            raise
        finally:
            if not owner.end(everything=not returned):
                await owner.aclose(everything=not returned)

    return call


def _belongs_to_an_owner(caller: FrameType | None) -> bool:
    """Return whether a library calls itself within a call, whose scope owns what is started.

    A plain function of a library that only passes on a generator or an awaitable stands for its
    caller.
    """
    while caller is not None:
        package = caller.f_globals.get("__name__", "").partition(".")[0]
        if package not in libraries and package != _OWN_PACKAGE:
            return False
        if caller.f_code.co_flags & _SUSPENDABLE:
            break
        caller = caller.f_back
    return CallScope.is_current_here()


def _of_this_loop(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method of a model: on trio, and within runs, it has an HTTP client of its loop."""

    @functools.wraps(function)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        model = for_current_loop(self) if on_trio() or within_run() else self
        return function(model, *args, **kwargs)

    setattr(call, CHOOSES_CLIENT, True)
    return call


def _astream_events(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a chat model's `astream_events`: on trio, its third version is this package's stream."""

    @functools.wraps(function)
    def astream_events(
        self: Any, input: Any, config: Any = None, *, version: str = "v2", **kwargs: Any
    ) -> Any:
        if version == "v3" and on_trio():
            return open_for_core(self, input, config, **kwargs)
        model = for_current_loop(self) if within_run() else self
        return function(model, input, config, version=version, **kwargs)

    setattr(astream_events, CHOOSES_CLIENT, True)
    return astream_events


def _on_the_loop_of_the_reader(function: Callable[..., None]) -> Callable[..., None]:
    """Wrap the sending methods of a stream so that on trio they use the loop of its reader.

    A stream that was created where no loop ran has asked asyncio for one; its queue knows where it
    is read.
    """

    @functools.wraps(function)
    def send(self: Any, *args: Any) -> None:
        if isinstance(self._reader_loop, asyncio.AbstractEventLoop):
            loop = self._queue._loop
            if loop is None and on_trio():
                loop = running_loop()
            if isinstance(loop, TrioLoop):
                self._reader_loop = loop
        function(self, *args)

    return send


def _coro_with_context(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap `coro_with_context`: on trio the coroutine runs in the task that awaits it."""

    @functools.wraps(function)
    def coro_with_context(
        coro: Awaitable[Any], context: Context, *, create_task: bool = False
    ) -> Awaitable[Any]:
        if not _TASKS_TAKE_CONTEXTS or not on_trio():
            return function(coro, context, create_task=create_task)
        return InContext(coro, context, yielding=create_task)

    return coro_with_context


def _unheard(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the report of a run's end: on trio it is skipped if there are no handlers.

    The report runs in a task of its own, to shield it; without handlers none is needed.
    """

    @functools.wraps(function)
    async def report(self: Any, *args: Any, **kwargs: Any) -> None:
        if self.handlers or not on_trio():
            await function(self, *args, **kwargs)

    return report


def _is_async_generator(function: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Wrap `is_async_generator` so that it recognizes wrapped methods.

    A runnable may be made of a method of another runnable, which is wrapped here.
    """

    @functools.wraps(function)
    def is_async_generator(func: Any) -> bool:
        return function(inspect.unwrap(func))

    return is_async_generator


_BY_NAME: Final[dict[str, Callable[[Any], Any]]] = {
    **{
        f"langchain_core.callbacks.manager.AsyncCallbackManagerFor{run}Run.on_{kind}_{end}": (
            _unheard
        )
        for run, kind in (("Chain", "chain"), ("LLM", "llm"), ("Retriever", "retriever"))
        for end in ("end", "error")
    },
    "langchain_core.language_models.chat_models.BaseChatModel.astream_events": _astream_events,
    "langchain_core.runnables.base.coro_with_context": _coro_with_context,
    "langchain_core.runnables.base.is_async_generator": _is_async_generator,
    "langchain_core.runnables.fallbacks.coro_with_context": _coro_with_context,
    "langchain_core.tools.base.coro_with_context": _coro_with_context,
    "langchain_core.tracers.memory_stream._SendStream.close": _on_the_loop_of_the_reader,
    "langchain_core.tracers.memory_stream._SendStream.send_nowait": _on_the_loop_of_the_reader,
    **WRAPPERS_OF_CLASSIC,
    **WRAPPERS_OF_LANGGRAPH,
}
