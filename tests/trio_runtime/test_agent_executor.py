"""langchain-classic's `AgentExecutor`, whose generator holds a timeout across its yields."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from langchain_classic.agents import AgentExecutor, create_tool_calling_agent
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool

pytest.importorskip("trio")

from langchain_anyio import disable_trio, enable_trio

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def enabled() -> Iterator[None]:
    enable_trio("langchain_classic")
    yield
    disable_trio()


class Model(GenericFakeChatModel):
    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


entered: list[str] = []
left: list[str] = []


@tool
async def look_up(topic: str) -> str:
    """Look a topic up."""
    entered.append(topic)
    try:
        await anyio.sleep(float("inf") if topic == "nothing" else 0)
    finally:
        left.append(topic)
    return "wet"


def executor(topic: str, limit: float | None) -> AgentExecutor:
    call = {"name": "look_up", "args": {"topic": topic}, "id": "1"}
    messages = [AIMessage("", tool_calls=[call]), AIMessage("It is wet.")]
    prompt = ChatPromptTemplate.from_messages(
        [("human", "{input}"), ("placeholder", "{agent_scratchpad}")]
    )
    agent = create_tool_calling_agent(Model(messages=iter(messages)), [look_up], prompt)
    entered.clear()
    left.clear()
    return AgentExecutor(
        agent=agent, tools=[look_up], max_execution_time=limit, stream_runnable=False
    )


QUESTION = {"input": "What is water?"}
LIMITS = pytest.mark.parametrize("limit", (None, 60))


def keys(chunks: list[Any]) -> list[str]:
    return [next(iter(chunk)) for chunk in chunks]


@LIMITS
async def test_it_answers_in_time(limit: float | None) -> None:
    answer = await executor("water", limit).ainvoke(QUESTION)
    assert answer["output"] == "It is wet."
    chunks = [chunk async for chunk in executor("water", limit).astream(QUESTION)]
    assert keys(chunks) == ["actions", "steps", "output"]


@pytest.mark.parametrize("how", ("ainvoke", "astream"))
async def test_it_stops_at_its_limit(how: str) -> None:
    agent = executor("nothing", 0.01)
    if how == "ainvoke":
        output = await agent.ainvoke(QUESTION)
    else:
        output = [chunk async for chunk in agent.astream(QUESTION)][-1]
    assert output["output"].startswith("Agent stopped")
    # Whether the tool has begun in time or not.
    assert left == entered
    await anyio.lowlevel.checkpoint()


@LIMITS
async def test_each_step_may_be_in_a_scope_and_in_a_task_of_its_own(limit: float | None) -> None:
    chunks: list[Any] = []

    async def step() -> None:
        chunks.append(await anext(stream))

    async with aclosing(executor("water", limit).astream(QUESTION)) as stream:
        with anyio.fail_after(10):
            await step()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(step)
        with anyio.CancelScope():
            await step()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert keys(chunks) == ["actions", "steps", "output"]


@LIMITS
async def test_it_is_left_within_a_scope(limit: float | None) -> None:
    with anyio.CancelScope() as outer:
        async with aclosing(executor("water", limit).astream(QUESTION)) as stream:
            with anyio.CancelScope():
                async for _ in stream:
                    break
        await anyio.lowlevel.checkpoint()
    assert not outer.cancelled_caught


@LIMITS
async def test_a_step_is_cancelled(limit: float | None) -> None:
    async with aclosing(executor("nothing", limit).astream(QUESTION)) as stream:
        assert keys([await anext(stream)]) == ["actions"]

        async def step() -> None:
            await anext(stream)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(step)
            await anyio.wait_all_tasks_blocked()
            assert not left
            tasks.cancel_scope.cancel()
        assert left == ["nothing"]
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
