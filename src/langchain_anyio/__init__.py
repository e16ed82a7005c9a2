"""LangChain streaming on anyio, on asyncio and on trio.

Primitives know anyio alone: a queue, an event, projections of a stream.
The accumulator turns protocol events into deltas and the message; it awaits nothing.
The stream is the accumulator and its projections.
The driver runs a chat model into a stream: its task, its callbacks, its end. The graph is its sibling for LangGraph.
The callback handlers hand out the tokens of whatever runs, and write them.
The trio runtime has langchain-core itself run on trio, in a package that nothing else imports.
The command line `python -m langchain_anyio` shows one answer as it comes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._errors import StreamCancelledError as StreamCancelledError
    from ._errors import StreamStalledError as StreamStalledError
    from ._open_stream import open_stream as open_stream
    from ._primitives.event import Event as Event
    from ._primitives.projection import AsyncProjection as AsyncProjection
    from ._primitives.projection import AsyncTextProjection as AsyncTextProjection
    from ._primitives.queue import Queue as Queue
    from ._runs.graph import GraphStream as GraphStream
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
    "Event": "_primitives.event",
    "GraphStream": "_runs.graph",
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


def __getattr__(name: str) -> object:
    if name == "callbacks":
        return import_module(f".{name}", __name__)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
