"""Checkpointers and stores of SQLite and of memory in worker threads, on each backend."""

from __future__ import annotations

import inspect
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio import wait_all_tasks_blocked
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.store.base import BaseStore, GetOp, ListNamespacesOp, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

import langchain_anyio
import persisted
from langchain_anyio import disable_trio, enable_trio
from langchain_anyio.langgraph import ThreadedCheckpointSaver, ThreadedStore

pytestmark = pytest.mark.anyio

SECONDS = 20
CONFIG: Any = {"configurable": {"thread_id": "1", "checkpoint_ns": ""}}


@pytest.fixture
def enabled() -> Iterator[None]:
    enable_trio()
    yield
    disable_trio()


def saver_on(path: Path) -> ThreadedCheckpointSaver:
    return ThreadedCheckpointSaver(SqliteSaver.from_conn_string(str(path / "saver.sqlite")))


async def put(saver: BaseCheckpointSaver[Any], step: int = 0) -> Any:
    return await saver.aput(
        CONFIG, empty_checkpoint(), {"source": "loop", "step": step, "parents": {}}, {}
    )


async def listed(saver: BaseCheckpointSaver[Any], **kwargs: Any) -> list[int]:
    return [found.metadata["step"] async for found in saver.alist(CONFIG, **kwargs)]


@pytest.mark.parametrize(
    ("cls", "base"), ((ThreadedCheckpointSaver, BaseCheckpointSaver), (ThreadedStore, BaseStore))
)
def test_every_public_method_of_the_base_class_is_there(cls: type, base: type) -> None:
    """A method that a later release of langgraph adds would else be the base class's, which does not know the original."""
    shared = {"aget", "get"} if base is BaseCheckpointSaver else set()  # in terms of others
    for name, member in vars(base).items():
        if name.startswith("_") or not (inspect.isfunction(member) or isinstance(member, property)):
            continue
        assert name in vars(cls) or name in shared, name
        if name in vars(cls) and inspect.isfunction(member):
            theirs, ours = inspect.signature(member), inspect.signature(vars(cls)[name])
            assert [(p.name, p.kind, p.default is p.empty) for p in theirs.parameters.values()] == [
                (p.name, p.kind, p.default is p.empty) for p in ours.parameters.values()
            ], name


