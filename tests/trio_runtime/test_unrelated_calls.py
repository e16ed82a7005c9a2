"""Calls that have nothing to do with each other, in tasks that have: what ends one changes nothing for the other.

Each case has two calls. One, `Ending`, ends in some way; the other, `Other`, has begun, is stopped in its
middle by an event, and goes on when the first is over. Where it runs differs: in a task beside the first,
in one below, in a worker thread, in a node of a graph, in an agent's tool.
"""

from __future__ import annotations

import itertools
import operator
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Annotated, Any, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import (
    Runnable,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)
from langchain_core.tools import tool
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from langchain_anyio import open_stream
from tally import tried

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("enabled"),
    pytest.mark.filterwarnings("ignore:The v3 streaming protocol"),
    pytest.mark.filterwarnings("ignore:astream_events version"),
    pytest.mark.filterwarnings("ignore:astream_log is deprecated"),
    # What trio says of generators that are left alone.
    pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning"),
]

T = TypeVar("T")
SECONDS = 20  # for what hangs


class FailureError(Exception):
    """What a call fails with here."""


class Gate:
    """A place in a call where it stops until it is let go."""

    def __init__(self) -> None:
        self.reached = anyio.Event()
        self.opened = anyio.Event()

    async def __call__(self, value: T) -> T:
        self.reached.set()
        await self.opened.wait()
        return value


Step = Callable[[Any], Awaitable[Any]]


async def at_once(value: T) -> T:
    return value


class State(TypedDict):
    seen: Annotated[list[str], operator.add]


def graph_of(step: Step) -> Any:
    """Two nodes beside each other and one after them."""

    def node(name: str) -> Callable[[State], Awaitable[Any]]:
        async def run(state: State) -> State:
            await step(None)
            return {"seen": [name]}

        return run

    graph = StateGraph(State)
    for name in ("a", "b", "last"):
        graph.add_node(name, node(name))
    for name in ("a", "b"):
        graph.add_edge(START, name)
        graph.add_edge(name, "last")
    return graph.compile()


def words_of(step: Step) -> Runnable[Any, Any]:
    async def words(inputs: AsyncIterator[Any]) -> AsyncIterator[str]:
        async for _ in inputs:
            pass
        for number in range(3):
            yield f"{number} "
            if number == 0:
                await step(None)

    return RunnableLambda(at_once) | RunnableGenerator(words)


class Slow(AsyncCallbackHandler):
    """Has the end of a run wait."""

    def __init__(self, step: Step) -> None:
        self.step = step

    async def on_chain_end(self, outputs: Any, **kwargs: Any) -> None:
        await self.step(None)


# Kinds of calls. Each takes what it does in its middle, and returns what it gives, which is the
# same each time.


async def ainvoke(step: Step) -> Any:
    return await (RunnableLambda(step) | RunnableLambda(at_once)).ainvoke("x")


async def parallel(step: Step) -> Any:
    return await RunnableParallel(a=RunnableLambda(step), b=RunnableLambda(step)).ainvoke("x")


async def abatch(step: Step) -> Any:
    return await RunnableLambda(step).abatch(["x", "y"])


async def as_completed(step: Step) -> Any:
    return sorted([done async for done in RunnableLambda(step).abatch_as_completed(["x", "y"])])


async def astream(step: Step) -> Any:
    return [word async for word in words_of(step).astream("x")]


async def assign(step: Step) -> Any:
    chain = RunnablePassthrough.assign(a=RunnableLambda(step)) | RunnablePassthrough()
    return [str(part) async for part in chain.astream({"x": 1})]


async def events(step: Step) -> Any:
    found = words_of(step).astream_events("x", version="v2")
    return [(event["event"], event["name"]) async for event in found]


async def log(step: Step) -> Any:
    return [len(patch.ops) async for patch in words_of(step).astream_log("x")]


async def handler(step: Step) -> Any:
    return await RunnableLambda(at_once).ainvoke("x", {"callbacks": [Slow(step)]})


async def graph(step: Step) -> Any:
    return await graph_of(step).ainvoke({"seen": []})


