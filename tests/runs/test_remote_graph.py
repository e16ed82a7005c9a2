"""`open_stream` of a `RemoteGraph`: what it gives, and that each way out ends the run on the server."""

from __future__ import annotations

import gc
import operator
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import anyio
import anyio.to_thread
import httpx
import pytest
from langchain.agents import create_agent
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import Command, interrupt
from langgraph_sdk.client import LangGraphClient
from typing_extensions import TypedDict

from cancelling import Victim, living, settle, ways_to_cancel
from langchain_anyio import (
    AsyncChatModelStream,
    AsyncProjection,
    GraphStream,
    StreamCancelledError,
    disable_trio,
    open_stream,
)
from langchain_anyio.langgraph import RunText, RunToolCall, ToolResult, ToolRun
from limits import HANGS
from loopback.remote_graphs import RemoteServer, remote_server
from shared_fixtures import SetCleanup

pytest_plugins = ["loopback.fixtures"]
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("enabled_on_trio", "no_certificates"),
]


class State(TypedDict):
    seen: Annotated[list[str], operator.add]


async def first(state: State) -> Any:
    return {"seen": ["a"]}


# Below Python 3.11, langgraph on asyncio needs to be given the config in asynchronous nodes.
async def say(state: State, config: RunnableConfig) -> Any:
    model = GenericFakeChatModel(messages=iter([AIMessage("hello brave world")]))
    return {"seen": [(await model.ainvoke("hi", config)).text]}


async def ask(state: State) -> Any:
    return {"seen": [interrupt("sure?")]}


async def fail(state: State) -> Any:
    raise ValueError("no luck")


async def wait(state: State) -> Any:
    await anyio.sleep_forever()


async def count(state: State, config: RunnableConfig) -> Any:
    model = GenericFakeChatModel(messages=iter([AIMessage(" ".join(map(str, range(1500))))]))
    return {"seen": [(await model.ainvoke("hi", config)).text]}


@tool
async def look_up(topic: str) -> str:
    """Look a topic up."""
    if topic == "bad":
        raise ValueError("no such topic")
    return f"{topic} is wet"


