"""LangGraph and agents on trio.

Each way to run them, and that nothing outlives the run that started it.
"""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

import anyio
import pytest
import trio
import trio.testing
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.config import get_config, get_store, get_stream_writer
from langgraph.errors import GraphRecursionError, NodeCancelledError, NodeTimeoutError
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, RetryPolicy, Send, interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from langchain_anyio._trio_runtime.asyncio_api.combinators import gather
from langchain_anyio._trio_runtime.asyncio_usage import uses
from langchain_anyio._trio_runtime.namespace import NAMESPACE
from limits import HANGS
from test_trio_runtime_trio import has
from trio_tasks import background_tasks

pytestmark = [
    pytest.mark.usefixtures("enabled"),
    pytest.mark.filterwarnings("ignore:The v3 streaming protocol"),
    pytest.mark.filterwarnings("ignore:astream_events version"),
]

# Attributes of langgraph's own tasks, which the survey takes for asyncio's.
OF_ITS_OWN_TASKS = {"task.id", "task.name", "task.writes"}
# Read where there is no `get_loop`, which each future of trio's has.
UNREACHED = {"task._loop"}


class State(TypedDict):
    seen: Annotated[list[str], operator.add]


async def first(state: State) -> State:
    await trio.sleep(0)
    return {"seen": ["first"]}


def second(state: State) -> State:
    return {"seen": ["second"]}


def two_nodes(**kwargs: Any) -> Any:
    graph = StateGraph(State)
    graph.add_node("first", first)
    graph.add_node("second", second)
    graph.add_edge(START, "first")
    graph.add_edge("first", "second")
    graph.add_edge("second", END)
    return graph.compile(**kwargs)


