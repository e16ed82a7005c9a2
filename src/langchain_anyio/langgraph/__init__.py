"""For users of LangGraph: items of a run, and checkpointers and stores in worker threads.

- `RunText`, `ToolResult` and the others: the items of `GraphStream.interleave()`.
- `ThreadedCheckpointSaver`, `ThreadedStore`: synchronous ones, made asynchronous on asyncio and on
  trio.
- `_calls`: calls of blocking functions, one after another, in worker threads.
- `_resource`: what is wrapped, opened and closed with a block.

This package imports langgraph, which `langchain_anyio` itself does not need.
"""

from __future__ import annotations

from langchain_anyio._run_items import RunCustom as RunCustom
from langchain_anyio._run_items import RunInterrupt as RunInterrupt
from langchain_anyio._run_items import RunState as RunState
from langchain_anyio._run_items import RunText as RunText
from langchain_anyio._run_items import RunToolCall as RunToolCall
from langchain_anyio._run_items import ToolDelta as ToolDelta
from langchain_anyio._run_items import ToolFailure as ToolFailure
from langchain_anyio._run_items import ToolResult as ToolResult
from langchain_anyio._run_items import ToolRun as ToolRun

from ._checkpointer import ThreadedCheckpointSaver as ThreadedCheckpointSaver
from ._store import ThreadedStore as ThreadedStore

__all__ = [
    "RunCustom",
    "RunInterrupt",
    "RunState",
    "RunText",
    "RunToolCall",
    "ThreadedCheckpointSaver",
    "ThreadedStore",
    "ToolDelta",
    "ToolFailure",
    "ToolResult",
    "ToolRun",
]

ThreadedCheckpointSaver.__module__ = ThreadedStore.__module__ = __name__
