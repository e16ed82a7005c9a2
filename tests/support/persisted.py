"""An agent on a database, for tests in one process and in several.

`python persisted.py BACKEND KIND WHERE` runs it until it is interrupted, or, where it has been interrupted before,
resumes it, and prints what came of it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.types import Command, interrupt

from langchain_anyio import enable_trio
from langchain_anyio.langgraph import ThreadedCheckpointSaver, ThreadedStore


class Careful(BaseChatModel):
    """A model that asks for the tool once, and repeats what it gave."""

    @property
    def _llm_type(self) -> str:
        return "careful"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> Any:
        if isinstance(messages[-1], ToolMessage):
            message = AIMessage(f"done: {messages[-1].content}")
        else:
            call = {"name": "remove", "args": {"file": "a.txt"}, "id": "1", "type": "tool_call"}
            message = AIMessage("", tool_calls=[call])
        return ChatResult(generations=[ChatGeneration(message=message)])


async def remove(file: str) -> str:
    """Remove a file, if a person agrees."""
    from langgraph.config import get_store

    answer = interrupt(f"remove {file}?")
    await get_store().aput(("answers",), file, {"answer": answer})
    return f"{file} {answer}"


@asynccontextmanager
async def opened(kind: str, where: str) -> AsyncIterator[tuple[Any, Any]]:
    """Open a checkpointer and a store on SQLite or PostgreSQL, whose tables are there."""
    saver: Any
    store: Any
    if kind == "sqlite":
        from langgraph.checkpoint.sqlite import SqliteSaver
        from langgraph.store.sqlite import SqliteStore

        saver, store = SqliteSaver.from_conn_string(where), SqliteStore.from_conn_string(where)
    else:
        from langgraph.checkpoint.postgres import PostgresSaver
        from langgraph.store.postgres import PostgresStore

        saver, store = PostgresSaver.from_conn_string(where), PostgresStore.from_conn_string(where)

    async with AsyncExitStack() as stack:
        saver = ThreadedCheckpointSaver(saver)
        store = ThreadedStore(store)
        await stack.enter_async_context(saver)
        await stack.enter_async_context(store)
        await saver.setup()
        await store.setup()
        yield saver, store


async def interrupted_or_resumed(kind: str, where: str) -> str:
    from langchain.agents import create_agent

    config: Any = {"configurable": {"thread_id": "1"}}
    async with opened(kind, where) as (saver, store):
        agent: Any = create_agent(Careful(), [remove], checkpointer=saver, store=store)
        if (await agent.aget_state(config)).next:
            state = await agent.ainvoke(Command(resume="yes"), config)
            answers = [item.value["answer"] for item in await store.asearch(("answers",))]
            return f"{state['messages'][-1].content} {answers}"
        state = await agent.ainvoke({"messages": [("user", "tidy up")]}, config)
        return str(state["__interrupt__"][0].value)


if __name__ == "__main__":
    backend, *arguments = sys.argv[1:]
    if backend == "trio":
        enable_trio()
    print(anyio.run(interrupted_or_resumed, *arguments, backend=backend))
