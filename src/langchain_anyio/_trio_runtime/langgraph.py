"""Namespaces and wrappers for code of langgraph that needs more than the common namespace."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, final

from .asyncio_api.combinators import shield
from .asyncio_api.synchronization import PatientCondition
from .namespace import Namespace
from .running_backend import on_trio

# By the names of the modules.
NAMESPACES_OF_LANGGRAPH: Final = {
    # Below Python 3.11, langgraph takes a current task for one that cannot have been given a
    # context. On trio it can.
    "langgraph.config": Namespace({"current_task": lambda: None}),
    # Its pump acquires the lock of its condition again after it was cancelled.
    "langgraph.stream.run_stream": Namespace({"Condition": PatientCondition}),
}


def _exiting_to_the_end(function: Callable[..., Any]) -> Callable[..., Any]:
    """Shield the exit of a run on trio.

    It stops the nodes of the run and writes its last checkpoint, and relies on being cancelled once
    at most.
    """

    @functools.wraps(function)
    async def __aexit__(self: Any, *exc_info: Any) -> Any:  # noqa: N807
        if not on_trio():
            return await function(self, *exc_info)
        return await shield(self.stack.__aexit__(*exc_info))

    return __aexit__


def _submitting_writes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let the writes of a run finish on trio when the run is left.

    These are the tasks that are submitted without `__cancel_on_exit__`.
    """

    @functools.wraps(function)
    def submit(*args: Any, **kwargs: Any) -> Any:
        task = function(*args, **kwargs)
        if on_trio():
            task.finishes = not kwargs.get("__cancel_on_exit__", False)
        return task

    return submit


def _for_the_run(function: Callable[..., None]) -> Callable[..., None]:
    """Make a store's task belong to the run on trio.

    It serves all the calls that use the store, so it belongs to none of them.
    """

    @functools.wraps(function)
    def ensure_task(self: Any) -> None:
        before = self._task
        function(self)
        if on_trio() and self._task is not before:
            self._task.detach()

    return ensure_task


@final
class _AlsoOnTrio:
    """A flag of a module that says whether Python has a feature, with a fixed value on trio."""

    __slots__ = ("__weakref__", "_on_asyncio", "_on_trio")

    def __init__(self, on_asyncio: bool, *, on_trio: bool) -> None:
        self._on_asyncio = on_asyncio
        self._on_trio = on_trio

    def __bool__(self) -> bool:
        return self._on_trio if on_trio() else self._on_asyncio


_contexts = functools.partial(_AlsoOnTrio, on_trio=True)
_no_contexts = functools.partial(_AlsoOnTrio, on_trio=False)


def _refused(way_out: str) -> Callable[[Any], Any]:
    def wrap(function: Any) -> Any:
        is_class_method = isinstance(function, classmethod)
        inner = function.__func__ if is_class_method else function

        @functools.wraps(inner)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if on_trio():
                cls = self if is_class_method else type(self)
                raise RuntimeError(
                    f"{cls.__module__}.{cls.__qualname__} does not work on trio: its database "
                    f"driver needs asyncio; {way_out}"
                )
            return inner(self, *args, **kwargs)

        return classmethod(call) if is_class_method else call

    return wrap


_SAVER: Final = "ThreadedCheckpointSaver"
_STORE: Final = "ThreadedStore"

# By qualified name.
WRAPPERS_OF_LANGGRAPH: Final[dict[str, Callable[[Any], Any]]] = {
    "langgraph._internal._future.CONTEXT_NOT_SUPPORTED": _no_contexts,
    "langgraph._internal._runnable.ASYNCIO_ACCEPTS_CONTEXT": _contexts,
    "langgraph.pregel._executor.AsyncBackgroundExecutor.submit": _submitting_writes,
    "langgraph.pregel._executor.CONTEXT_NOT_SUPPORTED": _no_contexts,
    "langgraph.pregel._loop.AsyncPregelLoop.__aexit__": _exiting_to_the_end,
    "langgraph.store.base.batch.AsyncBatchedBaseStore._ensure_task": _for_the_run,
    **{
        f"langgraph.{module}.{cls}.{method}": _refused(
            f"use langchain_anyio.langgraph.{wrapper} with the synchronous {other}"
        )
        for module, cls, wrapper, other in (
            ("checkpoint.mysql.aio", "AIOMySQLSaver", _SAVER, "PyMySQLSaver"),
            ("checkpoint.postgres.aio", "AsyncPostgresSaver", _SAVER, "PostgresSaver"),
            ("checkpoint.sqlite.aio", "AsyncSqliteSaver", _SAVER, "SqliteSaver"),
            ("store.postgres.aio", "AsyncPostgresStore", _STORE, "PostgresStore"),
            ("store.sqlite.aio", "AsyncSqliteStore", _STORE, "SqliteStore"),
        )
        for method in ("__init__", "from_conn_string")
    },
}
