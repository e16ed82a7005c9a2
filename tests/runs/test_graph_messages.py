"""The messages of a graph's run are streams of this package, with all that these have."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, MessagesState, StateGraph

from langchain_anyio import AsyncChatModelStream, StreamCancelledError, open_stream
from limits import HANGS
from models import AStreamModel, Gate

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("enabled_on_trio")]

ASKED: Any = {"messages": [("user", "hi")]}


class Model(AStreamModel):
    async def _agenerate(self, messages: Any, stop: Any = None, **kwargs: Any) -> Any:
        raise AssertionError("the graph is streamed")


def answering(model: AStreamModel) -> Any:
    async def node(state: MessagesState, config: RunnableConfig) -> Any:
        return {"messages": [await model.ainvoke(state["messages"], config)]}

    return node


def graph_of(**nodes: Any) -> Any:
    graph = StateGraph(MessagesState)
    for name, node in nodes.items():
        graph.add_node(name, node)
        graph.add_edge(START, name)
    return graph.compile()


async def test_they_have_what_a_models_stream_has() -> None:
    gate = Gate(2)
    async with open_stream(graph_of(talk=answering(Model(before=gate))), ASKED) as run:
        (message,) = [message async for message in _first(run.messages)]
        assert type(message) is AsyncChatModelStream
        assert (message.node, message.namespace) == ("talk", [])
        seen: list[Any] = []
        with anyio.fail_after(HANGS):
            async for item in message.interleave("text"):
                seen.append(item)
                if len(seen) == 2:
                    snapshot = message.snapshot()
                    gate.open.set()
        assert seen == [("text", "one "), ("text", "two "), ("text", "three")]
        assert (snapshot.text, snapshot.response_metadata["partial"]) == ("one two ", True)
        answer = await message
        assert (answer.text, await message.text) == ("one two three", "one two three")
        assert await message.usage is None
        assert (await run.output())["messages"][-1].text == answer.text


async def _first(projection: Any) -> Any:
    async for item in projection:
        yield item
        return


async def test_those_of_subgraphs_have_its_namespace() -> None:
    inner = graph_of(talk=answering(Model()))
    async with open_stream(graph_of(inner=inner, top=answering(Model())), ASKED) as run:
        seen = []
        async for subgraph in run.subgraphs:
            async for message in subgraph.messages:
                assert type(message) is AsyncChatModelStream
                (segment,) = message.namespace
                seen.append((segment.partition(":")[0], message.node, (await message).text))
        assert seen == [("inner", "talk", "one two three")]
        assert [message.node async for message in run.messages] == ["top"]


async def test_a_message_that_a_node_returns_is_whole() -> None:
    def node(state: MessagesState) -> Any:
        return {"messages": [AIMessage("whole", id="1")]}

    async with open_stream(graph_of(node=node), ASKED) as run:
        (message,) = await run.messages
        assert type(message) is AsyncChatModelStream
        assert (message.done, (await message).text) == (True, "whole")


async def test_a_message_that_is_cut_off_fails() -> None:
    gate = Gate(1)
    run = open_stream(graph_of(talk=answering(Model(before=gate))), ASKED)
    async with run:
        (message,) = [message async for message in _first(run.messages)]
        assert await message.text.__aiter__().__anext__() == "one "
    assert isinstance(message.error, StreamCancelledError)
    with pytest.raises(StreamCancelledError):
        await message
    assert message.snapshot().text == "one "


async def test_a_message_fails_with_the_error_of_its_node() -> None:
    def before(number: int) -> Any:
        if number == 1:
            raise OSError("broken")
        return anyio.sleep(0)

    async with open_stream(graph_of(talk=answering(Model(before=before))), ASKED) as run:
        (message,) = [message async for message in _first(run.messages)]
        seen = []
        with pytest.raises(OSError, match="broken"):
            async for delta in message.text:
                seen.append(delta)
        assert seen == ["one "]
        with pytest.raises(OSError, match="broken"):
            await run.output()
