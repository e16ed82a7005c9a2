"""`open_stream` of a graph: its projections, and that each way out stops all that it runs."""

from __future__ import annotations

import gc
import operator
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint
from langchain.agents import create_agent
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.stream import StreamTransformer
from langgraph.types import Command, StreamWriter, interrupt
from typing_extensions import TypedDict

from cancelling import Victim, settle, ticks, ways_to_cancel
from langchain_anyio import (
    AsyncProjection,
    GraphStream,
    StreamCancelledError,
    disable_trio,
    open_stream,
)
from limits import HANGS
from loopback import ProviderServer, Scenario
from shared_fixtures import SetCleanup

pytest_plugins = ["loopback.fixtures"]
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("enabled_on_trio")]


class State(TypedDict):
    seen: Annotated[list[str], operator.add]


def saying(word: str) -> Any:
    async def node(state: State) -> State:
        await checkpoint()
        return {"seen": [word]}

    return node


def graph_of(**nodes: Any) -> Any:
    """A graph whose nodes all run at once."""
    graph = StateGraph(State)
    for name, node in nodes.items():
        graph.add_node(name, node)
        graph.add_edge(START, name)
    return graph


def in_turn() -> Any:
    graph = StateGraph(State).add_node("a", saying("a")).add_node("b", saying("b"))
    return graph.add_edge(START, "a").add_edge("a", "b").compile()


class Endless:
    """Nodes that never end, and what became of them."""

    def __init__(self, cleanup: Callable[[], Any] = checkpoint) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self._cleanup = cleanup

    def node(self, name: str) -> Any:
        async def node(state: State) -> State:
            self.begun.append(name)
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await self._cleanup()
                self.ended.append(name)
            raise AssertionError

        return node

    def graph(self) -> Any:
        """Two nodes, one of them a graph of two more."""
        inner = graph_of(a=self.node("a"), b=self.node("b")).compile()
        return graph_of(inner=inner, c=self.node("c")).compile()

    async def all_begun(self) -> None:
        while len(self.begun) < 3:
            await checkpoint()

    def all_ended(self) -> bool:
        return sorted(self.ended) == sorted(self.begun) == ["a", "b", "c"]


class Model(FakeMessagesListChatModel):
    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


@tool
async def look_up(topic: str) -> str:
    """Look a topic up."""
    await checkpoint()
    return f"{topic} is wet"


def agent() -> Any:
    calls = [{"name": "look_up", "args": {"topic": "water"}, "id": "1"}]
    return create_agent(
        Model(responses=[AIMessage("", tool_calls=calls), AIMessage("Wet.")]), [look_up]
    )


ASKED: Any = {"messages": [("user", "What is water?")]}


# What it gives


async def test_its_projections() -> None:
    async with open_stream(in_turn(), {"seen": []}) as stream:
        assert isinstance(stream, GraphStream)
        assert isinstance(stream.values, AsyncProjection)
        assert [value async for value in stream.values] == [
            {"seen": []},
            {"seen": ["a"]},
            {"seen": ["a", "b"]},
        ]
        for _ in range(2):
            assert await stream.output() == await stream.output == {"seen": ["a", "b"]}
        assert await stream.values == [value async for value in stream.values]  # again
        assert {event["method"] async for event in stream} == {"values"}
        assert set(stream.extensions) >= {"values", "messages", "lifecycle", "subgraphs"}
        assert stream.done
        assert stream.error is None
        with pytest.raises(AttributeError, match="nothing"):
            _ = stream.nothing


async def test_awaiting_it_gives_the_output() -> None:
    assert await open_stream(in_turn(), {"seen": ["0"]}) == {"seen": ["0", "a", "b"]}


async def test_several_consumers_at_once() -> None:
    read: list[Any] = []
    async with open_stream(agent(), ASKED) as stream:

        async def messages() -> None:
            async for message in stream.messages:
                read.append("".join([delta async for delta in message.text]))

        async def values() -> None:
            read.append(len([value async for value in stream.values]))

        async with anyio.create_task_group() as group:
            for consumer in (values, messages, values):
                group.start_soon(consumer)
    assert sorted(map(str, read)) == ["", "4", "4", "Wet."]


async def test_a_message_drives_the_graph() -> None:
    async with open_stream(agent(), ASKED) as stream:
        async for message in stream.messages:
            calls = await message.tool_calls
            assert [call["name"] for call in calls] == ["look_up"]
            break
        assert (await stream.output())["messages"][-1].text == "Wet."


