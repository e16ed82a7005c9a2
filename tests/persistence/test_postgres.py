"""Checkpointers and stores of PostgreSQL in worker threads, on each backend."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio import wait_all_tasks_blocked

import persisted
import postgres

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed: group `persistence`")
pytest.importorskip("langgraph.checkpoint.postgres")
pytest.importorskip("langgraph.checkpoint.conformance")
if postgres.programs() is None:
    pytest.skip(postgres.HOW_TO_HAVE_IT, allow_module_level=True)

from langgraph.checkpoint.base import empty_checkpoint  # noqa: E402
from langgraph.checkpoint.conformance import checkpointer_test, validate  # noqa: E402
from langgraph.checkpoint.memory import InMemorySaver  # noqa: E402
from langgraph.checkpoint.postgres import PostgresSaver  # noqa: E402
from langgraph.checkpoint.sqlite import SqliteSaver  # noqa: E402
from langgraph.store.postgres import PostgresStore  # noqa: E402
from psycopg.rows import dict_row  # noqa: E402
from psycopg_pool import ConnectionPool  # noqa: E402

from langchain_anyio.langgraph import ThreadedCheckpointSaver, ThreadedStore  # noqa: E402

pytestmark = pytest.mark.anyio

SECONDS = 30
CONFIG: Any = {"configurable": {"thread_id": "1", "checkpoint_ns": ""}}


@pytest.fixture(scope="module")
def running() -> Iterator[str]:
    with postgres.server() as uri:
        yield uri


@pytest.fixture
def uri(running: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of the test's own."""
    name = f"test_{abs(hash(request.node.nodeid))}"
    with psycopg.connect(running, autocommit=True) as admin:
        admin.execute(f"create database {name}")
        yield running.replace("/postgres?", f"/{name}?")
        admin.execute(f"drop database {name} with (force)")


def set_up(uri: str) -> None:
    """Create the tables, which langgraph cannot do on a connection in pipeline mode."""
    with PostgresSaver.from_conn_string(uri) as saver, PostgresStore.from_conn_string(uri) as store:
        saver.setup()
        store.setup()


async def put(saver: Any, step: int = 0) -> Any:
    return await saver.aput(
        CONFIG, empty_checkpoint(), {"source": "loop", "step": step, "parents": {}}, {}
    )


def made(kind: str, uri: str) -> Any:
    if kind == "postgres":
        return PostgresSaver.from_conn_string(uri)
    if kind == "postgres with a pipeline":
        return PostgresSaver.from_conn_string(uri, pipeline=True)
    return SqliteSaver.from_conn_string(":memory:") if kind == "sqlite" else InMemorySaver()


# The methods that langgraph's own classes implement.
SKIPPED = {
    "memory": {"copy_thread", "prune", "delete_for_runs"},
    "sqlite": {"copy_thread", "prune", "delete_for_runs"},
    "postgres": {"copy_thread", "delete_for_runs"},
    "postgres with a pipeline": {"copy_thread", "delete_for_runs"},
    "postgres with a pool": {"copy_thread", "delete_for_runs"},
}


@pytest.mark.parametrize("kind", SKIPPED)
async def test_langgraphs_conformance_tests(kind: str, uri: str) -> None:
    @checkpointer_test(name=kind, skip_capabilities=SKIPPED[kind])
    async def saver() -> Any:
        if kind == "postgres with a pool":
            options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
            with ConnectionPool(uri, min_size=2, max_size=4, kwargs=options) as pool:
                given: Any = PostgresSaver(pool)  # type: ignore[arg-type]
                async with ThreadedCheckpointSaver(given, max_threads=4) as pooled:
                    await pooled.setup()
                    yield pooled
            return
        if kind == "postgres with a pipeline":
            set_up(uri)
        async with ThreadedCheckpointSaver(made(kind, uri)) as threaded:
            if kind in {"sqlite", "postgres"}:
                await threaded.setup()
            yield threaded

    report = await validate(saver)
    failures = [line for result in report.results.values() for line in result.failures or []]
    assert failures == []
    ran = {name for name, result in report.results.items() if result.passed}
    assert ran == report.results.keys() - SKIPPED[kind]
    assert sum(result.tests_passed for result in report.results.values()) > 50


async def test_one_thread_at_a_time_uses_the_connection(uri: str) -> None:
    """A connection in pipeline mode breaks if several threads use it."""
    set_up(uri)
    async with ThreadedCheckpointSaver(PostgresSaver.from_conn_string(uri, pipeline=True)) as saver:
        async with anyio.create_task_group() as tasks:
            for step in range(40):
                tasks.start_soon(put, saver, step)
        found = [item.metadata["step"] async for item in saver.alist(CONFIG)]
        assert sorted(found) == list(range(40))
        # On asyncio and on trio, tasks begin in different orders; what is asked for in one is in order.
        for step in range(40, 60):
            await put(saver, step)
        found = [item.metadata["step"] async for item in saver.alist(CONFIG, limit=20)]
        assert found == list(range(59, 39, -1))


