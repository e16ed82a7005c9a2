"""A run of an agent of langchain's: on trio, natively, beside the same on asyncio and beside trio-asyncio."""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from benchmarks.case import Case, times
from benchmarks.peers import by_trio_asyncio
from langchain_anyio import enable_trio

RUNS = times(20)


class Model(FakeMessagesListChatModel):
    """Says its messages in turn, and takes tools."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


@tool
async def look_up(topic: str) -> str:
    """Look a topic up."""
    return f"{topic} is wet"


async def runs() -> float:
    """Run an agent that calls its model three times and its tool six times, three of them at once."""
    asking = [
        AIMessage(
            "",
            tool_calls=[
                {"name": "look_up", "args": {"topic": "water"}, "id": f"{turn} {number}"}
                for number in range(3)
            ],
        )
        for turn in range(2)
    ]
    agent: Any = create_agent(Model(responses=[*asking, AIMessage("Wet.")]), [look_up])
    for _ in range(RUNS):
        result = await agent.ainvoke({"messages": [("user", "What is water?")]})
        assert len(result["messages"]) == 10
    return RUNS


async def natively() -> float:
    enable_trio()  # in the process of this side alone
    return await runs()


CASES = [
    Case(
        "a run of an agent on trio, beside asyncio",
        natively,
        1.3,
        runs,
        "langgraph on asyncio",
        backend="trio",
        alone=True,
    ),
    Case(
        "a run of an agent on trio, beside trio-asyncio",
        natively,
        0.8,
        by_trio_asyncio(runs),
        "trio-asyncio",
        backend="trio",
        peer_backend="trio",
        alone=True,
    ),
]