async def graph_stream(step: Step) -> Any:
    return [
        value["seen"] async for value in graph_of(step).astream({"seen": []}, stream_mode="values")
    ]


async def graph_opened(step: Step) -> Any:
    async with open_stream(graph_of(step), {"seen": []}) as run:
        return [value["seen"] async for value in run.values]


KINDS = (
    ainvoke,
    parallel,
    abatch,
    as_completed,
    astream,
    assign,
    events,
    log,
    handler,
    graph,
    graph_stream,
    graph_opened,
)
STREAMS: dict[Any, Callable[[Step], Any]] = {
    astream: lambda step: words_of(step).astream("x"),
    events: lambda step: words_of(step).astream_events("x", version="v2"),
    as_completed: lambda step: RunnableLambda(step).abatch_as_completed(["first", "y"]),
    graph_stream: lambda step: graph_of(step).astream({"seen": []}, stream_mode="values"),
}


# Ways to end, each after the other call has been found in its middle.


async def normally(kind: Any, other: Gate) -> None:
    async def step(value: Any) -> Any:
        await other.reached.wait()
        return value

    assert await kind(step)


async def by_an_error(kind: Any, other: Gate) -> None:
    async def step(value: Any) -> Any:
        await other.reached.wait()
        raise FailureError

    if kind is handler:  # langchain-core logs what a handler raises
        await kind(step)
        return
    with pytest.raises(FailureError):
        await kind(step)


async def cancelled(kind: Any, other: Gate) -> None:
    with anyio.CancelScope() as scope:

        async def step(value: Any) -> Any:
            await other.reached.wait()
            scope.cancel()
            if kind is not handler:  # whose events are shielded
                await anyio.sleep_forever()
            return value

        await kind(step)
    assert scope.cancelled_caught


async def never_but_first(value: Any) -> Any:
    """Return at once for the first of a batch, and never for anything else."""
    if value != "first":
        await anyio.sleep_forever()
    return value


async def left_early(kind: Any, other: Gate) -> None:
    async with aclosing(STREAMS[kind](never_but_first)) as stream:
        async for _ in stream:
            break
        await other.reached.wait()


async def left_alone(kind: Any, other: Gate) -> None:
    """As `left_early`, but the generator is closed when it is collected."""
    async for _ in STREAMS[kind](never_but_first):
        break
    await other.reached.wait()


WAYS = (normally, by_an_error, cancelled, left_early, left_alone)


# Places of the other call. Each runs `first`, then opens the gate, and runs `second` somewhere
# beside.

Call = Callable[[], Awaitable[None]]


async def in_a_child(first: Call, second: Call, gate: Gate) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(second)
        await first()
        gate.opened.set()


async def in_an_earlier_child(first: Call, second: Call, gate: Gate) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(second)
        await gate.reached.wait()
        await first()
        gate.opened.set()


async def in_a_sibling(first: Call, second: Call, gate: Gate) -> None:
    async def run_first() -> None:
        await first()
        gate.opened.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_first)
        tasks.start_soon(second)


async def in_a_nested_group(first: Call, second: Call, gate: Gate) -> None:
    async with anyio.create_task_group() as outer, anyio.create_task_group() as inner:
        inner.start_soon(at_once, None)
        outer.start_soon(second)
        await first()
        gate.opened.set()


async def in_a_child_of_a_child(first: Call, second: Call, gate: Gate) -> None:
    async def child() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(second)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(child)
        await first()
        gate.opened.set()


async def started_within(first: Call, second: Call, gate: Gate) -> None:
    """The first call starts it, in a group that is not its own."""
    async with anyio.create_task_group() as tasks:

        async def start(value: Any) -> Any:
            tasks.start_soon(second)
            await gate.reached.wait()
            return await RunnableLambda(at_once).ainvoke(value)

        assert await RunnableLambda(start).ainvoke("x") == "x"
        await first()
        gate.opened.set()


async def in_a_worker_thread(first: Call, second: Call, gate: Gate) -> None:
    def in_thread() -> None:
        anyio.from_thread.run(second)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, in_thread)
        await first()
        gate.opened.set()