async def test_nothing_runs_before_it_is_asked_for_and_one_step_at_a_time() -> None:
    begun: list[str] = []

    async def node(state: State) -> State:
        begun.append("a")
        return {"seen": ["a"]}

    async with open_stream(graph_of(a=node).compile(), {"seen": []}) as stream:
        await settle()
        assert begun == []
        assert await stream.values.__aiter__().__anext__() == {"seen": []}


async def test_interrupts_and_resuming(anyio_backend: tuple[str, Any]) -> None:
    if sys.version_info < (3, 11) and anyio_backend[0] == "asyncio":
        pytest.skip("langgraph finds its context in nodes on asyncio from Python 3.11 on")

    def ask(state: State) -> State:
        return {"seen": [interrupt("what?")]}

    graph = graph_of(ask=ask).compile(checkpointer=InMemorySaver())
    config: RunnableConfig = {"configurable": {"thread_id": "1"}}
    async with open_stream(graph, {"seen": []}, config) as stream:
        assert await stream.interrupted()
        assert [asked.value for asked in await stream.interrupts()] == ["what?"]
    async with open_stream(graph, Command(resume="this"), config) as stream:
        assert await stream.output() == {"seen": ["this"]}
        assert not await stream.interrupted()


async def test_an_error_comes_after_what_came_before_it() -> None:
    async def fail(state: State) -> State:
        raise KeyError("mine")

    graph = StateGraph(State).add_node("a", saying("a")).add_node("b", fail)
    graph.add_edge(START, "a").add_edge("a", "b")
    read = []
    async with open_stream(graph.compile(), {"seen": []}) as stream:
        for _ in range(2):
            with pytest.raises(KeyError, match="mine"):
                async for value in stream.values:
                    read.append(value)
        with pytest.raises(KeyError, match="mine"):
            await stream.output()
        assert isinstance(stream.error, KeyError)
    assert read == 2 * [{"seen": []}, {"seen": ["a"]}]


async def test_what_it_refuses() -> None:
    for option in ({"stop": ["x"]}, {"replay": False}, {"chunk_timeout": 1.0}):
        with pytest.raises(TypeError, match=f"{next(iter(option))} is for chat models"):
            open_stream(in_turn(), {"seen": []}, **option)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"set a timeout on the models .* anyio.fail_after\(\)"):
        open_stream(in_turn(), {"seen": []}, chunk_timeout=1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="this RunnableSequence ends in a CompiledStateGraph"):
        open_stream(ChatPromptTemplate.from_template("x") | in_turn(), {})


async def test_bound_arguments_reach_the_graph() -> None:
    graph = in_turn().with_config(tags=["tag"])
    assert await open_stream(graph.bind(interrupt_after=["a"]), {"seen": []}) == {"seen": ["a"]}


async def test_on_trio_alone_it_needs_enabling(anyio_backend: tuple[str, Any]) -> None:
    disable_trio()
    if anyio_backend[0] == "trio":
        with pytest.raises(RuntimeError, match=r"enable_trio\(\)"):
            await open_stream(in_turn(), {"seen": []})
    else:
        assert await open_stream(in_turn(), {"seen": []}) == {"seen": ["a", "b"]}


# How it ends


async def leave(stream: GraphStream, endless: Endless) -> None:
    async with stream, anyio.create_task_group() as group:
        group.start_soon(read, stream)
        await endless.all_begun()
        group.cancel_scope.cancel()


async def read(stream: GraphStream) -> None:
    async for _ in stream.values:
        pass


async def close(stream: GraphStream, endless: Endless) -> None:
    async with anyio.create_task_group() as group:

        async def closed() -> None:
            with pytest.raises(StreamCancelledError):
                await read(stream)

        group.start_soon(closed)
        await endless.all_begun()
        await stream.aclose()
        await stream.abort()


async def close_in_a_cancelled_scope(stream: GraphStream, endless: Endless) -> None:
    async with anyio.create_task_group() as group:

        async def closed() -> None:
            with suppress(StreamCancelledError):  # or it is cancelled first
                await read(stream)

        group.start_soon(closed)
        await endless.all_begun()
        group.cancel_scope.cancel()
        await stream.aclose()
        assert endless.all_ended()


@pytest.mark.parametrize("way", (leave, close, close_in_a_cancelled_scope))
async def test_each_way_out_stops_nodes_and_subgraphs(way: Any) -> None:
    endless = Endless(cleanup=lambda: ticks(20))
    with anyio.fail_after(HANGS):
        await way(open_stream(endless.graph(), {"seen": []}), endless)
    assert endless.all_ended()


