"""What of a library is wrapped by name, because another `asyncio` in its modules is not enough."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Iterator
from types import MethodType, ModuleType
from typing import Any, Final, final

from .._driver import open_stream
from .._providers import for_current_loop
from ._loop import LateLoop
from ._owner import Owner
from ._running import nothing_runs, on_trio

# The public async generators: the outermost one closes the inner ones, and joins their tasks, before it has closed.
GENERATORS: Final = frozenset(
    {
        "abatch_as_completed",
        "alazy_load",
        "astream",
        "astream_events",
        # Of `RunnableGenerator`, whose public methods only hand its generator on.
        "_atransform_stream_with_config",
        # Of `astream_events`, which since `version="v3"` is no generator itself.
        "_astream_events_v1_v2",
        "astream_log",
        "atransform",
        "ayield_keys",
    }
)

# The public coroutine functions: the outermost one joins the tasks that were started in it before it returns.
COROUTINES: Final = frozenset({"abatch", "agenerate", "ainvoke", "arun"})

# The methods of a chat model that ask the provider: they run on a copy with an HTTP client of this event loop.
OF_CHAT_MODELS: Final = frozenset({"agenerate", "astream"})


def wrappers(module: ModuleType) -> Iterator[tuple[type, str, Any]]:
    """Find what is to be wrapped in a module: its class, its name, and what stands in its place."""
    for cls in list(vars(module).values()):
        if not isinstance(cls, type) or cls.__module__ != module.__name__:
            continue
        for name, function in list(vars(cls).items()):
            if not inspect.isfunction(function):
                continue
            replacement: Any = function
            if f"{cls.__module__}.{cls.__qualname__}.{name}" in _BY_NAME:
                replacement = _BY_NAME[f"{cls.__module__}.{cls.__qualname__}.{name}"](function)
            if name in OF_CHAT_MODELS and _is_chat_model(cls):
                replacement = _of_this_loop(replacement)
            if name in GENERATORS and inspect.isasyncgenfunction(function):
                replacement = ClosingGenerator(replacement)
            elif name in COROUTINES and inspect.iscoroutinefunction(function):
                replacement = _joining(replacement)
            if replacement is not function:
                yield cls, name, replacement


def _is_chat_model(cls: type) -> bool:
    from langchain_core.language_models import BaseChatModel

    return issubclass(cls, BaseChatModel)


@final
class ClosingGenerator:
    """An async generator function whose generators, on trio, close what they have started before they have closed.

    On asyncio it gives the generator of the function itself. It passes for a function, and for an async generator
    function, with `inspect`.
    """

    def __init__(self, function: Callable[..., AsyncGenerator[Any, None]]) -> None:
        functools.update_wrapper(self, function)
        inner: Any = inspect.unwrap(function)
        self.__code__ = inner.__code__
        self.__defaults__ = inner.__defaults__
        self.__kwdefaults__ = inner.__kwdefaults__
        self._function = function

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        if not on_trio():
            return self._function(*args, **kwargs)
        return _closing(self._function, args, kwargs)


async def _closing(
    function: Callable[..., AsyncGenerator[Any, None]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> AsyncGenerator[Any, None]:
    owner = Owner((*args, *kwargs.values()), closes_generators=True)
    generator = function(*args, **kwargs)
    del args, kwargs
    try:
        while True:
            try:
                item = await owner.run(generator.__anext__())
            except StopAsyncIteration:
                return
            yield item
            del item
    finally:
        await owner.aclose(generator)


def _joining(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        if not on_trio():
            return await function(*args, **kwargs)
        if Owner.is_current_here():
            return await function(*args, **kwargs)
        outer = Owner.current()
        if outer is not None:
            return await outer.run(function(*args, **kwargs))
        owner = Owner(closes_generators=False)
        try:
            return await owner.run(function(*args, **kwargs))
        finally:
            await owner.aclose()

    return call


def _of_this_loop(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(for_current_loop(self) if on_trio() else self, *args, **kwargs)

    return call


def _astream_events(function: Callable[..., Any]) -> Callable[..., Any]:
    """The third version of a chat model's `astream_events` is this package's stream."""

    @functools.wraps(function)
    def astream_events(
        self: Any, input: Any, config: Any = None, *, version: str = "v2", **kwargs: Any
    ) -> Any:
        if version == "v3" and on_trio():
            return _opened(self, input, config, **kwargs)
        return function(self, input, config, version=version, **kwargs)

    return astream_events


async def _opened(model: Any, input: Any, config: Any, **kwargs: Any) -> Any:
    return open_stream(model, input, config, **kwargs)


def _late_loop(function: Callable[..., None]) -> Callable[..., None]:
    """A handler that is made where no loop runs asks asyncio for one, and may be used on trio."""

    @functools.wraps(function)
    def init(self: Any, loop: Any) -> None:
        function(self, LateLoop(loop) if nothing_runs() else loop)

    return init


_BY_NAME: Final[dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]]] = {
    "langchain_core.language_models.chat_models.BaseChatModel.astream_events": _astream_events,
    "langchain_core.tracers.memory_stream._MemoryStream.__init__": _late_loop,
}
