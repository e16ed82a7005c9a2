"""Puts the synchronous checkpointers and stores, in worker threads, in the place of LangGraph's asynchronous ones.

The tests also look into tables, by the classes' private cursors and by psycopg's asynchronous connections, which need
asyncio; these are done by synchronous ones here.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from typing import Any

import anyio.to_thread

from langchain_anyio.langgraph import ThreadedCheckpointSaver, ThreadedStore


async def in_thread(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return await anyio.to_thread.run_sync(partial(func, *args, **kwargs))


class Asynchronous:
    """A connection, pool or cursor of psycopg whose methods are run in worker threads."""

    def __init__(self, original: Any) -> None:
        self.original = original

    async def __aenter__(self) -> Any:
        entered = await in_thread(self.original.__enter__)
        return self if entered is self.original else Asynchronous(entered)

    async def __aexit__(self, *exc_info: object) -> None:
        await in_thread(self.original.__exit__, *exc_info)

    def cursor(self, **kwargs: Any) -> Any:
        return Asynchronous(self.original.cursor(**kwargs))

    def pipeline(self) -> Any:
        return Asynchronous(self.original.pipeline())

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        return Asynchronous(await in_thread(self.original.execute, *args, **kwargs))

    async def fetchone(self) -> Any:
        return await in_thread(self.original.fetchone)

    async def fetchall(self) -> Any:
        return await in_thread(self.original.fetchall)


def in_place_of(threaded: type, original: Any) -> type:
    """Make a class that stands for an asynchronous one: `threaded`, of objects of the class `original`."""

    class InThreads(threaded):  # type: ignore[misc]
        def __init__(self, given: Any, pipe: Any = None, **kwargs: Any) -> None:
            if isinstance(given, Asynchronous):  # a connection or a pool
                pipes = {} if pipe is None else {"pipe": pipe.original}
                given = original(given.original, **pipes, **kwargs)
            super().__init__(given)

        @classmethod
        def from_conn_string(cls, *args: Any, **kwargs: Any) -> Any:
            return cls(original.from_conn_string(*args, **kwargs))

        @property
        def MIGRATIONS(self) -> Any:  # noqa: N802
            return self.original.MIGRATIONS

        @MIGRATIONS.setter
        def MIGRATIONS(self, migrations: Any) -> None:  # noqa: N802
            self.original.MIGRATIONS = migrations

        @asynccontextmanager
        async def _cursor(self, **kwargs: Any) -> AsyncIterator[Any]:
            manager: AbstractContextManager[Any] = self.original._cursor(**kwargs)
            async with Asynchronous(manager) as cursor:
                yield cursor

    return InThreads


def put_in_place() -> None:
    from langgraph.checkpoint.sqlite import SqliteSaver, aio
    from langgraph.store import sqlite
    from langgraph.store.sqlite import aio as sqlite_aio

    sqlite_saver: Any = in_place_of(ThreadedCheckpointSaver, SqliteSaver)
    sqlite_store: Any = in_place_of(ThreadedStore, sqlite.SqliteStore)
    aio.AsyncSqliteSaver = sqlite_saver  # type: ignore[misc]
    sqlite.AsyncSqliteStore = sqlite_aio.AsyncSqliteStore = sqlite_store  # type: ignore[misc]
    if importlib.util.find_spec("psycopg") is None:
        return
    import psycopg
    import psycopg_pool
    from langgraph.checkpoint import postgres as savers
    from langgraph.checkpoint.postgres import aio as savers_aio
    from langgraph.store import postgres as stores
    from langgraph.store.postgres import aio as stores_aio

    class AsyncConnection:
        @staticmethod
        async def connect(*args: Any, **kwargs: Any) -> Any:
            return Asynchronous(await in_thread(psycopg.Connection.connect, *args, **kwargs))

        def __class_getitem__(cls, _: Any) -> Any:
            return cls

    threaded: Any = in_place_of(ThreadedCheckpointSaver, savers.PostgresSaver)
    shallow: Any = in_place_of(ThreadedCheckpointSaver, savers.ShallowPostgresSaver)
    store: Any = in_place_of(ThreadedStore, stores.PostgresStore)
    for module, name, value in (
        (savers_aio, "AsyncPostgresSaver", threaded),
        (savers_aio, "AsyncShallowPostgresSaver", shallow),
        (stores, "AsyncPostgresStore", store),
        (stores_aio, "AsyncPostgresStore", store),
        (psycopg, "AsyncConnection", AsyncConnection),
        (
            psycopg_pool,
            "AsyncConnectionPool",
            lambda *args, **kwargs: Asynchronous(
                psycopg_pool.ConnectionPool(*args, open=False, **kwargs)
            ),
        ),
    ):
        setattr(module, name, value)


# Before pytest imports the tests' own conftest.
if os.environ["IN_THREADS"]:
    put_in_place()