@pytest.mark.parametrize("how", ("scope", "deadline", "native", "native twice"))
async def test_a_handler_that_is_cancelled_stops_nodes_and_subgraphs(
    anyio_backend: tuple[str, Any], how: str
) -> None:
    """They have ended when the handler has, whatever cancels it, though their cleanup takes a while."""
    if how not in ways_to_cancel(anyio_backend):
        pytest.skip("trio knows cancel scopes alone")
    endless = Endless(cleanup=lambda: ticks(50))

    async def handler() -> None:
        async with open_stream(endless.graph(), {"seen": []}) as stream:
            await stream.output()

    with anyio.fail_after(HANGS):
        async with anyio.create_task_group() as group:
            victim = Victim(group, handler)
            await endless.all_begun()
            victim.cancel(how)
    assert victim.outcome == "cancelled"
    assert endless.all_ended()


@pytest.mark.unhurried  # it imports much
@pytest.mark.parametrize("gated_frames", (0, 2))
async def test_leaving_closes_the_providers_connection(
    server: ProviderServer, gated_frames: int, anyio_backend: tuple[str, Any]
) -> None:
    if sys.version_info < (3, 11) and anyio_backend[0] == "asyncio":
        pytest.skip(
            "a cancelled ChatOpenAI.ainvoke leaves its connection open there, by itself too"
        )
    from loopback.models import chat_completions

    endpoint = server.serve(Scenario(gated=True))
    agent = create_agent(chat_completions(endpoint), [look_up])

    async def read_messages() -> None:
        async with open_stream(agent, ASKED) as stream:
            async for message in stream.messages:
                async for _ in message.text:
                    pass

    with anyio.fail_after(HANGS):
        async with anyio.create_task_group() as group:
            group.start_soon(read_messages)
            exchange = await endpoint.exchange()
            exchange.release(gated_frames)
            await settle()
            group.cancel_scope.cancel()
        assert await anyio.to_thread.run_sync(exchange.closed.wait_blocking)


async def test_a_cancelled_consumer_takes_nothing_from_the_others() -> None:
    async with open_stream(agent(), ASKED) as stream:
        whole: list[Any] = []

        async def reader() -> None:
            whole.extend([value async for value in stream.values])

        for patience in range(12):
            async with anyio.create_task_group() as group:
                group.start_soon(read, stream)
                await ticks(patience)
                group.cancel_scope.cancel()
        with anyio.fail_after(HANGS):
            await reader()
    assert [len(value["messages"]) for value in whole] == [1, 2, 3, 4]


async def test_one_that_is_dropped_is_stopped() -> None:
    endless = Endless()
    with anyio.fail_after(HANGS):
        async with anyio.create_task_group() as group:
            stream = open_stream(endless.graph(), {"seen": []})
            group.start_soon(read, stream)
            await endless.all_begun()
            group.cancel_scope.cancel()
        with pytest.warns(ResourceWarning, match="was dropped before it was read to its end"):
            del stream, group
            gc.collect()  # once: it takes long, and the cleanup has its time
            while not endless.all_ended():
                await checkpoint()


async def test_one_that_never_began_is_closed_at_once() -> None:
    stream = open_stream(in_turn(), {"seen": []})
    await stream.aclose()
    with pytest.raises(StreamCancelledError):
        await stream.output()
    async with open_stream(in_turn(), {"seen": []}):
        pass


@pytest.mark.parametrize("seconds", (0.05, pytest.param(5, marks=pytest.mark.slow)))
async def test_a_cleanup_that_takes_too_long_is_given_up(
    seconds: float, set_cleanup: SetCleanup
) -> None:
    if seconds != 5:  # which is the package's own
        set_cleanup(seconds)
    release = anyio.Event()
    endless = Endless(cleanup=lambda: release.wait())
    with anyio.fail_after(HANGS):
        given_up = f"given up after {seconds:g} seconds; left behind: the graph LangGraph"
        began = anyio.current_time()
        try:
            # On trio, the calls within the graph are given up after as long, and warn too.
            with pytest.warns(ResourceWarning) as warned:
                await leave(open_stream(endless.graph(), {"seen": []}), endless)
            assert any(given_up in str(warning.message) for warning in warned)
            if seconds == 5:
                assert 4.9 < anyio.current_time() - began < 6  # more on a busy machine alone
            assert endless.ended == []
        finally:
            release.set()
        while not endless.all_ended():
            await checkpoint()