async def in_a_node(first: Call, second: Call, gate: Gate) -> None:
    async def node(state: State) -> State:
        await in_a_child(first, second, gate)
        return {"seen": ["node"]}

    outer = StateGraph(State).add_node("node", node).add_edge(START, "node").compile()
    assert await outer.ainvoke({"seen": []}) == {"seen": ["node"]}


async def in_another_node(first: Call, second: Call, gate: Gate) -> None:
    async def run_first(state: State) -> State:
        await first()
        gate.opened.set()
        return {"seen": ["first"]}

    async def run_second(state: State) -> State:
        await second()
        return {"seen": ["second"]}

    outer = StateGraph(State).add_node(run_first).add_node(run_second)
    outer.add_edge(START, "run_first").add_edge(START, "run_second")
    state = await outer.compile().ainvoke({"seen": []})
    assert state == {"seen": ["first", "second"]}


class Model(FakeMessagesListChatModel):
    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


async def in_parallel_tools(first: Call, second: Call, gate: Gate) -> None:
    @tool
    async def run_first() -> str:
        """Run the first."""
        await first()
        gate.opened.set()
        return "first"

    @tool
    async def run_second() -> str:
        """Run the second."""
        await second()
        return "second"

    calls: list[Any] = [{"name": f"run_{n}", "args": {}, "id": n} for n in ("first", "second")]
    model = Model(responses=[AIMessage("", tool_calls=calls), AIMessage("done")])
    agent = create_agent(model, [run_first, run_second])
    state: Any = await agent.ainvoke({"messages": [("user", "x")]})
    assert [m.content for m in state["messages"]] == ["x", "", "first", "second", "done"]


PLACES = (
    in_a_child,
    in_an_earlier_child,
    in_a_sibling,
    in_a_nested_group,
    in_a_child_of_a_child,
    started_within,
    in_a_worker_thread,
    in_a_node,
    in_another_node,
    in_parallel_tools,
)

# Graphs that are called in one node share a namespace in langgraph, by which it ends the
# projections of one when the other ends, also by itself and on asyncio.
OF_LANGGRAPH = {
    (kind, in_a_node, other)
    for kind, other in itertools.product((graph, graph_stream, graph_opened), repeat=2)
    if graph_opened in (kind, other)
}


def cells_of(*places: Any) -> list[Any]:
    return [
        (kind, way, place, other)
        for kind, way, place, other in itertools.product(KINDS, WAYS, places, KINDS)
        if (way not in (left_early, left_alone) or kind in STREAMS)
        and (kind, place, other) not in OF_LANGGRAPH
    ]


def sample(cells: list[Any]) -> list[Any]:
    """Return cells in which each pair of a kind, a way, a place and another kind comes once.

    One in six is for runs with `--quick` too.
    """
    random.Random(1).shuffle(cells)
    seen: set[Any] = set()
    chosen = []
    for cell in cells:
        pairs = set(itertools.combinations(enumerate(cell), 2))
        if pairs - seen:
            seen |= pairs
            marks = [pytest.mark.unhurried] if len(chosen) % 6 else []
            chosen.append(pytest.param(cell, marks=marks))
    return chosen


def named(cell: Any) -> str:
    return "-".join(part.__name__ for part in cell)


async def check(cell: Any) -> None:
    kind, way, place, other = cell
    expected = await other(at_once)
    gate = Gate()
    gave: list[Any] = []

    async def first() -> None:
        await way(kind, gate)
        # It has not waited for the other, nor ended it.
        assert not gate.opened.is_set()
        assert not gave

    async def second() -> None:
        gave.append(await other(gate))

    with anyio.fail_after(SECONDS):
        await place(first, second, gate)
    assert gave == [expected]


@pytest.mark.parametrize("cell", sample(cells_of(*PLACES)), ids=named)
async def test_what_ends_a_call_changes_nothing_for_another(cell: Any) -> None:
    await check(cell)


@pytest.mark.long
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
async def test_every_cell(place: Any) -> None:
    for cell in cells_of(place):
        await check(cell)
        tried("Unrelated calls: one ends in some way while the other goes on")