def test_importing_the_package_imports_no_langgraph() -> None:
    program = (
        "import sys, langchain_anyio; langchain_anyio.open_stream; "
        "assert 'langgraph' not in sys.modules and 'langchain_anyio.langgraph' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert ThreadedStore.__module__ == f"{langchain_anyio.__name__}.langgraph"


async def test_what_is_written_is_there_in_another_block(tmp_path: Path) -> None:
    async with saver_on(tmp_path) as saver:
        for step in range(3):
            stored = await put(saver, step)
        await saver.aput_writes(stored, [("channel", "value")], "task")
    async with saver_on(tmp_path) as saver:
        assert await listed(saver) == [2, 1, 0]
        assert await listed(saver, limit=1) == [2]
        found = await saver.aget_tuple(stored)
        assert found is not None
        assert found.pending_writes == [("task", "channel", "value")]
        assert await saver.aget(stored) == found.checkpoint
        # The synchronous methods, on the event loop and in other threads.
        assert saver.get_tuple(stored) == found
        assert await anyio.to_thread.run_sync(saver.get_tuple, stored) == found
        assert [item.metadata["step"] for item in saver.list(CONFIG)] == [2, 1, 0]
        await saver.adelete_thread("1")
        assert await listed(saver) == []


async def test_a_loop_that_lists_may_write_and_may_end_early(tmp_path: Path) -> None:
    async with saver_on(tmp_path) as saver:
        for step in range(3):
            await put(saver, step)
        async for _ in saver.alist(CONFIG):
            with anyio.fail_after(SECONDS):
                await put(saver, 7)
            break
        async with aclosing(saver.alist(CONFIG)) as listing:  # type: ignore[type-var]
            async for found in listing:
                assert found.metadata["step"] == 7
                break
        assert [item async for item in listing] == []
        assert len(await listed(saver)) == 4


class Slow(InMemorySaver):
    """A checkpointer whose calls wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.go = threading.Event()
        self.yielded = 0

    def put(self, *args: Any) -> Any:
        self.begun.set()
        assert self.go.wait(SECONDS)
        return super().put(*args)

    def list(self, *args: Any, **kwargs: Any) -> Any:
        for item in super().list(*args, **kwargs):
            self.yielded += 1
            self.begun.set()
            assert self.go.wait(SECONDS)
            yield item


async def test_a_cancelled_put_is_whole() -> None:
    slow = Slow()
    saver = ThreadedCheckpointSaver(slow)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(put, saver)
        await anyio.to_thread.run_sync(slow.begun.wait, SECONDS)
        tasks.cancel_scope.cancel()
        slow.go.set()
    assert await listed(saver) == [0]


async def test_a_cancelled_listing_stops_in_its_thread() -> None:
    slow = Slow()
    slow.go.set()
    saver = ThreadedCheckpointSaver(slow)
    for step in range(5):
        await put(saver, step)
    slow.go.clear()
    slow.begun.clear()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listed, saver)
        await anyio.to_thread.run_sync(slow.begun.wait, SECONDS)
        tasks.cancel_scope.cancel()
    slow.go.set()
    assert await saver.aget_tuple({"configurable": {"thread_id": "other"}}) is None
    assert slow.yielded == 1


async def test_the_block_closes_what_it_opened_and_refuses_later_calls(tmp_path: Path) -> None:
    async with saver_on(tmp_path) as saver:
        await put(saver)
        connection = saver.original.conn  # type: ignore[attr-defined]
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("select 1")
    for call in (partial(put, saver), partial(listed, saver), partial(saver.aget_tuple, CONFIG)):
        with pytest.raises(anyio.ClosedResourceError, match=r"ThreadedCheckpointSaver"):
            await call()
    with pytest.raises(anyio.ClosedResourceError):
        saver.get_tuple(CONFIG)
    with pytest.raises(RuntimeError, match="only once"):
        async with saver:
            pass


async def test_a_checkpointer_that_was_given_stays_open(tmp_path: Path) -> None:
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    async with ThreadedCheckpointSaver(SqliteSaver(connection)) as saver:
        await put(saver)
    assert connection.execute("select count(*) from checkpoints").fetchone() == (1,)
    connection.close()


async def test_the_block_is_left_with_its_error_and_closes(tmp_path: Path) -> None:
    seen: list[Any] = []

    @contextmanager
    def manager() -> Iterator[InMemorySaver]:
        try:
            yield InMemorySaver()
        except BaseException as exc:
            seen.append(exc)
            raise

    error = ValueError("the block's own")
    with pytest.raises(ValueError, match="the block's own") as caught:
        async with ThreadedCheckpointSaver(manager()):
            raise error
    assert caught.value is error
    assert seen == [error]
    with anyio.CancelScope() as scope:
        async with ThreadedCheckpointSaver(manager()):
            scope.cancel()
            await wait_all_tasks_blocked()
    assert scope.cancelled_caught
    assert isinstance(seen[1], anyio.get_cancelled_exc_class())


@pytest.mark.parametrize("when", ("before", "while"))
async def test_opening_that_is_cancelled_is_closed(when: str) -> None:
    log: list[str] = []
    begun, go, closed = threading.Event(), threading.Event(), threading.Event()

    @contextmanager
    def manager() -> Iterator[InMemorySaver]:
        begun.set()
        assert go.wait(SECONDS)
        log.append("opened")
        yield InMemorySaver()
        log.append("closed")
        closed.set()

    async def enter() -> None:
        async with ThreadedCheckpointSaver(manager()):
            log.append("entered")

    async with anyio.create_task_group() as tasks:
        if when == "before":
            tasks.cancel_scope.cancel()
        tasks.start_soon(enter)
        if when == "while":
            assert await anyio.to_thread.run_sync(begun.wait, SECONDS)
            tasks.cancel_scope.cancel()
    if when == "while":
        go.set()
        assert await anyio.to_thread.run_sync(closed.wait, SECONDS)
    assert log == ([] if when == "before" else ["opened", "closed"])


async def test_what_cannot_be_wrapped_is_refused() -> None:
    class Asynchronous(BaseCheckpointSaver[int]):
        pass

    @contextmanager
    def manager(made: Any) -> Iterator[Any]:
        opened.append(made)
        try:
            yield made
        finally:
            closed.append(made)

    opened: list[Any] = []
    closed: list[Any] = []
    for given in (None, "runs.sqlite", InMemoryStore(), sqlite3):
        with pytest.raises(TypeError, match="synchronous BaseCheckpointSaver"):
            ThreadedCheckpointSaver(given)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no synchronous methods"):
        ThreadedCheckpointSaver(Asynchronous())
    with pytest.raises(TypeError, match="already"):
        ThreadedCheckpointSaver(ThreadedCheckpointSaver(InMemorySaver()))
    with pytest.raises(TypeError, match="already"):
        ThreadedStore(ThreadedStore(InMemoryStore()))
    for made in (3, Asynchronous()):
        with pytest.raises(TypeError):
            async with ThreadedCheckpointSaver(manager(made)):
                pass
    assert len(opened) == 2
    assert closed == opened
    for number in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="max_threads"):
            ThreadedStore(InMemoryStore(), max_threads=number)  # type: ignore[arg-type]
    saver = ThreadedCheckpointSaver(SqliteSaver.from_conn_string(":memory:"))
    with pytest.raises(RuntimeError, match="async with ThreadedCheckpointSaver"):
        await saver.aget_tuple(CONFIG)


async def test_an_asynchronous_original_is_refused_with_a_way_out() -> None:
    aio = pytest.importorskip("langgraph.checkpoint.sqlite.aio")
    with pytest.raises(TypeError, match="use the synchronous class of the same database"):
        ThreadedCheckpointSaver(aio.AsyncSqliteSaver.from_conn_string(":memory:"))


async def test_a_clone_with_an_allowlist_shares_the_connection_and_its_turns() -> None:
    saver = ThreadedCheckpointSaver(InMemorySaver())
    if not hasattr(BaseCheckpointSaver, "with_allowlist"):
        pytest.skip("this release of langgraph has no allowlists")
    await put(saver)
    clone = saver.with_allowlist({("builtins", "set")})
    assert clone is saver or isinstance(clone, ThreadedCheckpointSaver)
    assert await listed(clone) == [0]
    assert clone.serde is clone.original.serde  # type: ignore[attr-defined]
    async with saver:
        pass
    with pytest.raises(anyio.ClosedResourceError):
        await clone.aget_tuple(CONFIG)


OPS: list[Any] = [
    PutOp(("a", "b"), "1", {"text": "x"}),
    GetOp(("a", "b"), "1"),
    SearchOp(("a",)),
    ListNamespacesOp(),
]


@pytest.mark.parametrize("kind", ("memory", "sqlite"))
async def test_a_store_in_worker_threads(kind: str, tmp_path: Path) -> None:
    given: Any = InMemoryStore()
    if kind == "sqlite":
        given = SqliteStore.from_conn_string(str(tmp_path / "store.sqlite"))
    async with ThreadedStore(given) as store:
        if kind == "sqlite":
            await store.setup()
        await store.aput(("a", "b"), "1", {"text": "x"})
        item = await store.aget(("a", "b"), "1")
        assert item is not None
        assert item.value == {"text": "x"}
        assert store.get(("a", "b"), "1") == item
        assert [found.key for found in await store.asearch(("a",))] == ["1"]
        assert [found.key for found in store.search(("a",), filter={"text": "y"})] == []
        assert await store.alist_namespaces() == store.list_namespaces() == [("a", "b")]
        assert (await store.abatch(iter(OPS[1:2]))) == store.batch(iter(OPS[1:2])) == [item]
        assert len(await store.abatch(OPS)) == len(OPS)
        with pytest.raises(ValueError, match="periods"):
            await store.aput(("a.b",), "1", {})
        await store.adelete(("a", "b"), "1")
        assert await store.aget(("a", "b"), "1") is None
        store.put(("a",), "2", {})
        store.delete(("a",), "2")
        assert store.supports_ttl == store.original.supports_ttl
    with pytest.raises(anyio.ClosedResourceError):
        await store.aget(("a",), "1")


# langgraph's, from its use of sqlite3.
@pytest.mark.filterwarnings("ignore:The default datetime adapter is deprecated")
async def test_the_sweeper_of_a_store_takes_turns_and_ends_with_the_block(tmp_path: Path) -> None:
    ttl: Any = {"default_ttl": 1 / 6000, "sweep_interval_minutes": 1 / 6000}
    given = SqliteStore.from_conn_string(str(tmp_path / "store.sqlite"), ttl=ttl)
    async with ThreadedStore(given) as store:
        await store.setup()
        assert store.ttl_config == ttl
        await store.aput(("a",), "old", {})
        await store.aput(("a",), "new", {}, ttl=None)
        swept = threading.Event()
        sweep_ttl = store.original.sweep_ttl  # type: ignore[attr-defined]

        def sweep() -> int:
            number = int(sweep_ttl())
            if number:
                swept.set()
            return number

        store.original.sweep_ttl = sweep  # type: ignore[attr-defined]
        future = await store.start_ttl_sweeper()
        assert await store.start_ttl_sweeper() is future
        assert await anyio.to_thread.run_sync(swept.wait, SECONDS)
        assert await store.aget(("a",), "old") is None
        assert await store.aget(("a",), "new") is not None
        assert await store.stop_ttl_sweeper(SECONDS)
        future.result(SECONDS)
        assert await store.sweep_ttl() == 0
        again = await store.start_ttl_sweeper()
        assert again is not future
    again.result(SECONDS)
    assert await ThreadedStore(InMemoryStore()).stop_ttl_sweeper()


class State(TypedDict):
    answer: str


def ask(state: State) -> State:
    return {"answer": interrupt("what?")}


@pytest.mark.parametrize("kind", ("memory", "sqlite"))
async def test_a_graph_is_interrupted_and_resumed(
    kind: str, tmp_path: Path, anyio_backend_name: str, request: pytest.FixtureRequest
) -> None:
    if anyio_backend_name == "trio":
        request.getfixturevalue("enabled")
    elif sys.version_info < (3, 11):
        pytest.skip("langgraph's interrupts need Python 3.11 on asyncio")
    given: Any = InMemorySaver()
    if kind == "sqlite":
        given = SqliteSaver.from_conn_string(str(tmp_path / "saver.sqlite"))
    async with ThreadedCheckpointSaver(given) as saver:
        graph: Any = StateGraph(State).add_node("ask", ask).add_edge(START, "ask")
        graph = graph.compile(checkpointer=saver)
        assert (await graph.ainvoke({"answer": ""}, CONFIG))["__interrupt__"]
        assert graph.get_state(CONFIG).next == ("ask",)
        assert await graph.ainvoke(Command(resume="this"), CONFIG) == {"answer": "this"}
        assert len([state async for state in graph.aget_state_history(CONFIG)]) == 3


@pytest.mark.slow
async def test_an_agent_interrupted_in_one_process_is_resumed_in_another(
    tmp_path: Path, anyio_backend_name: str
) -> None:
    program = [sys.executable, "-W", "error::ResourceWarning", persisted.__file__]
    printed = []
    for _ in range(2):
        done = await anyio.to_thread.run_sync(
            partial(
                subprocess.run,
                [*program, anyio_backend_name, "sqlite", str(tmp_path / "agent.sqlite")],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        )
        assert (done.returncode, done.stderr) == (0, "")
        printed.append(done.stdout.strip())
    assert printed == ["remove a.txt?", "done: a.txt yes ['yes']"]
