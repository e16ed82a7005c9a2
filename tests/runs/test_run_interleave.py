"""`GraphStream.interleave()`: all that happens in a run, in order, for any number of consumers."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from langchain.agents import create_agent
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolRuntime
from langgraph.stream import CustomTransformer
from langgraph.types import Command, interrupt

from cancelling import Victim, settle, ticks, ways_to_cancel
from langchain_anyio import StreamCancelledError, open_stream
from langchain_anyio._cli.demo import DemoChatModel
from langchain_anyio.langgraph import (
    RunCustom,
    RunInterrupt,
    RunState,
    RunText,
    RunToolCall,
    ToolDelta,
    ToolFailure,
    ToolResult,
    ToolRun,
)
from limits import HANGS
from models import AStreamModel, Gate

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("enabled_on_trio")]

ASKED: Any = {"messages": [("user", "hi")]}
THREAD: RunnableConfig = {"configurable": {"thread_id": "1"}}


class Listed(FakeMessagesListChatModel):
    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


class Streaming(AStreamModel):
    async def _agenerate(self, messages: Any, stop: Any = None, **kwargs: Any) -> Any:
        raise AssertionError("the graph is streamed")


def calls_of(*topics: str) -> AIMessage:
    return AIMessage(
        "",
        tool_calls=[{"name": "look_up", "args": {"topic": t}, "id": f"call {t}"} for t in topics],
    )


@tool
async def look_up(topic: str) -> str:
    """Look a topic up; the first letter tells how long it takes."""
    if topic == "bad":
        raise ValueError("no such topic")
    await ticks(1 + 20 * (ord(topic[0]) - ord("a")))
    return f"{topic} is wet"


def agent_of(*messages: AIMessage, tools: Any = (look_up,)) -> Any:
    return create_agent(Listed(responses=list(messages)), list(tools))


def talking(model: Any) -> Any:
    async def node(state: MessagesState, config: RunnableConfig) -> Any:
        return {"messages": [await model.ainvoke(state["messages"], config)]}

    return node


def in_turn(**nodes: Any) -> Any:
    graph, before = StateGraph(MessagesState), START
    for name, node in nodes.items():
        graph.add_node(name, node)
        graph.add_edge(before, name)
        before = name
    return graph


def graph_of(**nodes: Any) -> Any:
    """A graph whose nodes all run at once."""
    graph = StateGraph(MessagesState)
    for name, node in nodes.items():
        graph.add_node(name, node)
        graph.add_edge(START, name)
    return graph


def needs_context(anyio_backend: tuple[str, Any]) -> None:
    if sys.version_info < (3, 11) and anyio_backend[0] == "asyncio":
        pytest.skip("langgraph finds its context in nodes on asyncio from Python 3.11 on")


def shown(pair: Any) -> Any:
    """Return an item in short, so that those of two runs are equal."""
    name, item = pair
    match item:
        case RunText(delta, message):
            return name, delta, message.node
        case RunToolCall(delta, message):
            return name, delta["name"], delta["args"], message.node
        case ToolRun():
            return name, item.name, item.input
        case ToolResult():
            return name, item.text, item.tool.tool_call_id
        case ToolFailure(error, called):
            return name, error, called.tool_call_id
        case RunState(values, _):
            return name, len(values["messages"])
        case RunInterrupt(value, _, _):
            return name, value
        case RunCustom(data, _) | ToolDelta(data, _):
            return name, data
    raise AssertionError(item)


# What it gives


async def test_an_agent_with_parallel_tools() -> None:
    agent = agent_of(calls_of("c", "a"), AIMessage("Wet."))
    async with open_stream(agent, ASKED) as run:
        pairs = [pair async for pair in run.interleave()]
        first, second = await run.messages
        assert [shown(pair) for pair in pairs] == [
            ("values", 1),
            ("tool_calls", "look_up", '{"topic": "c"}', "model"),
            ("tool_calls", "look_up", '{"topic": "a"}', "model"),
            ("values", 2),
            ("tool_starts", "look_up", {"topic": "c"}),
            ("tool_starts", "look_up", {"topic": "a"}),
            ("tool_results", "a is wet", "call a"),
            ("tool_results", "c is wet", "call c"),
            ("values", 4),
            ("text", "Wet.", "model"),
            ("values", 5),
        ]
        assert all(item.namespace == [] for _, item in pairs)
        messages = [item.message for _, item in pairs if isinstance(item, RunText | RunToolCall)]
        assert messages == [first, first, second]
        results = [item for _, item in pairs if isinstance(item, ToolResult)]
        starts = [item for _, item in pairs if isinstance(item, ToolRun)]
        assert [result.tool for result in results] == starts[::-1]
        assert {start.message for start in starts} == {first}
        assert all(isinstance(result.output, ToolMessage) for result in results)


async def test_reasoning_tool_calls_and_text_as_they_come() -> None:
    graph = in_turn(talk=talking(DemoChatModel(seconds_per_chunk=0))).compile()
    async with open_stream(graph, ASKED) as run:
        pairs = [pair async for pair in run.interleave("reasoning", "tool_calls", "text")]
        (message,) = await run.messages
        assert [(name, item.delta) for name, item in pairs] == [
            delta async for delta in message.interleave()
        ]
        assert all(item.message is message for _, item in pairs)
        assert list(dict.fromkeys(name for name, _ in pairs)) == ["reasoning", "tool_calls", "text"]


async def test_deltas_are_given_as_they_come() -> None:
    gate = Gate(2)
    graph = in_turn(talk=talking(Streaming(before=gate))).compile()
    async with open_stream(graph, ASKED) as run:
        seen: list[str] = []
        with anyio.fail_after(HANGS):
            async for _, item in run.interleave("text"):
                seen.append(item.delta)
                if len(seen) == 2:
                    assert item.message.snapshot().text == "one two "
                    gate.open.set()
        assert seen == ["one ", "two ", "three"]


async def test_a_call_without_arguments_is_given_too() -> None:
    call = {"name": "now", "args": {}, "id": "1"}

    @tool
    async def now() -> str:
        """Tell the time."""
        return "noon"

    agent = agent_of(AIMessage("", tool_calls=[call]), AIMessage("Noon."), tools=[now])
    async with open_stream(agent, ASKED) as run:
        (pair,) = [pair async for pair in run.interleave("tool_calls")]
        delta = pair[1].delta
        assert (delta["id"], delta["name"], json.loads(delta["args"] or "")) == ("1", "now", {})


async def test_subgraphs_with_their_namespaces(anyio_backend: tuple[str, Any]) -> None:
    needs_context(anyio_backend)

    async def write(state: MessagesState) -> Any:
        get_stream_writer()({"done": 1})
        return {}

    deep = in_turn(write=write, talk=talking(Streaming())).compile()
    graph = in_turn(
        agent=agent_of(calls_of("a"), AIMessage("Wet.")), outer=in_turn(deep=deep).compile()
    )
    async with open_stream(graph.compile(), ASKED) as run:
        names = ("text", "tool_starts", "tool_results", "custom", "values")
        found = [
            (*shown(pair)[:2], [segment.partition(":")[0] for segment in pair[1].namespace])
            async for pair in run.interleave(*names)
        ]
    assert [entry for entry in found if entry[0] != "values"] == [
        ("tool_starts", "look_up", ["agent"]),
        ("tool_results", "a is wet", ["agent"]),
        ("text", "Wet.", ["agent"]),
        ("custom", {"done": 1}, ["outer", "deep"]),
        ("text", "one ", ["outer", "deep"]),
        ("text", "two ", ["outer", "deep"]),
        ("text", "three", ["outer", "deep"]),
    ]
    assert {tuple(entry[2]) for entry in found if entry[0] == "values"} == {
        (),
        ("agent",),
        ("outer",),
        ("outer", "deep"),
    }


async def test_a_graph_that_a_tool_runs(anyio_backend: tuple[str, Any]) -> None:
    needs_context(anyio_backend)
    inner = in_turn(talk=talking(Streaming())).compile()

    @tool
    async def delegate(topic: str) -> str:
        """Ask another graph."""
        return str((await inner.ainvoke(ASKED))["messages"][-1].text)

    call = {"name": "delegate", "args": {"topic": "a"}, "id": "1"}
    agent = agent_of(AIMessage("", tool_calls=[call]), AIMessage("Done."), tools=[delegate])
    async with open_stream(agent, ASKED) as run:
        names = ("text", "tool_starts", "tool_results")
        pairs = [pair async for pair in run.interleave(*names)]
    assert [shown(pair)[:2] for pair in pairs] == [
        ("tool_starts", "delegate"),
        ("text", "one "),
        ("text", "two "),
        ("text", "three"),
        ("tool_results", "one two three"),
        ("text", "Done."),
    ]
    assert [bool(item.namespace) for _, item in pairs] == [False, True, True, True, False, False]


async def test_interrupts_each_once_and_resuming(anyio_backend: tuple[str, Any]) -> None:
    needs_context(anyio_backend)

    async def ask(state: MessagesState) -> Any:
        return {"messages": [("ai", interrupt("sure?"))]}

    inner = in_turn(ask=ask).compile()
    graph = graph_of(inner=inner, ask=ask).compile(checkpointer=InMemorySaver())
    async with open_stream(graph, ASKED, THREAD) as run:
        found = [item async for _, item in run.interleave("interrupts")]
        assert [item.value for item in found] == ["sure?", "sure?"]
        assert len({item.interrupt_id for item in found}) == 2
        assert sorted(len(item.namespace) for item in found) == [0, 1]
        assert {asked.id for asked in await run.interrupts()} == {i.interrupt_id for i in found}
    answers = {item.interrupt_id: "yes" for item in found}
    async with open_stream(graph, Command(resume=answers), THREAD) as run:
        assert [item async for _, item in run.interleave("interrupts")] == []
        assert [m.text for m in (await run.output)["messages"]] == ["hi", "yes", "yes"]


async def test_what_a_tool_emits_before_it_returns(anyio_backend: tuple[str, Any]) -> None:
    needs_context(anyio_backend)

    @tool
    async def count(runtime: ToolRuntime) -> str:
        """Count."""
        for number in range(2):
            runtime.emit_output_delta(number)
        return "2"

    call = {"name": "count", "args": {}, "id": "1"}
    agent = agent_of(AIMessage("", tool_calls=[call]), AIMessage("Two."), tools=[count])
    async with open_stream(agent, ASKED) as run:
        names = ("tool_starts", "tool_deltas", "tool_results")
        pairs = [pair async for pair in run.interleave(*names)]
    assert [name for name, _ in pairs] == [
        "tool_starts",
        "tool_deltas",
        "tool_deltas",
        "tool_results",
    ]
    assert [shown(pair)[1] for pair in pairs[1:]] == [0, 1, "2"]


@pytest.mark.parametrize(
    ("output", "text"),
    (
        (ToolMessage("wet", tool_call_id="1"), "wet"),
        (ToolMessage([{"type": "text", "text": "wet"}], tool_call_id="1"), "wet"),
        ("wet", "wet"),
        (3, "3"),
        ({"type": "tool", "content": "wet"}, "wet"),
        ({"type": "constructor", "kwargs": {"content": "wet"}}, "wet"),
        ({"found": 1}, "{'found': 1}"),
    ),
)
def test_the_text_of_a_result(output: Any, text: str) -> None:
    assert ToolResult(output, ToolRun("1", "look_up", {}, [], None)).text == text


# How it ends


async def test_a_failing_tool() -> None:
    agent = agent_of(calls_of("bad", "z"), AIMessage("Wet."))
    async with open_stream(agent, ASKED) as run:
        seen = []
        with pytest.raises(ValueError, match="no such topic"):
            async for pair in run.interleave("tool_starts", "tool_results", "tool_errors"):
                seen.append(pair)
        (failed,) = [item for _, item in seen if isinstance(item, ToolFailure)]
        assert (failed.error, failed.tool.name) == ("no such topic", "look_up")
        with pytest.raises(ValueError, match="no such topic"):
            await run.output


async def test_a_failing_model() -> None:
    def before(number: int) -> Any:
        if number == 1:
            raise OSError("broken")
        return anyio.sleep(0)

    graph = in_turn(talk=talking(Streaming(before=before))).compile()
    async with open_stream(graph, ASKED) as run:
        for _ in range(2):
            seen = []
            with pytest.raises(OSError, match="broken"):
                async for _, item in run.interleave("text"):
                    seen.append(item.delta)
            assert seen == ["one "]


async def test_leaving_early_stops_the_run_and_ends_other_consumers() -> None:
    gate = Gate(1)
    graph = in_turn(talk=talking(Streaming(before=gate))).compile()
    outcome: list[Any] = []

    async def other(run: Any) -> None:
        try:
            async for _, item in run.interleave("text"):
                outcome.append(item.delta)
        except StreamCancelledError as exc:
            outcome.append(exc)

    with anyio.fail_after(HANGS):
        async with anyio.create_task_group() as group:
            async with open_stream(graph, ASKED) as run:
                group.start_soon(other, run)
                async for name, _ in run.interleave("values", "text"):
                    if name == "text":
                        break
    assert outcome[0] == "one "
    assert isinstance(outcome[1], StreamCancelledError)
    # What has come is still there.
    left = run.interleave("text")
    assert (await anext_of(left))[1].delta == "one "
    with pytest.raises(StreamCancelledError):
        await anext_of(left)


async def anext_of(iterator: AsyncIterator[Any]) -> Any:
    return await iterator.__anext__()


async def test_a_half_read_message_does_not_let_the_next_node_begin() -> None:
    begun: list[str] = []

    async def after(state: MessagesState) -> Any:
        begun.append("after")
        return {}

    graph = in_turn(talk=talking(Streaming()), after=after).compile()
    async with open_stream(graph, ASKED) as run:
        iterator = run.interleave("text")
        for _ in range(3):
            await anext_of(iterator)
        await settle()
        assert begun == []
        assert await run.output
    assert begun == ["after"]


# Who reads it


def whole_graph() -> Any:
    return in_turn(
        agent=agent_of(calls_of("c", "a"), AIMessage("Wet.")), talk=talking(Streaming())
    ).compile()


async def test_any_number_of_consumers_at_any_time() -> None:
    read: list[list[Any]] = []

    async def consume(run: Any) -> None:
        read.append([shown(pair) async for pair in run.interleave()])

    async with open_stream(whole_graph(), ASKED) as run:
        iterator = run.interleave()
        await anext_of(iterator)
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(consume, run)
        await consume(run)
        rest = [shown(pair) async for pair in iterator]
    assert len(read[0]) > 15
    assert all(one == read[0] for one in read)
    assert rest == read[0][1:]


async def test_batches() -> None:
    async with open_stream(whole_graph(), ASKED) as run:
        names = ("text", "tool_results")
        batches = [batch async for batch in run.interleave(*names).batches()]
        assert all(batches)
        assert [pair for batch in batches for pair in batch] == [
            pair async for pair in run.interleave(*names)
        ]
        iterator = run.interleave(*names)
        first = await anext_of(iterator)
        (rest,) = [batch async for batch in iterator.batches()]
        assert [first, *rest] == [pair async for pair in run.interleave(*names)]


@pytest.mark.parametrize("how", ("scope", "deadline", "native", "native twice"))
async def test_a_cancelled_consumer_loses_nothing(anyio_backend: tuple[str, Any], how: str) -> None:
    """A consumer is cancelled at each of its steps, and another one goes on with its iterator."""
    if how not in ways_to_cancel(anyio_backend):
        pytest.skip("trio knows cancel scopes alone")
    async with open_stream(whole_graph(), ASKED) as run:
        iterator = run.interleave()
        read: list[Any] = []
        cancelled = 0

        async def consume() -> None:
            async for pair in iterator:
                read.append(shown(pair))

        with anyio.fail_after(HANGS):
            while not run.done:
                async with anyio.create_task_group() as group:
                    victim = Victim(group, consume)
                    await ticks(1 + cancelled % 3)
                    victim.cancel(how)
                cancelled += victim.outcome == "cancelled"
        await consume()
        assert read == [shown(pair) async for pair in run.interleave()]
    assert cancelled > 10


async def test_wrong_names_are_errors() -> None:
    async with open_stream(whole_graph(), ASKED) as run:
        for names in (("messages",), ("text", "text"), ("text", 1)):
            with pytest.raises(
                ValueError, match=r"names must be distinct and among \('reasoning',"
            ):
                run.interleave(*names)  # type: ignore[call-overload]


async def test_own_transformers_are_kept() -> None:
    graph = whole_graph()
    async with open_stream(graph, ASKED, transformers=[CustomTransformer]) as run:
        assert await run.custom == []
        assert [pair async for pair in run.interleave("tool_results")] != []


async def test_chunks_reach_it_before_the_answer_ends_though_the_model_never_waits() -> None:
    """A consumer gets its turn while a long answer is passed on."""
    at: list[int] = []

    class Long(Streaming):
        async def _astream(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            for _ in range(1000):
                yield ChatGenerationChunk(message=self.chunk_of("word "))

        def chunk_of(self, text: str) -> Any:
            from langchain_core.messages import AIMessageChunk

            return AIMessageChunk(text)

    async with open_stream(in_turn(talk=talking(Long())).compile(), ASKED) as run:
        async for _, item in run.interleave("text"):
            at.append(len(item.message.snapshot().text))
            await checkpoint()
    assert len(at) == 1000
    assert at[0] < 1000 * 5