class Failing(StreamTransformer):
    """Fails at what a node writes, while the node goes on."""

    required_stream_modes = ("custom",)

    def init(self) -> dict[str, Any]:
        return {}

    def process(self, event: Any) -> bool:
        if event["method"] == "custom":
            raise KeyError("mine")
        return True


async def test_an_error_is_shown_before_a_node_that_does_not_end_has_ended(
    set_cleanup: SetCleanup, anyio_backend: tuple[str, Any]
) -> None:
    """A stream transformer's, after which the graph goes on by itself."""
    if sys.version_info < (3, 11) and anyio_backend[0] == "asyncio":
        pytest.skip("langgraph's writer finds its graph in asyncio's tasks from Python 3.11 on")
    set_cleanup(0.5)
    log: list[str] = []
    release = anyio.Event()

    async def node(state: State, writer: StreamWriter) -> State:
        writer("begun")
        try:
            await anyio.sleep_forever()
        finally:
            log.append("cancelled")
            with anyio.CancelScope(shield=True):
                while not release.is_set():
                    with suppress(anyio.get_cancelled_exc_class()):  # a native one comes through
                        await release.wait()
            log.append("ended")
        raise AssertionError

    stream = open_stream(graph_of(n=node).compile(), {"seen": []}, transformers=[Failing])
    with anyio.fail_after(HANGS):
        with pytest.warns(ResourceWarning, match="left behind: the graph"):
            with pytest.raises(KeyError, match="mine"):
                async for _ in stream.values:
                    pass
            assert "ended" not in log
            await stream.aclose()
        assert log == ["cancelled"]
        release.set()
        while len(log) < 2:
            await checkpoint()


@pytest.mark.parametrize("kind", ("node", "started by a node", "graph within"))
async def test_a_node_closes_its_own_run(kind: str) -> None:
    log: list[str] = []

    async def close() -> None:
        await stream.aclose()
        log.append("begun to close")

    async def node(state: State) -> State:
        if kind == "started by a node":
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(close)
        elif kind == "graph within" and not log:
            log.append("within")
            await open_stream(graph_of(n=node).compile(), {"seen": []})
        else:
            await close()
        try:
            await anyio.sleep_forever()
        finally:
            log.append("ended")
        raise AssertionError

    stream = open_stream(graph_of(n=node).compile(), {"seen": []})
    with anyio.fail_after(HANGS):  # a cleanup that is given up warns, which is an error
        async with stream:
            with pytest.raises(StreamCancelledError):
                await stream.output()
    assert log[-2:] == ["begun to close", "ended"]


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="asyncio does not show the context of a task before 3.12"
)
async def test_a_task_that_a_node_started_elsewhere_waits_for_the_end() -> None:
    log: list[str] = []

    async def close() -> None:
        await stream.aclose()
        log.append("closed")

    async def node(state: State) -> State:
        application.start_soon(close)
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()
            log.append("ended")
        raise AssertionError

    stream = open_stream(graph_of(n=node).compile(), {"seen": []})
    with anyio.fail_after(HANGS):
        async with anyio.create_task_group() as application, stream:
            with pytest.raises(StreamCancelledError):
                await stream.output()
    assert log == ["ended", "closed"]


# Batches


@pytest.mark.parametrize("interval", (0, 1e6))
async def test_batches_of_what_a_graph_gives(interval: float) -> None:
    async with open_stream(in_turn(), {"seen": []}) as stream:
        batches = [batch async for batch in stream.values.batches(interval)]
        assert await stream.output() == {"seen": ["a", "b"]}
        values = await stream.values
    assert all(batches)
    assert [value for batch in batches for value in batch] == values
    assert values[-1] == {"seen": ["a", "b"]}
    # Within the interval the graph goes on, and the end ends it.
    assert len(batches) == 2 if interval else len(batches) > 1


async def test_batches_of_a_graph_that_is_stuck_are_given_when_due() -> None:
    endless = Endless()
    graph = StateGraph(State).add_node("a", saying("a")).add_node("b", endless.node("b"))
    stuck = graph.add_edge(START, "a").add_edge("a", "b").compile()
    seen: list[Any] = []
    with anyio.fail_after(HANGS):
        async with open_stream(stuck, {"seen": []}) as stream:
            async for batch in stream.values.batches(0.001):
                seen += batch
                if seen[-1] == {"seen": ["a"]}:
                    break
    assert seen == [{"seen": []}, {"seen": ["a"]}]
