"""LangChain streaming on anyio: the same stream API on asyncio and on trio.

Stream a chat model, or an agent. When the block is left, normally, by an exception or by
cancellation, the model has stopped, its connection is closed and its callbacks have run:

    async with open_stream(model, "Write me a song about sparkling water.") as stream:
        async for delta in stream.text:
            print(delta, end="", flush=True)
        message = await stream

- `open_stream(model, input)` gives an `AsyncChatModelStream`; of a graph, a `GraphStream`. Their
  parts are projections: iterate over one for its deltas, await it for the whole.
- `enable_trio()` makes chains, tools, graphs and agents run on trio. A bare chat model needs no
  setup.
- `AsyncIteratorCallbackHandler`, `AsyncFinalIteratorCallbackHandler` and
  `AsyncStreamingStdOutCallbackHandler` port LangChain's handlers; an import is all that changes.
- `StreamStalledError` is a `TimeoutError`, `StreamTruncatedError` a `ConnectionError`, and
  `StreamCancelledError` an `anyio.ClosedResourceError`.
- `AsyncProjection`, `AsyncTextProjection`, `Queue` and `Event` are what these are made of.
- `langchain_anyio.langgraph` has the items of an agent's run, and checkpointers and stores in worker
  threads.

`python -m langchain_anyio "Write me a song."` shows it at work, without a key. `help(open_stream)`
says what may be streamed, and how.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._errors import StreamCancelledError as StreamCancelledError
    from ._errors import StreamStalledError as StreamStalledError
    from ._errors import StreamTruncatedError as StreamTruncatedError
    from ._graph_stream import GraphStream as GraphStream
    from ._open_stream import open_stream as open_stream
    from ._primitives.event import Event as Event
    from ._primitives.projection import AsyncProjection as AsyncProjection
    from ._primitives.projection import AsyncTextProjection as AsyncTextProjection
    from ._primitives.queue import Queue as Queue
    from ._stream import AsyncChatModelStream as AsyncChatModelStream
    from ._trio_runtime.enabling import disable_trio as disable_trio
    from ._trio_runtime.enabling import enable_trio as enable_trio
    from .callbacks import AsyncFinalIteratorCallbackHandler as AsyncFinalIteratorCallbackHandler
    from .callbacks import AsyncIteratorCallbackHandler as AsyncIteratorCallbackHandler
    from .callbacks import (
        AsyncStreamingStdOutCallbackHandler as AsyncStreamingStdOutCallbackHandler,
    )

# Who uses one of them does not import what the others need.
_MODULES = {
    "open_stream": "_open_stream",
    "StreamCancelledError": "_errors",
    "StreamStalledError": "_errors",
    "StreamTruncatedError": "_errors",
    "Event": "_primitives.event",
    "GraphStream": "_graph_stream",
    "AsyncProjection": "_primitives.projection",
    "AsyncTextProjection": "_primitives.projection",
    "Queue": "_primitives.queue",
    "AsyncChatModelStream": "_stream",
    "disable_trio": "_trio_runtime.enabling",
    "enable_trio": "_trio_runtime.enabling",
    "AsyncFinalIteratorCallbackHandler": "callbacks",
    "AsyncIteratorCallbackHandler": "callbacks",
    "AsyncStreamingStdOutCallbackHandler": "callbacks",
}

__all__ = [*_MODULES]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "callbacks":
        return import_module(f".{name}", __name__)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
