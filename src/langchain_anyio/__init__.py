"""LangChain streaming on anyio, on asyncio and on trio.

The layers, each of which imports only from those below it:

- `_cli`: the command `python -m langchain_anyio`.
- `_trio_runtime`: langchain-core itself on trio; `langgraph`: items of a graph's run, checkpointers
  and stores in worker threads, imported by its name alone.
- `_open_stream`: runs a chat model or a graph into a stream.
- `_graph_stream`: the stream of a graph's run; `_run_items`: what happens in it, in order.
- `_stream`: the stream of a chat model; `callbacks`: handlers; `_runs`: one run of a model or of a
  graph.
- `_stream_state`: what has come of one message.
- `_primitives`: a queue, an event and projections, on anyio alone; `_protocol`: events to messages,
  without I/O; `_providers`: HTTP clients of the running event loop.
- `_errors`; `_langchain_core`: its private names; `_backends`: asyncio and trio by name.
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