class Asking(GenericFakeChatModel):
    """Streams a call of the tool, and an answer once the tool has been called."""

    topic: str

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    async def _astream(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        if messages[-1].type == "tool":
            yield ChatGenerationChunk(message=AIMessageChunk("Wet."))
            return
        for name, call_id, args in (
            ("look_up", "1", '{"topic":'),
            (None, None, f'"{self.topic}"}}'),
        ):
            chunk = tool_call_chunk(name=name, args=args, id=call_id, index=0)
            yield ChatGenerationChunk(message=AIMessageChunk("", tool_call_chunks=[chunk]))


def agent_of(topic: str) -> Any:
    return create_agent(Asking(messages=iter(()), topic=topic), [look_up])


def in_turn(**nodes: Any) -> Any:
    graph, before = StateGraph(State), START
    for name, node in nodes.items():
        graph.add_node(name, node)
        graph.add_edge(before, name)
        before = name
    return graph


GRAPHS = {
    "talk": in_turn(first=first, say=say).compile(),
    "nested": in_turn(first=first, inner=in_turn(a=first, b=say).compile()).compile(),
    "asks": in_turn(first=first, ask=ask).compile(checkpointer=InMemorySaver()),
    "turns": in_turn(say=say).compile(checkpointer=InMemorySaver()),
    "fails": in_turn(first=first, fail=fail).compile(),
    "silent": in_turn(first=first, wait=wait).compile(),
    "many": in_turn(count=count).compile(),
    "agent": agent_of("water"),
    "failing agent": agent_of("bad"),
}
ASKED: Any = {"seen": []}
TALKED = {"seen": ["a", "hello brave world"]}


@pytest.fixture
def remote(no_certificates: None) -> Iterator[RemoteServer]:
    with remote_server(GRAPHS) as server:
        yield server


def graph_on(remote: RemoteServer, name: str) -> Any:
    return RemoteGraph(name, url=remote.url)


async def closed(remote: RemoteServer) -> bool:
    return await remote.until(lambda: remote.streams == 0)


# The server runs its graphs on asyncio.
SERVER_FINDS_ITS_CONTEXT = pytest.mark.skipif(
    sys.version_info < (3, 11),
    reason="langgraph finds its context in nodes on asyncio from Python 3.11 on",
)


# What it gives


@SERVER_FINDS_ITS_CONTEXT
async def test_all_that_happens_in_order(remote: RemoteServer) -> None:
    asked: Any = {"messages": [{"role": "user", "content": "hi"}]}
    async with open_stream(graph_on(remote, "agent"), asked) as run:
        names = ("tool_calls", "tool_starts", "tool_results", "text", "values")
        pairs = [pair async for pair in run.interleave(*names)]
        first, last = await run.messages
        assert [name for name, _ in pairs if name != "values"] == [
            "tool_calls",
            "tool_calls",
            "tool_starts",
            "tool_results",
            "text",
        ]
        states = await run.interleave("values").batches().__anext__()
        assert [len(state.values["messages"]) for _, state in states] == [1, 2, 3, 4]
        for name, item in pairs:
            if isinstance(item, RunToolCall):
                assert (item.delta["name"], item.message) == ("look_up", first)
            elif isinstance(item, ToolRun):
                assert (item.name, item.tool_call_id, item.message) == ("look_up", "1", first)
            elif isinstance(item, ToolResult):
                assert (item.text, item.tool.name) == ("water is wet", "look_up")
            elif isinstance(item, RunText):
                assert (name, item.delta, item.message) == ("text", "Wet.", last)


@SERVER_FINDS_ITS_CONTEXT
async def test_what_happens_in_subgraphs_and_interrupts(remote: RemoteServer) -> None:
    async with open_stream(graph_on(remote, "nested"), ASKED) as run:
        found = [item async for _, item in run.interleave("text")]
        assert "".join(item.delta for item in found) == "hello brave world"
        assert {len(item.namespace) for item in found} == {1}
    config: RunnableConfig = {"configurable": {"thread_id": str(uuid.uuid4())}}
    async with open_stream(graph_on(remote, "asks"), ASKED, config) as run:
        (interrupted,) = [item async for _, item in run.interleave("interrupts")]
        assert [interrupted.interrupt_id] == [i["interrupt_id"] for i in await run.interrupts()]
        assert interrupted.value == "sure?"


@SERVER_FINDS_ITS_CONTEXT
async def test_what_happens_before_an_error(remote: RemoteServer) -> None:
    asked: Any = {"messages": [{"role": "user", "content": "hi"}]}
    async with open_stream(graph_on(remote, "failing agent"), asked) as run:
        for _ in range(2):
            seen = []
            with pytest.raises(RuntimeError, match="no such topic"):
                async for _, item in run.interleave("tool_errors"):
                    seen.append(item.error)
            assert seen == ["no such topic"]


async def test_its_projections(remote: RemoteServer) -> None:
    async with open_stream(graph_on(remote, "talk"), ASKED) as stream:
        assert isinstance(stream, GraphStream)
        assert not remote.started
        assert isinstance(stream.values, AsyncProjection)
        assert [value async for value in stream.values] == [ASKED, {"seen": ["a"]}, TALKED]
        async for message in stream.messages:
            assert isinstance(message, AsyncChatModelStream)
            assert [delta async for delta in message.text] == ["hello", " ", "brave", " ", "world"]
            assert (await message).text == "hello brave world"
        assert len(await stream.messages) == 1
        assert await stream.output == await stream.output() == TALKED
        assert await stream.subgraphs == await stream.tool_calls == []
        assert not await stream.interrupted()
        assert await stream.interrupts() == []
        events = [event async for event in stream]
        assert events[0]["params"]["data"]["event"] == "running"
        assert events[-1]["params"]["data"]["event"] == "completed"
        assert [event["params"]["data"] for event in events if event["method"] == "values"] == (
            await stream.extensions["values"]
        )
        assert stream.done
        assert stream.error is None
    assert remote.requests["run.start"] == 1
    assert not remote.requests["cancel"]
    assert await closed(remote)


async def test_it_gives_what_the_local_run_gives(remote: RemoteServer) -> None:
    async with open_stream(GRAPHS["nested"], ASKED) as local:
        expected = await local.values, await local.output
    async with open_stream(graph_on(remote, "nested"), ASKED) as stream:
        assert (await stream.values, await stream.output) == expected


async def test_awaiting_it_gives_the_output(remote: RemoteServer) -> None:
    assert await open_stream(graph_on(remote, "talk"), ASKED) == TALKED
    assert not remote.requests["cancel"]
    assert await closed(remote)


async def test_a_subgraph(remote: RemoteServer) -> None:
    async with open_stream(graph_on(remote, "nested"), ASKED) as stream:
        (inner,) = await stream.subgraphs
        assert inner.path == tuple(inner.namespace)
        assert inner.graph_name == "inner"
        assert inner.status == "completed"
        assert inner.error is None
        assert (await inner.values)[-1] == {"seen": ["a", "a", "hello brave world"]}
        (message,) = await inner.messages
        assert message.namespace == inner.namespace
        assert (await message).text == "hello brave world"
        assert await inner.tool_calls == await inner.subgraphs == await inner.subagents == []
        assert await inner.extensions["values"] == await inner.values
        assert await stream.messages == []  # its own ones


async def test_projections_of_any_other_name(remote: RemoteServer) -> None:
    async with open_stream(graph_on(remote, "talk"), ASKED) as stream:
        before = stream.extensions["progress"]
        assert "progress" in stream.extensions
        assert await before == []
        assert await stream.extensions["later"] == []
        with pytest.raises(AttributeError, match="no attribute or projection 'velues'"):
            _ = stream.velues


async def test_any_number_of_consumers(remote: RemoteServer) -> None:
    seen: list[Any] = []

    async def read(stream: GraphStream) -> None:
        seen.append([value async for value in stream.values])

    async with open_stream(graph_on(remote, "talk"), ASKED) as stream:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(read, stream)
        await read(stream)
    assert seen == [[ASKED, {"seen": ["a"]}, TALKED]] * 4
    assert remote.requests["run.start"] == 1


async def test_a_cancelled_consumer_stops_nobody(
    remote: RemoteServer, anyio_backend: tuple[str, Any]
) -> None:
    for how in ways_to_cancel(anyio_backend):
        remote.fault = "start held"
        remote._released.clear()
        async with open_stream(graph_on(remote, "talk"), ASKED) as stream:
            async with anyio.create_task_group() as tasks:
                victims = [
                    Victim(tasks, stream.output),
                    Victim(tasks, stream.values.__aiter__().__anext__),
                ]
                await settle()
                for victim in victims:
                    victim.cancel(how)
            assert [victim.outcome for victim in victims] == ["cancelled", "cancelled"]
            remote.release()
            assert await stream.output == TALKED
            assert (await stream.values)[-1] == TALKED


async def test_more_events_at_once_than_the_sdk_keeps(remote: RemoteServer) -> None:
    async with open_stream(graph_on(remote, "many"), ASKED) as stream:
        (message,) = await stream.messages
        assert len([delta async for delta in message.text]) == 2999
        assert (await stream.output)["seen"] == [await message.text]


async def test_one_event_loop_after_another(remote: RemoteServer, run: Callable[..., Any]) -> None:
    graph = graph_on(remote, "talk")

    async def main() -> Any:
        async with open_stream(graph, ASKED) as stream:
            assert (await stream.values)[-1] == TALKED
        return await open_stream(graph, ASKED)

    await anyio.to_thread.run_sync(lambda: [run(main) for _ in range(3)])
    assert await open_stream(graph, ASKED) == TALKED
    assert len(remote.started) == 7


async def test_turns_in_one_thread(remote: RemoteServer) -> None:
    graph = graph_on(remote, "turns")
    config: Any = {"configurable": {"thread_id": str(uuid.uuid4())}}
    said: list[str] = []
    for _ in range(3):
        async with open_stream(graph, {"seen": ["next"]}, config) as stream:
            said += ["next"]
            assert (await stream.values)[0] == {"seen": said}
            said += ["hello brave world"]
            assert (await stream.values)[-1] == await stream.output == {"seen": said}
            assert len(await stream.messages) == 1


@SERVER_FINDS_ITS_CONTEXT
async def test_interrupted_and_resumed(remote: RemoteServer) -> None:
    graph = graph_on(remote, "asks")
    config: Any = {"configurable": {"thread_id": str(uuid.uuid4())}}
    async with open_stream(graph, ASKED, config) as stream:
        assert await stream.interrupted()
        (asked,) = await stream.interrupts()
        assert (asked["value"], asked["namespace"]) == ("sure?", [])
        assert await stream.output == {"seen": ["a"]}
    assert not remote.requests["cancel"]
    async with open_stream(graph, Command(resume="yes"), config) as stream:
        assert await stream.output == {"seen": ["a", "yes"]}
        assert not await stream.interrupted()
        assert await stream.interrupts() == []


# Errors


async def test_the_error_of_a_run(remote: RemoteServer) -> None:
    async with open_stream(graph_on(remote, "fails"), ASKED) as stream:
        values = []
        with pytest.raises(RuntimeError, match=r"^Run errored: no luck$"):
            async for value in stream.values:
                values.append(value)
        assert values == [ASKED, {"seen": ["a"]}]
        for reading in (stream.output, stream.messages, stream.extensions["later"]):
            with pytest.raises(RuntimeError, match=r"^Run errored: no luck$"):
                await reading
        assert isinstance(stream.error, RuntimeError)
    assert not remote.requests["cancel"]
    assert await closed(remote)


async def test_a_refused_start(remote: RemoteServer) -> None:
    remote.fault = "refused"
    with pytest.raises(RuntimeError, match=r"Protocol error \[bad\]: not this one"):
        await open_stream(graph_on(remote, "talk"), ASKED)
    assert not remote.requests["cancel"]


async def test_a_server_that_is_not_there(remote: RemoteServer) -> None:
    # That of `url=` tries again for seconds.
    client = LangGraphClient(httpx.AsyncClient(base_url="http://127.0.0.1:1"))
    graph = RemoteGraph("talk", client=client)
    with pytest.raises(Exception, match="connect"):
        await open_stream(graph, ASKED)


async def test_a_lost_connection_is_opened_again(remote: RemoteServer) -> None:
    remote.fault, remote.after = "dropped", 3
    async with open_stream(graph_on(remote, "talk"), ASKED) as stream:
        assert await stream.values == [ASKED, {"seen": ["a"]}, TALKED]
        (message,) = await stream.messages
        assert await message.text == "hello brave world"
        numbers = [event["seq"] async for event in stream]
        assert numbers == list(range(1, len(numbers) + 1))
    assert remote.requests["events"] > 3


async def test_events_that_end_too_early(remote: RemoteServer) -> None:
    remote.fault, remote.after = "ended", 5
    async with open_stream(graph_on(remote, "talk"), ASKED) as stream:
        with pytest.raises(ConnectionError, match="ended before"):
            await stream.output
        (message,) = [each async for each in _until_error(stream.messages)]
        with pytest.raises(ConnectionError, match="ended before"):
            await message


async def _until_error(projection: Any) -> Any:
    try:
        async for item in projection:
            yield item
    except ConnectionError:
        pass


async def test_the_frame_of_an_error(remote: RemoteServer) -> None:
    remote.fault, remote.after = "frame", 2
    with pytest.raises(RuntimeError, match=r"Protocol error \[gone\]: bye"):
        await open_stream(graph_on(remote, "silent"), ASKED)
    assert remote.cancelled == remote.started
    assert await closed(remote)


# The end


async def read_until_silent(stream: GraphStream) -> None:
    cursor = aiter(stream.values)
    for _ in range(2):
        await anext(cursor)


@pytest.mark.parametrize("how", ("end", "error", "aclose", "abort"))
async def test_left_early(remote: RemoteServer, how: str) -> None:
    before = living()
    with pytest.raises(ZeroDivisionError) if how == "error" else anyio.CancelScope():
        async with open_stream(graph_on(remote, "silent"), ASKED) as stream:
            await read_until_silent(stream)
            if how in ("aclose", "abort"):
                await getattr(stream, how)()
                assert remote.cancelled == remote.started
            elif how == "error":
                _ = 1 / 0
    assert remote.cancelled == remote.started
    assert len(remote.started) == 1
    assert await closed(remote)
    await settle()
    assert living() <= before
    with pytest.raises(StreamCancelledError):
        await stream.output


async def test_cancelled_in_a_silent_run(
    remote: RemoteServer, anyio_backend: tuple[str, Any]
) -> None:
    graph = graph_on(remote, "silent")
    for how in ways_to_cancel(anyio_backend):
        silent = anyio.Event()

        async def wait_for_it(silent: anyio.Event = silent) -> None:
            async with open_stream(graph, ASKED) as stream:
                await read_until_silent(stream)
                silent.set()
                await stream.output

        before = living()
        with anyio.fail_after(HANGS):
            async with anyio.create_task_group() as tasks:
                victim = Victim(tasks, wait_for_it)
                await silent.wait()
                victim.cancel(how)
        assert victim.outcome == "cancelled"
        assert remote.cancelled == remote.started
        assert await closed(remote)
        await settle()
        assert living() <= before
    assert len(remote.started) == len(ways_to_cancel(anyio_backend))


async def test_awaited_alone_and_cancelled(remote: RemoteServer) -> None:
    graph = graph_on(remote, "silent")

    async def wait_for_it() -> None:
        await open_stream(graph, ASKED)

    async with anyio.create_task_group() as tasks:
        victim = Victim(tasks, wait_for_it)
        assert await remote.until(lambda: remote.streams == 2)
        victim.cancel("scope")
    assert remote.cancelled == remote.started
    assert await closed(remote)


async def test_cancelled_while_it_starts(
    remote: RemoteServer, anyio_backend: tuple[str, Any]
) -> None:
    """The run that the server has begun to start is cancelled once its id is known."""
    graph = graph_on(remote, "silent")
    for number, how in enumerate(ways_to_cancel(anyio_backend), 1):
        remote.fault = "start held"
        remote._released.clear()

        async def wait_for_it() -> None:
            async with open_stream(graph, ASKED) as stream:
                await stream.output

        async with anyio.create_task_group() as tasks:
            victim = Victim(tasks, wait_for_it)
            assert await remote.until(lambda n=number: remote.requests["run.start"] == n)
            victim.cancel(how)
            await settle()
            remote.release()
        assert victim.outcome == "cancelled"
        assert len(remote.started) == number
        assert remote.cancelled == remote.started
        assert await closed(remote)


async def test_a_start_that_is_never_answered(
    remote: RemoteServer, set_cleanup: SetCleanup
) -> None:
    set_cleanup(0.5, model=0.2, own=0.4)
    remote.fault = "start held"
    with anyio.fail_after(HANGS), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        async with open_stream(graph_on(remote, "silent"), ASKED) as stream:
            async with anyio.create_task_group() as tasks:
                victim = Victim(tasks, stream.output)
                assert await remote.until(lambda: remote.requests["run.start"] == 1)
                victim.cancel("scope")
        gc.collect()
    assert [str(each.message) for each in seen if "answered its start" in str(each.message)]
    assert not remote.requests["cancel"]


@pytest.mark.parametrize("fault", ("cancel held", "cancel fails"))
async def test_a_cancellation_that_fails_is_told(
    remote: RemoteServer, set_cleanup: SetCleanup, fault: Any
) -> None:
    set_cleanup(1.0, model=0.3, own=0.8)
    remote.fault = fault
    with anyio.fail_after(HANGS), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        async with open_stream(graph_on(remote, "silent"), ASKED) as stream:
            await read_until_silent(stream)
        gc.collect()
    assert [str(warning.message) for warning in seen if "cancelled" in str(warning.message)]
    assert await closed(remote)


async def test_a_dropped_stream(remote: RemoteServer) -> None:
    stream = open_stream(graph_on(remote, "silent"), ASKED)
    await read_until_silent(stream)
    with pytest.warns(ResourceWarning, match="dropped before it was read"):
        del stream
        gc.collect()
    assert await remote.until(lambda: len(remote.cancelled) == 1)
    assert await closed(remote)


async def test_nothing_is_sent_before_it_is_read(remote: RemoteServer) -> None:
    graph = graph_on(remote, "talk")
    async with open_stream(graph, ASKED) as stream:
        _ = stream.values, stream.extensions["custom"], stream.output
    with pytest.raises(StreamCancelledError):
        await stream.values
    await open_stream(graph, ASKED).aclose()
    assert not remote.requests


# What it takes


async def test_with_config_and_bind(remote: RemoteServer) -> None:
    graph = graph_on(remote, "talk")
    assert await open_stream(graph.with_config(tags=["a"]), ASKED) == TALKED
    assert await open_stream(graph.bind(), ASKED) == TALKED


async def test_what_it_refuses(remote: RemoteServer) -> None:
    graph = graph_on(remote, "talk")
    with pytest.raises(TypeError, match="stop is for chat models"):
        open_stream(graph, ASKED, stop=["."])
    with pytest.raises(NotImplementedError):
        await open_stream(graph, ASKED, interrupt_before=["say"])
    with pytest.raises(ValueError, match="client"):
        await open_stream(RemoteGraph("talk", sync_client=graph.sync_client), ASKED)
    assert not remote.requests


async def test_without_enabling_trio(remote: RemoteServer, anyio_backend: tuple[str, Any]) -> None:
    if anyio_backend[0] != "trio":
        pytest.skip("asyncio needs nothing")
    disable_trio()
    with pytest.raises(RuntimeError, match="enable_trio"):
        await open_stream(graph_on(remote, "talk"), ASKED)
    assert not remote.requests
