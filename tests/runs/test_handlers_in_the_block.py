"""A handler that is iterated over in the block of its run starts the run, which nobody else reads."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import anyio
import pytest
from langchain_core.runnables import RunnableConfig, RunnablePassthrough
from langgraph.graph import START, MessagesState, StateGraph

from langchain_anyio import AsyncIteratorCallbackHandler, open_stream
from limits import HANGS
from models import AStreamModel

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("enabled_on_trio")]

WORDS = ["one ", "two ", "three"]


async def read(handler: AsyncIteratorCallbackHandler, way: str) -> list[str]:
    with anyio.fail_after(HANGS):
        if way == "tokens":
            return [token async for token in handler]
        if way == "runs":
            return [token async for _, token in handler.runs()]
        return ["".join([batch async for batch in handler.aiter().batches()])]


@pytest.mark.parametrize("way", ("tokens", "runs", "batches"))
@pytest.mark.parametrize("shape", ("model", "retried", "sequence"))
async def test_it_starts_the_run(way: str, shape: str) -> None:
    handler = AsyncIteratorCallbackHandler()
    model: Any = AStreamModel()
    if shape == "retried":
        model = model.with_retry()
    elif shape == "sequence":
        model = RunnablePassthrough() | model
    async with open_stream(model, "hi", {"callbacks": [handler]}) as stream:
        assert "".join(await read(handler, way)) == "one two three"
        assert (await stream).text == "one two three"


async def test_nothing_holds_the_model_back_then() -> None:
    handler = AsyncIteratorCallbackHandler()
    model = AStreamModel(words=["a"] * 3_000)
    async with open_stream(model, "hi", {"callbacks": [handler]}, max_buffer_size=10):
        assert len(await read(handler, "tokens")) == 3_000


async def test_who_reads_the_stream_still_holds_the_model_back() -> None:
    handler = AsyncIteratorCallbackHandler()
    model = AStreamModel(words=["a"] * 300)
    options: Any = {"max_buffer_size": 10}
    seen: list[str] = []

    async def consume() -> None:
        seen.extend(await read(handler, "tokens"))

    async with open_stream(model, "hi", {"callbacks": [handler]}, **options) as stream:
        deltas = aiter(stream.text)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume)  # which starts the run
            await anyio.wait_all_tasks_blocked()
            assert 0 < len(model.trace) <= 11
            assert len([delta async for delta in deltas]) == 300
    assert len(seen) == 300


async def test_a_graph_that_somebody_has_begun_goes_on() -> None:
    handler = AsyncIteratorCallbackHandler()
    asked: Any = {"messages": [("user", "hi")]}
    async with open_stream(talking_twice(), asked, {"callbacks": [handler]}) as run:
        async for _ in run.values:
            break
        assert await read(handler, "tokens") == WORDS * 2


async def test_in_a_task_of_the_block() -> None:
    handler = AsyncIteratorCallbackHandler()
    model = AStreamModel()
    seen: list[str] = []

    async def consume() -> None:
        seen.extend(await read(handler, "tokens"))

    async with (
        open_stream(model, "hi", {"callbacks": [handler]}) as stream,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(consume)
        assert (await stream).text == "one two three"
    assert seen == WORDS
    assert len(model.calls) == 1


async def test_other_handlers_start_nothing() -> None:
    mine, other = AsyncIteratorCallbackHandler(), AsyncIteratorCallbackHandler()
    model = AStreamModel()
    async with open_stream(model, "hi", {"callbacks": [mine]}):
        other.done.set()
        assert await read(other, "tokens") == []
    assert model.calls == []


async def test_after_the_block_nothing_is_started_or_kept() -> None:
    handler = AsyncIteratorCallbackHandler()
    model = AStreamModel()
    stream = open_stream(model, "hi", {"callbacks": [handler]})
    async with stream:
        pass
    handler.done.set()
    assert await read(handler, "tokens") == []
    assert model.calls == []
    run = weakref.ref(stream._run)
    del stream
    gc.collect()
    assert run() is None


class Streamed(AStreamModel):
    async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the graph is streamed")


def talking_twice() -> Any:
    model = Streamed(tell=True)

    async def talk(state: MessagesState, config: RunnableConfig) -> Any:
        return {"messages": [await model.ainvoke(state["messages"], config)]}

    graph: Any = StateGraph(MessagesState)
    graph.add_node("a", talk).add_node("b", talk).add_edge(START, "a").add_edge("a", "b")
    return graph.compile()


async def test_a_graph_takes_all_its_steps() -> None:
    handler = AsyncIteratorCallbackHandler()
    asked: Any = {"messages": [("user", "hi")]}
    async with open_stream(talking_twice(), asked, {"callbacks": [handler]}) as run:
        assert await read(handler, "tokens") == WORDS * 2
        assert len((await run.output)["messages"]) == 3
