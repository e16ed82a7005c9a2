"""Agents of langchain's: a run on trio, beside asyncio and trio-asyncio, and what a delta of one costs."""

from __future__ import annotations

import warnings
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from benchmarks.case import Case, Side, times
from benchmarks.peers import Model as Streaming
from benchmarks.peers import bare, by_trio_asyncio
from langchain_anyio import enable_trio, open_stream

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


class Talking(Streaming):
    """Streams an answer, and takes tools."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


ASKED: Any = {"messages": [("user", "hi")]}
LANGGRAPH = "langgraph's run stream"
AT_ONCE, PACED = Talking(count=times(2000)), Talking(count=times(2000), paced=True)


def interleaved(model: Streaming) -> Side:
    """The text of an agent, by the loop over all that happens in its run."""

    async def run() -> int:
        count = 0
        async with open_stream(create_agent(model, []), ASKED) as stream:
            async for _ in stream.interleave("text"):
                count += 1
        assert count == model.count
        return count

    return run


def by_messages(model: Streaming) -> Side:
    """The same by the messages of the run."""

    async def run() -> int:
        count = 0
        async with open_stream(create_agent(model, []), ASKED) as stream:
            async for message in stream.messages:
                async for _ in message.text:
                    count += 1
        assert count == model.count
        return count

    return run


def by_langgraph(model: Streaming) -> Side:
    async def run() -> int:
        agent: Any = create_agent(model, [])
        count = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that it is experimental
            stream = await agent.astream_events(ASKED, version="v3")
        async for message in stream.messages:
            async for _ in message.text:
                count += 1
        assert count == model.count
        return count

    return run


CASES = [
    Case(
        "a delta of an agent, by interleave()",
        interleaved(AT_ONCE),
        0.5,
        by_langgraph(AT_ONCE),
        LANGGRAPH,
        contained=bare(AT_ONCE),
    ),
    Case(
        "a delta of an agent, by its message",
        by_messages(AT_ONCE),
        0.5,
        by_langgraph(AT_ONCE),
        LANGGRAPH,
        contained=bare(AT_ONCE),
    ),
    Case(
        "a delta of an agent, one per loop iteration",
        interleaved(PACED),
        0.7,
        by_langgraph(PACED),
        LANGGRAPH,
        contained=bare(PACED),
    ),
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
