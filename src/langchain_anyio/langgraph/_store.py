"""A synchronous store made asynchronous."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast, final

import anyio
import anyio.to_thread
from langgraph.store.base import NOT_PROVIDED, BaseStore, GetOp, ListNamespacesOp, SearchOp
from typing_extensions import Self

from ._resource import Resource

if TYPE_CHECKING:
    from langgraph.store.base import (
        Item,
        NamespacePath,
        NotProvided,
        Op,
        Result,
        SearchItem,
        TTLConfig,
    )

T = TypeVar("T")

_READS: Final = (GetOp, ListNamespacesOp, SearchOp)

_logger = logging.getLogger(__name__)


@final
class ThreadedStore(BaseStore):
    """A synchronous store made asynchronous by worker threads, on asyncio and on trio.

    The order of calls, their cancellation and the end of the block are as in
    `ThreadedCheckpointSaver`. Reading may renew the time to live of an item; that is a read all the
    same, and is abandoned if it is cancelled. `abatch()` is a write if any of its operations is.

    `setup()`, `sweep_ttl()`, `start_ttl_sweeper()` and `stop_ttl_sweeper()` are asynchronous, as
    those of langgraph's asynchronous stores. The sweeper's deletions take their turn among the
    other calls, and it ends with the block.

    Args:
        store: A synchronous store, or a context manager of one, such as
            `SqliteStore.from_conn_string(...)`. A connection of sqlite3's needs
            `check_same_thread=False`, which `from_conn_string` sets.
        max_threads: Number of calls that may be in progress at the same time. More than one is for
            a store that is thread-safe and keeps no lock of its own.

    Raises:
        TypeError: `store` is no synchronous store.
        ValueError: `max_threads` is less than 1.

    Example:
        ```python
        async with ThreadedStore(SqliteStore.from_conn_string("memory.sqlite")) as store:
            await store.setup()
            await store.aput(("people",), "ada", {"likes": "engines"})
        ```
    """

    __slots__ = ("_resource", "_sweeper")

    def __init__(
        self, store: BaseStore | AbstractContextManager[BaseStore], *, max_threads: int = 1
    ) -> None:
        self._resource: Resource[BaseStore] = Resource(
            store,
            kind=BaseStore,  # type: ignore[type-abstract]
            check=_check,
            wrapper=type(self).__name__,
            max_threads=max_threads,
        )
        self._sweeper: _Sweeper | None = None

    @property
    def original(self) -> BaseStore:
        """The synchronous store.

        Raises:
            RuntimeError: The block of the context manager that makes it has not been entered.
        """
        return self._resource.original

    async def __aenter__(self) -> Self:
        await self._resource.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._sweeper is not None:
            # Not waited for: if it is sweeping, that is a call, for which closing waits.
            self._sweeper.stop()
        await self._resource.close(exc_type, exc, traceback)

    @property
    def supports_ttl(self) -> bool:  # type: ignore[override]
        """True if the original supports a time to live of items."""
        return self.original.supports_ttl

    @property
    def ttl_config(self) -> TTLConfig | None:  # type: ignore[override]
        """The original's configuration of the time to live of items."""
        return self.original.ttl_config

    async def setup(self) -> None:
        """Create the tables of the database, where the store has a method for that."""
        await self._write("setup", cast("Any", self.original).setup)

    async def sweep_ttl(self) -> int:
        """Delete the items whose time to live has passed, and return their number."""
        return cast("int", await self._write("sweep_ttl", cast("Any", self.original).sweep_ttl))

    async def start_ttl_sweeper(self, sweep_interval_minutes: int | None = None) -> Future[None]:
        """Delete expired items periodically, in a thread.

        Without a configuration of the time to live it does nothing. A sweeper that runs already is
        kept.

        Args:
            sweep_interval_minutes: Minutes between two deletions. By default those of the store's
                configuration, or else 5.

        Returns:
            A future that is done when the sweeper has ended. Cancelling it stops the sweeper.
        """
        config = self.ttl_config
        if not config:
            done: Future[None] = Future()
            done.set_result(None)
            return done
        if self._sweeper is None or self._sweeper.done.done():
            minutes = sweep_interval_minutes or config.get("sweep_interval_minutes") or 5
            sweep = partial(self._here, cast("Any", self.original).sweep_ttl)
            self._sweeper = _Sweeper(sweep, seconds=float(minutes) * 60)
        return self._sweeper.done

    async def stop_ttl_sweeper(self, timeout: float | None = None) -> bool:
        """Stop the sweeper; return whether it has ended, which is waited for.

        Args:
            timeout: Longest wait, in seconds.
        """
        if self._sweeper is None:
            return True
        self._sweeper.stop()
        return await self._sweeper.wait(timeout)

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        return self._here(partial(self.original.batch, [*ops]))

    def get(
        self, namespace: tuple[str, ...], key: str, *, refresh_ttl: bool | None = None
    ) -> Item | None:
        return self._here(partial(self.original.get, namespace, key, refresh_ttl=refresh_ttl))

    def search(
        self,
        namespace_prefix: tuple[str, ...],
        /,
        *,
        query: str | None = None,
        filter: dict[str, Any] | None = None,
        limit: int = 10,
        offset: int = 0,
        refresh_ttl: bool | None = None,
    ) -> list[SearchItem]:
        return self._here(
            partial(
                self.original.search,
                namespace_prefix,
                query=query,
                filter=filter,
                limit=limit,
                offset=offset,
                refresh_ttl=refresh_ttl,
            )
        )

    def put(
        self,
        namespace: tuple[str, ...],
        key: str,
        value: Mapping[str, Any],
        index: Literal[False] | list[str] | None = None,
        *,
        ttl: float | NotProvided | None = NOT_PROVIDED,
    ) -> None:
        self._here(partial(self.original.put, namespace, key, value, index, ttl=ttl))

    def delete(self, namespace: tuple[str, ...], key: str) -> None:
        self._here(partial(self.original.delete, namespace, key))

    def list_namespaces(
        self,
        *,
        prefix: NamespacePath | None = None,
        suffix: NamespacePath | None = None,
        max_depth: int | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[tuple[str, ...]]:
        return self._here(
            partial(
                self.original.list_namespaces,
                prefix=prefix,
                suffix=suffix,
                max_depth=max_depth,
                limit=limit,
                offset=offset,
            )
        )

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        operations = [*ops]
        batch = partial(self.original.batch, operations)
        if all(isinstance(op, _READS) for op in operations):
            return await self._read("batch", batch)
        return await self._write("batch", batch)

    async def aget(
        self, namespace: tuple[str, ...], key: str, *, refresh_ttl: bool | None = None
    ) -> Item | None:
        get = partial(self.original.get, namespace, key, refresh_ttl=refresh_ttl)
        return await self._read("get", get)

    async def asearch(
        self,
        namespace_prefix: tuple[str, ...],
        /,
        *,
        query: str | None = None,
        filter: dict[str, Any] | None = None,
        limit: int = 10,
        offset: int = 0,
        refresh_ttl: bool | None = None,
    ) -> list[SearchItem]:
        search = partial(
            self.original.search,
            namespace_prefix,
            query=query,
            filter=filter,
            limit=limit,
            offset=offset,
            refresh_ttl=refresh_ttl,
        )
        return await self._read("search", search)

    async def aput(
        self,
        namespace: tuple[str, ...],
        key: str,
        value: Mapping[str, Any],
        index: Literal[False] | list[str] | None = None,
        *,
        ttl: float | NotProvided | None = NOT_PROVIDED,
    ) -> None:
        await self._write("put", partial(self.original.put, namespace, key, value, index, ttl=ttl))

    async def adelete(self, namespace: tuple[str, ...], key: str) -> None:
        await self._write("delete", partial(self.original.delete, namespace, key))

    async def alist_namespaces(
        self,
        *,
        prefix: NamespacePath | None = None,
        suffix: NamespacePath | None = None,
        max_depth: int | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[tuple[str, ...]]:
        list_namespaces = partial(
            self.original.list_namespaces,
            prefix=prefix,
            suffix=suffix,
            max_depth=max_depth,
            limit=limit,
            offset=offset,
        )
        return await self._read("list_namespaces", list_namespaces)

    def _here(self, func: Callable[[], T]) -> T:
        return self._resource.calls.run_here(func)

    async def _read(self, name: str, func: Callable[[], T]) -> T:
        return await self._resource.calls.run(func, label=self._label(name), writes=False)

    async def _write(self, name: str, func: Callable[[], T]) -> T:
        return await self._resource.calls.run(func, label=self._label(name), writes=True)

    def _label(self, name: str) -> str:
        return f"{type(self.original).__name__}.{name}()"


def _check(store: BaseStore) -> None:
    if isinstance(store, ThreadedStore):
        raise TypeError("the store is a ThreadedStore already")


@final
class _Sweeper:
    """A thread that sweeps from time to time until it is stopped.

    Attributes:
        done: Done when the thread has ended. Cancelling it stops the thread.
    """

    __slots__ = ("_stopped", "_thread", "done")

    def __init__(self, sweep: Callable[[], object], *, seconds: float) -> None:
        self._stopped = threading.Event()
        self.done: Future[None] = Future()
        self.done.add_done_callback(lambda _: self._stopped.set())
        self._thread = threading.Thread(
            target=self._run, args=(sweep, seconds), name="langchain_anyio ttl-sweeper", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    async def wait(self, timeout: float | None) -> bool:
        """Wait for the thread to end; return whether it has."""
        limiter = anyio.CapacityLimiter(1)
        join = partial(self._thread.join, timeout)
        await anyio.to_thread.run_sync(join, abandon_on_cancel=True, limiter=limiter)
        return not self._thread.is_alive()

    def _run(self, sweep: Callable[[], object], seconds: float) -> None:
        while not self._stopped.wait(seconds):
            try:
                sweep()
            except anyio.ClosedResourceError:
                break
            except Exception:
                _logger.exception("expired items of a store could not be deleted")
        if self.done.set_running_or_notify_cancel():
            self.done.set_result(None)