async def test_a_write_that_waits_for_a_lock_of_the_database_is_whole_when_cancelled(
    uri: str,
) -> None:
    async with ThreadedCheckpointSaver(PostgresSaver.from_conn_string(uri)) as saver:
        await saver.setup()
        # For longer than a cancelled write is waited for if it hung; it goes on within that.
        locking = psycopg.connect(uri)
        locking.execute("lock table checkpoints in exclusive mode")
        async with anyio.create_task_group() as outer:

            async def unlock() -> None:
                await wait_until_blocked(uri)
                tasks.cancel_scope.cancel()
                await wait_all_tasks_blocked()
                locking.rollback()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(put, saver)
                outer.start_soon(unlock)
        locking.close()
        assert [item.metadata["step"] async for item in saver.alist(CONFIG)] == [0]


async def wait_until_blocked(uri: str) -> None:
    """Wait until a connection waits for a lock."""
    with anyio.fail_after(SECONDS), psycopg.connect(uri, autocommit=True) as admin:
        query = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        while admin.execute(query).fetchone() == (0,):
            await anyio.sleep(0.01)


async def test_a_read_that_hangs_is_left_at_once(uri: str) -> None:
    async with ThreadedCheckpointSaver(PostgresSaver.from_conn_string(uri)) as saver:
        await saver.setup()
        locking = psycopg.connect(uri)
        locking.execute("lock table checkpoints in access exclusive mode")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(saver.aget_tuple, CONFIG)
            await wait_until_blocked(uri)
            begun = time.monotonic()
            tasks.cancel_scope.cancel()
        assert time.monotonic() - begun < 5
        locking.rollback()
        locking.close()
        assert await saver.aget_tuple(CONFIG) is None


async def test_a_server_that_ends_a_connection_fails_the_call(uri: str) -> None:
    async with ThreadedCheckpointSaver(PostgresSaver.from_conn_string(uri)) as saver:
        await saver.setup()
        with psycopg.connect(uri, autocommit=True) as admin:
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
        for _ in range(2):
            with pytest.raises(psycopg.OperationalError):
                await put(saver)


async def test_a_server_that_is_not_there_fails_the_opening(uri: str) -> None:
    given = PostgresSaver.from_conn_string("postgresql:///nothing?host=/nowhere")
    with pytest.raises(psycopg.OperationalError):
        async with ThreadedCheckpointSaver(given):
            pass


@pytest.mark.parametrize("options", ({}, {"pipeline": True}, {"pool_config": {"max_size": 3}}))
async def test_a_store(uri: str, options: dict[str, Any]) -> None:
    ttl: Any = {"default_ttl": 1, "refresh_on_read": False}
    set_up(uri)
    given = PostgresStore.from_conn_string(uri, ttl=ttl, **options)
    async with ThreadedStore(given, max_threads=3 if "pool_config" in options else 1) as store:

        async def fill(number: int) -> None:
            await store.aput(("numbers", str(number % 3)), str(number), {"number": number})

        async with anyio.create_task_group() as tasks:
            for number in range(30):
                tasks.start_soon(fill, number)
        found = await store.asearch(("numbers",), limit=100)
        assert sorted(item.value["number"] for item in found) == list(range(30))
        assert len(await store.alist_namespaces()) == 3
        item = await store.aget(("numbers", "0"), "3")
        assert item is not None
        assert item.value == {"number": 3}
        await store.adelete(("numbers", "0"), "3")
        assert store.get(("numbers", "0"), "3") is None
        with psycopg.connect(uri, autocommit=True) as admin:
            admin.execute("update store set expires_at = now() - interval '1 day' where key = '6'")
        # In pipeline mode psycopg does not know the number.
        assert await store.sweep_ttl() == (-1 if "pipeline" in options else 1)
        assert await store.aget(("numbers", "0"), "6") is None


async def test_an_agent_interrupted_in_one_process_is_resumed_in_another(
    uri: str, anyio_backend_name: str
) -> None:
    program = [sys.executable, "-W", "error::ResourceWarning", persisted.__file__]
    printed = []
    for _ in range(2):
        done = await anyio.to_thread.run_sync(
            partial(
                subprocess.run,
                [*program, anyio_backend_name, "postgres", uri],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        )
        assert (done.returncode, done.stderr) == (0, "")
        printed.append(done.stdout.strip())
    assert printed == ["remove a.txt?", "done: a.txt yes ['yes']"]
