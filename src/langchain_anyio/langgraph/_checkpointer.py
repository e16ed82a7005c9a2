"""A synchronous checkpointer made asynchronous."""

from __future__ import annotations

import builtins
import copy
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, final

from anyio.lowlevel import checkpoint_if_cancelled
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from typing_extensions import Self

from ._resource import Resource

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import (
        ChannelVersions,
        Checkpoint,
        CheckpointMetadata,
        DeltaChannelHistory,
    )

T = TypeVar("T")


@final
class ThreadedCheckpointSaver(BaseCheckpointSaver[Any]):
    """A synchronous checkpointer made asynchronous by worker threads, on asyncio and on trio.

    The asynchronous methods call the synchronous ones of the original in worker threads of this
    object's own, in a copy of the caller's context. Calls are made one after another, in the order
    in which they were asked for, so that a connection is used by one thread at a time. The
    synchronous methods make their calls in the current thread, and wait for their turn among the
    others. It may be used on several event loops, of either backend, at the same time.

    Cancellation: a call that has not begun is never made. A write that has begun runs to its end in
    its thread; its cancelled caller waits for that, for up to 5 seconds, and if it fails gets its
    error instead of the cancellation. After 5 seconds a `ResourceWarning` names the call, which
    goes on in its thread. A read that has begun is abandoned at once, and its result is dropped;
    later calls wait until its thread has ended.

    As an async context manager it enters and leaves the context manager that it was given, in
    worker threads. At the end of the block it refuses further calls with
    `anyio.ClosedResourceError`, waits for those in progress, and then closes. A checkpointer that
    was given itself needs no block, and whoever opened its connection closes it.

    Args:
        saver: A synchronous checkpointer, or a context manager of one, such as
            `SqliteSaver.from_conn_string(...)`. A connection of sqlite3's needs
            `check_same_thread=False`, which `from_conn_string` sets.
        max_threads: Number of calls that may be in progress at the same time. More than one is for
            a checkpointer that is thread-safe and keeps no lock of its own, such as one with a
            connection pool: calls still begin in order, but may overlap.

    Raises:
        TypeError: `saver` is no synchronous checkpointer.
        ValueError: `max_threads` is less than 1.

    Example:
        ```python
        async with ThreadedCheckpointSaver(SqliteSaver.from_conn_string("runs.sqlite")) as saver:
            agent = create_agent(model, tools, checkpointer=saver)
            await agent.ainvoke(input, {"configurable": {"thread_id": "1"}})
        ```
    """

    def __init__(
        self,
        saver: BaseCheckpointSaver[Any] | AbstractContextManager[BaseCheckpointSaver[Any]],
        *,
        max_threads: int = 1,
    ) -> None:
        self._resource: Resource[BaseCheckpointSaver[Any]] = Resource(
            saver,
            kind=BaseCheckpointSaver,
            check=_check,
            wrapper=type(self).__name__,
            max_threads=max_threads,
        )
        self._derived: BaseCheckpointSaver[Any] | None = None

    @property
    def original(self) -> BaseCheckpointSaver[Any]:
        """The synchronous checkpointer.

        Raises:
            RuntimeError: The block of the context manager that makes it has not been entered.
        """
        return self._resource.original if self._derived is None else self._derived

    async def __aenter__(self) -> Self:
        await self._resource.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._resource.close(exc_type, exc, traceback)

    async def setup(self) -> None:
        """Create the tables of the database, where the checkpointer has a method for that."""
        await self._write("setup", cast("Any", self.original).setup)

    @property
    def serde(self) -> Any:
        """The serializer of the original."""
        return self.original.serde

    @serde.setter
    def serde(self, serde: Any) -> None:
        self.original.serde = serde

    @property
    def config_specs(self) -> builtins.list[Any]:
        return self.original.config_specs

    def get_next_version(self, current: Any, channel: None) -> Any:
        return self.original.get_next_version(current, channel)

    def with_allowlist(
        self, extra_allowlist: Collection[tuple[str, ...]]
    ) -> BaseCheckpointSaver[Any]:
        original = self.original.with_allowlist(extra_allowlist)
        if original is self.original:
            return self
        clone = copy.copy(self)
        clone._derived = original
        return clone

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return self._here(partial(self.original.get_tuple, config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        original = self.original

        def read() -> builtins.list[CheckpointTuple]:
            return [*original.list(config, filter=filter, before=before, limit=limit)]

        return iter(self._here(read))

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return self._here(
            partial(self.original.put, config, checkpoint, metadata, new_versions),
        )

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        self._here(partial(self.original.put_writes, config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        self._here(partial(self.original.delete_thread, thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        self._here(partial(self.original.delete_for_runs, run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        self._here(partial(self.original.copy_thread, source_thread_id, target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        self._here(partial(self.original.prune, thread_ids, strategy=strategy))

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return self._here(
            partial(self.original.get_delta_channel_history, config=config, channels=channels)
        )

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return await self._read("get_tuple", partial(self.original.get_tuple, config))

    def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """List checkpoints, newest first.

        The first step reads them all, up to `limit`, so that no lock or cursor is held from one
        step to the next: the loop that lists checkpoints may write some.
        """
        original = self.original
        abandoned = False

        async def read() -> builtins.list[CheckpointTuple]:
            nonlocal abandoned
            try:
                return await self._read("list", read_in_thread)
            except BaseException:
                abandoned = True
                raise

        def read_in_thread() -> builtins.list[CheckpointTuple]:
            items = []
            for item in original.list(config, filter=filter, before=before, limit=limit):
                if abandoned:
                    break
                items.append(item)
            return items

        return _Listed(read)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return await self._write(
            "put", partial(self.original.put, config, checkpoint, metadata, new_versions)
        )

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        await self._write(
            "put_writes", partial(self.original.put_writes, config, writes, task_id, task_path)
        )

    async def adelete_thread(self, thread_id: str) -> None:
        await self._write("delete_thread", partial(self.original.delete_thread, thread_id))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        await self._write("delete_for_runs", partial(self.original.delete_for_runs, run_ids))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        copying = partial(self.original.copy_thread, source_thread_id, target_thread_id)
        await self._write("copy_thread", copying)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        pruning = partial(self.original.prune, thread_ids, strategy=strategy)
        await self._write("prune", pruning)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        reading = partial(self.original.get_delta_channel_history, config=config, channels=channels)
        return await self._read("get_delta_channel_history", reading)

    def _here(self, func: Callable[[], T]) -> T:
        return self._resource.calls.run_here(func)

    async def _read(self, name: str, func: Callable[[], T]) -> T:
        return await self._resource.calls.run(func, label=self._label(name), writes=False)

    async def _write(self, name: str, func: Callable[[], T]) -> T:
        return await self._resource.calls.run(func, label=self._label(name), writes=True)

    def _label(self, name: str) -> str:
        return f"{type(self.original).__name__}.{name}()"


def _check(saver: BaseCheckpointSaver[Any]) -> None:
    if isinstance(saver, ThreadedCheckpointSaver):
        raise TypeError("the checkpointer is a ThreadedCheckpointSaver already")
    if type(saver).get_tuple is BaseCheckpointSaver.get_tuple:
        raise TypeError(
            f"{type(saver).__name__} has no synchronous methods; "
            "use the synchronous class of the same database"
        )


@final
class _Listed(Generic[T]):
    """An async iterator over a list that its first step reads."""

    __slots__ = ("_items", "_read")

    def __init__(self, read: Callable[[], Awaitable[builtins.list[T]]]) -> None:
        self._read = read
        self._items: Iterator[T] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if self._items is None:
            self._items = iter(await self._read())
        else:
            await checkpoint_if_cancelled()
        for item in self._items:
            return item
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._items = iter(())