class Model(FakeMessagesListChatModel):
    """Says its messages in turn, and takes tools."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


def calling(*names: str) -> AIMessage:
    calls = [{"name": name, "args": {"topic": "water"}, "id": f"call {name}"} for name in names]
    return AIMessage("", tool_calls=calls)


@tool
async def look_up(topic: str) -> str:
    """Look a topic up."""
    await trio.sleep(0)
    return f"{topic} is wet"


@tool
def look_up_in_thread(topic: str) -> str:
    """Look a topic up."""
    with pytest.raises(RuntimeError):
        trio.lowlevel.current_task()
    return f"{topic} is clear"


@tool
async def fail(topic: str) -> str:
    """Fail."""
    raise ValueError(topic)


def agent(*tools: Any, **kwargs: Any) -> Any:
    tools = tools or (look_up, look_up_in_thread)
    names = [tool.name for tool in tools]
    model = Model(responses=[calling(*names), AIMessage("It is wet.")])
    return create_agent(model, list(tools), **kwargs)


ASKED: Any = {"messages": [("user", "What is water?")]}


@pytest.mark.unhurried
@pytest.mark.parametrize("package", ("langgraph", "langchain"))
def test_the_namespace_has_each_name_that_is_used(package: str) -> None:
    found = list(uses(package))
    missing = [
        f"{use.file}:{use.line}: {use.name}"
        for use in found
        if use.name not in OF_ITS_OWN_TASKS | UNREACHED and not has(use.name)
    ]
    assert not missing, "\n".join(missing)
    assert len(found) >= 2  # it has read the package


# Graphs


@pytest.mark.trio
async def test_a_graph_runs() -> None:
    graph = two_nodes()
    expected = {"seen": ["first", "second"]}
    assert await graph.ainvoke({"seen": []}) == expected
    assert await graph.abatch([{"seen": []}, {"seen": []}]) == [expected, expected]
    assert background_tasks() == []


@pytest.mark.trio
async def test_each_stream_mode_and_several_at_once() -> None:
    graph = two_nodes()
    updates = [{"first": {"seen": ["first"]}}, {"second": {"seen": ["second"]}}]
    values = [{"seen": []}, {"seen": ["first"]}, {"seen": ["first", "second"]}]
    assert await collect(graph.astream({"seen": []}, stream_mode="updates")) == updates
    assert await collect(graph.astream({"seen": []}, stream_mode="values")) == values
    both = await collect(graph.astream({"seen": []}, stream_mode=["updates", "values", "debug"]))
    assert [item for mode, item in both if mode == "updates"] == updates
    assert [item for mode, item in both if mode == "values"] == values
    assert {mode for mode, _ in both} == {"updates", "values", "debug"}
    assert background_tasks() == []


async def collect(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


@pytest.mark.trio
@pytest.mark.parametrize("version", ("v1", "v2"))
async def test_events(version: str) -> None:
    events = await collect(agent().astream_events(ASKED, version=version))
    ended = [event["name"] for event in events if event["event"] == "on_tool_end"]
    assert sorted(ended) == ["look_up", "look_up_in_thread"]
    assert events[-1]["event"] == "on_chain_end"
    assert background_tasks() == []


@pytest.mark.trio
async def test_fan_out_subgraphs_and_branches() -> None:
    async def fan(state: State) -> list[Send]:
        return [Send("inner", {"seen": [str(n)]}) for n in range(5)]

    graph = StateGraph(State)
    graph.add_node("first", first)
    graph.add_node("inner", two_nodes())
    graph.add_node("join", second)
    graph.add_edge(START, "first")
    graph.add_conditional_edges("first", fan, ["inner"])
    graph.add_edge("inner", "join")
    result = await graph.compile().ainvoke({"seen": []})
    inner = [word for n in range(5) for word in (str(n), "first", "second")]
    assert result == {"seen": ["first", *inner, "second"]}
    assert background_tasks() == []


@pytest.mark.trio
async def test_what_a_node_finds_around_itself() -> None:
    """Context variables reach nodes and the functions that read them, on each Python."""
    store = InMemoryStore()

    async def node(state: State) -> State:
        await trio.sleep(0)
        get_stream_writer()("written")
        await get_store().aput(("a",), "key", {"n": 1})
        return {"seen": [get_config()["configurable"]["name"]]}

    graph = StateGraph(State).add_node("node", node).add_edge(START, "node").compile(store=store)
    config: RunnableConfig = {"configurable": {"name": "me"}}
    items = await collect(graph.astream({"seen": []}, config, stream_mode=["custom", "updates"]))
    assert items == [("custom", "written"), ("updates", {"node": {"seen": ["me"]}})]
    item = await store.aget(("a",), "key")
    assert item is not None
    assert item.value == {"n": 1}


@pytest.mark.trio
async def test_what_is_written_from_a_thread_arrives_in_its_place() -> None:
    def node(state: State) -> State:
        for n in range(5):
            get_stream_writer()(n)
        return {"seen": ["done"]}

    graph = StateGraph(State).add_node("node", node).add_edge(START, "node").compile()
    items = await collect(graph.astream({"seen": []}, stream_mode=["custom", "updates"]))
    assert items == [
        *(("custom", n) for n in range(5)),
        ("updates", {"node": {"seen": ["done"]}}),
    ]


@pytest.mark.trio
async def test_interrupting_and_resuming() -> None:
    async def ask(state: State) -> State:
        await trio.sleep(0)
        return {"seen": [interrupt("what?")]}

    graph = StateGraph(State).add_node("ask", ask).add_edge(START, "ask")
    compiled = graph.compile(checkpointer=InMemorySaver())
    config: RunnableConfig = {"configurable": {"thread_id": "1"}}
    result = await compiled.ainvoke({"seen": []}, config)
    assert result["__interrupt__"][0].value == "what?"
    assert (await compiled.aget_state(config)).next == ("ask",)
    assert await compiled.ainvoke(Command(resume="this"), config) == {"seen": ["this"]}
    assert len([state async for state in compiled.aget_state_history(config)]) == 3
    assert background_tasks() == []


@pytest.mark.trio
async def test_the_functional_api() -> None:
    """Its calls are numbered as they are made, whichever way trio runs the tasks of a tick."""
    begun: list[int] = []

    @task
    async def double(n: int) -> int:
        begun.append(n)
        await trio.sleep(0)
        return 2 * n

    @task
    def halve(n: int) -> int:
        return n // 2

    @entrypoint(checkpointer=InMemorySaver())
    async def flow(numbers: list[int]) -> Any:
        doubled = await gather(*[double(n) for n in numbers])
        assert interrupt("go on?") == "yes"
        return [await halve(n) for n in doubled]

    for thread in range(20):
        begun.clear()
        config: RunnableConfig = {"configurable": {"thread_id": str(thread)}}
        await flow.ainvoke(list(range(10)), config)
        assert sorted(begun) == list(range(10))
        assert await flow.ainvoke(Command(resume="yes"), config) == list(range(10))
        assert len(begun) == 10  # what had been done was found again
    assert background_tasks() == []


@pytest.mark.trio
async def test_tasks_that_a_synchronous_node_calls() -> None:
    """They run on trio, and the thread of the node waits for them."""

    @task
    async def double(n: int) -> int:
        await trio.sleep(0)
        return 2 * n

    def node(state: State) -> State:
        futures = [double(n) for n in range(3)]
        return {"seen": [str(future.result()) for future in futures]}

    graph = StateGraph(State).add_node("node", node).add_edge(START, "node").compile()
    with trio.fail_after(HANGS):
        assert await graph.ainvoke({"seen": []}) == {"seen": ["0", "2", "4"]}


@pytest.mark.trio
async def test_retries_timeouts_and_errors() -> None:
    attempts: list[int] = []

    async def flaky(state: State) -> State:
        attempts.append(1)
        if len(attempts) < 3:
            raise ConnectionError
        return {"seen": ["at last"]}

    async def stuck(state: State) -> State:
        await trio.sleep_forever()
        raise AssertionError

    async def failing(state: State) -> State:
        raise KeyError("mine")

    async def cancelled(state: State) -> State:
        raise NAMESPACE.CancelledError

    def graph(node: Any, **kwargs: Any) -> Any:
        return StateGraph(State).add_node("node", node, **kwargs).add_edge(START, "node").compile()

    retry = RetryPolicy(initial_interval=0.0, jitter=False)
    assert await graph(flaky, retry_policy=retry).ainvoke({"seen": []}) == {"seen": ["at last"]}
    with pytest.raises(NodeTimeoutError), trio.fail_after(HANGS):
        await graph(stuck, timeout=0.01).ainvoke({"seen": []})
    with pytest.raises(KeyError, match="mine"):
        await graph(failing).ainvoke({"seen": []})
    if hasattr(NodeCancelledError, "add_note"):  # from Python 3.11 on, as on asyncio
        with pytest.raises(NodeCancelledError):
            await graph(cancelled).ainvoke({"seen": []})
    endless = StateGraph(State).add_node("node", first).add_edge(START, "node")
    endless.add_edge("node", "node")
    with pytest.raises(GraphRecursionError):
        await endless.compile().ainvoke({"seen": []}, {"recursion_limit": 3})
    assert background_tasks() == []


@pytest.mark.trio
async def test_a_store_of_batches_serves_calls_that_come_and_go() -> None:
    """Its task belongs to none of the calls: it goes on when the first of them has ended."""
    from langgraph.store.base.batch import AsyncBatchedBaseStore

    class Store(AsyncBatchedBaseStore):
        def __init__(self) -> None:
            super().__init__()
            self.inner = InMemoryStore()

        async def abatch(self, ops: Any) -> Any:
            await trio.sleep(0)
            return await self.inner.abatch(ops)

        def batch(self, ops: Any) -> Any:
            return super().batch(ops)

    store = Store()

    async def node(state: State) -> State:
        await get_store().aput(("a",), "key", {"n": 1})
        return {"seen": []}

    def blocking(state: State) -> State:
        store.put(("a",), "other", {"n": 2})  # from a thread
        return {"seen": []}

    for function in (node, blocking):
        graph = StateGraph(State).add_node("node", function).add_edge(START, "node")
        with trio.fail_after(HANGS):
            await graph.compile(store=store).ainvoke({"seen": []})
    with trio.fail_after(HANGS):
        items = [await store.aget(("a",), key) for key in ("key", "other")]
    assert [item.value for item in items if item] == [{"n": 1}, {"n": 2}]


@pytest.mark.trio
async def test_what_needs_asyncio_is_refused_by_name() -> None:
    with pytest.raises(
        RuntimeError, match=r"AsyncSqliteSaver does not work on trio.*ThreadedCheckpointSaver"
    ):
        AsyncSqliteSaver(None)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="AsyncSqliteSaver does not work on trio"):
        async with AsyncSqliteSaver.from_conn_string(":memory:"):
            pass


def test_what_is_refused_works_on_asyncio() -> None:
    async def main() -> Any:
        async with AsyncSqliteSaver.from_conn_string(":memory:") as saver:
            graph = two_nodes_for_asyncio(checkpointer=saver)
            return await graph.ainvoke({"seen": []}, {"configurable": {"thread_id": "1"}})

    assert anyio.run(main) == {"seen": ["second"]}


def two_nodes_for_asyncio(**kwargs: Any) -> Any:
    return StateGraph(State).add_node("node", second).add_edge(START, "node").compile(**kwargs)


# Agents


@pytest.mark.trio
async def test_an_agent_with_parallel_tools() -> None:
    result = await agent().ainvoke(ASKED)
    said = [message.content for message in result["messages"]]
    assert said == ["What is water?", "", "water is wet", "water is clear", "It is wet."]
    assert background_tasks() == []


@pytest.mark.trio
async def test_an_error_of_a_tool_keeps_its_type_and_stops_the_others() -> None:
    stopped = trio.Event()

    @tool
    async def endless(topic: str) -> str:
        """Never end."""
        try:
            await trio.sleep_forever()
        finally:
            stopped.set()
        raise AssertionError

    with pytest.raises(ValueError, match="water"), trio.fail_after(HANGS):
        await agent(endless, fail).ainvoke(ASKED)
    assert stopped.is_set()
    assert background_tasks() == []


class Answer(BaseModel):
    """The answer."""

    wet: bool


@pytest.mark.trio
async def test_middleware_and_structured_output() -> None:
    class Around(AgentMiddleware[Any, Any, Any]):
        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            await trio.sleep(0)
            seen.append("model")
            return await handler(request)

        async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
            await trio.sleep(0)
            seen.append(request.tool_call["name"])
            return await handler(request)

        async def abefore_agent(self, state: Any, runtime: Any) -> None:
            await trio.sleep(0)
            seen.append("begin")

    seen: list[str] = []
    answer = AIMessage("", tool_calls=[{"name": "Answer", "args": {"wet": True}, "id": "2"}])
    model = Model(responses=[calling("look_up"), answer])
    built = create_agent(
        model, [look_up], middleware=[Around()], response_format=ToolStrategy(Answer)
    )
    result = await built.ainvoke(ASKED)
    assert result["structured_response"] == Answer(wet=True)
    assert seen == ["begin", "model", "look_up", "model"]


@pytest.mark.trio
async def test_a_tool_that_asks_a_person() -> None:
    @tool
    async def ask(topic: str) -> str:
        """Ask."""
        return str(interrupt(topic))

    built = agent(ask, look_up, checkpointer=InMemorySaver())
    config: RunnableConfig = {"configurable": {"thread_id": "1"}}
    asked = await built.ainvoke(ASKED, config)
    assert asked["__interrupt__"][0].value == "water"
    result = await built.ainvoke(Command(resume="indeed"), config)
    answers = [m.content for m in result["messages"] if isinstance(m, ToolMessage)]
    assert answers == ["indeed", "water is wet"]


# Streams of the third version


@pytest.mark.trio
async def test_a_run_stream_gives_streams_of_messages() -> None:
    async with await agent().astream_events(ASKED, version="v3") as run:
        texts, calls = [], []
        async for stream in run.messages:
            texts.append("".join([delta async for delta in stream.text]))
            calls.append([call["name"] for call in await stream.tool_calls])
            await stream.output
        output = await run.output()
    assert texts == ["", "It is wet."]
    assert calls == [["look_up", "look_up_in_thread"], []]
    assert output["messages"][-1].content == "It is wet."
    assert background_tasks() == []


@pytest.mark.trio
async def test_several_projections_at_once() -> None:
    read: dict[str, list[Any]] = {}
    async with await agent().astream_events(ASKED, version="v3") as run:

        async def messages() -> None:
            read["messages"] = [await stream.output async for stream in run.messages]

        async def values() -> None:
            read["values"] = [value async for value in run.values]

        with trio.fail_after(HANGS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(messages)
                nursery.start_soon(values)
    assert [message.text for message in read["messages"]][-1] == "It is wet."
    assert len(read["values"][-1]["messages"]) == 5
    assert background_tasks() == []


def endless_graph(stopped: list[str]) -> Any:
    """A graph whose subgraph has nodes that never end."""

    def endless(name: str) -> Any:
        async def node(state: State) -> State:
            try:
                await trio.sleep_forever()
            finally:
                stopped.append(name)
            raise AssertionError

        return node

    inner = StateGraph(State).add_node("a", endless("a")).add_node("b", endless("b"))
    inner.add_edge(START, "a").add_edge(START, "b")
    graph = StateGraph(State).add_node("inner", inner.compile()).add_node("c", endless("c"))
    return graph.add_edge(START, "inner").add_edge(START, "c").compile()


async def leave(run: Any) -> None:
    async with run:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect, run.values)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


async def abort(run: Any) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, run.values)
        await trio.testing.wait_all_tasks_blocked()
        await run.abort()


async def cancel(run: Any) -> None:
    with trio.move_on_after(0.05):
        async with run:
            await run.output()


@pytest.mark.trio
@pytest.mark.parametrize("way", (leave, abort, cancel))
async def test_each_way_to_end_a_run_stops_nodes_and_subgraphs(way: Any) -> None:
    stopped: list[str] = []
    run = await endless_graph(stopped).astream_events({"seen": []}, version="v3")
    with trio.fail_after(HANGS):
        await way(run)
    assert sorted(stopped) == ["a", "b", "c"]
    assert background_tasks() == []


@pytest.mark.trio
async def test_closing_a_stream_stops_nodes_and_subgraphs() -> None:
    stopped: list[str] = []
    graph = endless_graph(stopped)
    with trio.fail_after(HANGS):
        async with aclosing(graph.astream({"seen": []}, stream_mode=["values"])) as stream:
            await anext(stream)
            with trio.move_on_after(0.05):
                await anext(stream)
    assert sorted(stopped) == ["a", "b", "c"]
    assert background_tasks() == []


@pytest.mark.trio
async def test_a_checkpoint_that_is_being_written_is_let_finish() -> None:
    written: list[str] = []

    class Slow(InMemorySaver):
        async def aput(self, *args: Any, **kwargs: Any) -> Any:
            await trio.sleep(0.05)
            written.append("put")
            return await super().aput(*args, **kwargs)

    async def endless(state: State) -> State:
        scope.cancel()
        await trio.sleep_forever()
        raise AssertionError

    graph = StateGraph(State).add_node("node", endless).add_edge(START, "node")
    with trio.CancelScope() as scope, trio.fail_after(HANGS):
        await graph.compile(checkpointer=Slow()).ainvoke(
            {"seen": []}, {"configurable": {"thread_id": "1"}}, durability="exit"
        )
    assert scope.cancelled_caught
    assert written == ["put"]
    assert background_tasks() == []
