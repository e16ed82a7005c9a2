"""LangGraph's synchronous checkpointers and stores, made asynchronous on asyncio and on trio.

- `ThreadedCheckpointSaver`, `ThreadedStore`: the public classes.
- `_calls`: calls of blocking functions, one after another, in worker threads.
- `_resource`: what is wrapped, opened and closed with a block.

This package imports langgraph, which `langchain_anyio` itself does not need.
"""

from __future__ import annotations

from ._checkpointer import ThreadedCheckpointSaver as ThreadedCheckpointSaver
from ._store import ThreadedStore as ThreadedStore

__all__ = ["ThreadedCheckpointSaver", "ThreadedStore"]

ThreadedCheckpointSaver.__module__ = ThreadedStore.__module__ = __name__
