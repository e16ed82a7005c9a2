"""An agent with parallel tools, cancelled at each of its scheduling points.

All that it had begun has ended.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import anyio
import pytest
from langchain.agents import create_agent
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from cancelling import Victim, ticks, ways_to_cancel
from langchain_anyio import open_stream
from limits import HANGS
from tally import tried

pytestmark = [
    pytest.mark.slow,
    pytest.mark.anyio,
    pytest.mark.usefixtures("enabled_on_trio"),
]

# Scheduling points from one that is tried to the next.
STEP = 2


class Model(FakeMessagesListChatModel):
    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


class Agent:
    """An agent that calls three tools at once, and what became of the calls."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []

        async def work(topic: str) -> str:
            self.begun.append(topic)
            try:
                await ticks(3)
                return topic
            finally:
                try:
                    with anyio.CancelScope(
                        shield=True
                    ):  # which keeps native cancellations out on trio alone
                        await ticks(2)
                finally:
                    self.ended.append(topic)

        @tool
        async def first(topic: str) -> str:
            """Work."""
            return await work(topic)

        @tool
        async def second(topic: str) -> str:
            """Work."""
            return await work(topic)

        @tool
        def third(topic: str) -> str:
            """Work in a thread."""
            return topic

        calls = [
            {"name": name, "args": {"topic": name}, "id": name}
            for name in ("first", "second", "third")
        ]
        model = Model(responses=[AIMessage("", tool_calls=calls), AIMessage("Done.")])
        self.graph = create_agent(
            model, [first, second, third], checkpointer=InMemorySaver(), name="agent"
        )


ASKED: Any = {"messages": [("user", "Work!")]}
CONFIG: Any = {"configurable": {"thread_id": "1"}}


async def invoke(agent: Agent) -> Any:
    return (await agent.graph.ainvoke(ASKED, CONFIG))["messages"][-1].text


async def stream(agent: Agent) -> Any:
    mode: Any = ["values", "messages", "updates"]
    async with aclosing(agent.graph.astream(ASKED, CONFIG, stream_mode=mode)) as items:
        return [item async for name, item in items if name == "values"][-1]["messages"][-1].text


async def opened(agent: Agent) -> Any:
    async with open_stream(agent.graph, ASKED, CONFIG) as run:
        return [[delta async for delta in message.text] async for message in run.messages][-1][-1]


# On asyncio langgraph's own calls may leave tools running, and its streams are its users' affair.
WAYS: dict[str, tuple[Callable[[Agent], Awaitable[Any]], ...]] = {
    "asyncio": (opened,),
    "trio": (invoke, stream, opened),
}


@pytest.mark.parametrize("way", (invoke, stream, opened))
async def test_all_that_was_begun_has_ended(
    anyio_backend: tuple[str, Any], way: Callable[[Agent], Awaitable[Any]]
) -> None:
    if way not in WAYS[anyio_backend[0]]:
        pytest.skip("langgraph's own, on asyncio")
    outcomes: dict[str, int] = {}
    for how in ways_to_cancel(anyio_backend):
        for point in range(0, 100_000, STEP):
            agent = Agent()
            with anyio.fail_after(HANGS):
                async with anyio.create_task_group() as group:
                    victim = Victim(group, lambda agent=agent: way(agent))  # type: ignore[misc]
                    await ticks(point)
                    victim.cancel(how)
            assert sorted(agent.begun) == sorted(agent.ended), (how, point)
            assert left_over() == [], (how, point)
            outcomes[victim.outcome] = outcomes.get(victim.outcome, 0) + 1
            tried("Cancellation: an agent with tools at work, at each second of its steps")
            if victim.outcome == "returned":
                assert victim.value == "Done."
                break
            assert victim.outcome == "cancelled", victim.value
    print(way.__name__, outcomes)
    assert outcomes["cancelled"] > 10


def left_over() -> list[str]:
    """The names of the tasks that are in no task group of the test's."""
    if "trio" in sys.modules:
        import trio

        try:
            root = trio.lowlevel.current_root_task()
        except RuntimeError:
            pass
        else:
            assert root is not None
            return [
                task.name
                for nursery in root.child_nurseries
                for task in nursery.child_tasks
                if not any(part in task.name for part in ("trio.", "TrioToken", "TestRunner"))
            ]
    import asyncio

    current = asyncio.current_task()
    return [
        task.get_name()
        for task in asyncio.all_tasks()
        if task is not current and "TestRunner" not in repr(task.get_coro())
    ]
