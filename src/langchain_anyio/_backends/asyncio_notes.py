"""Notes on the errors of packages that use asyncio on trio."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, cast

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup  # type: ignore[import-not-found,unused-ignore]

libraries: Final[set[str]] = set()
"""The packages and modules that `enable_trio()` covers now."""

# The beginnings of the messages of `RuntimeError`s that say that no asyncio loop is running: those
# of asyncio itself, and of aiohttp, which asks for a task of asyncio.
_MESSAGES: Final = (
    "no running event loop",
    "no current event loop",
    "There is no current event loop",
    "Timeout context manager should be used inside a task",
    "Timeout should be used inside a task",
)

# Packages whose connections are asyncio's own transports and sockets.
_BUILT_ON_ASYNCIO: Final = frozenset(
    {
        "aiobotocore",
        "aiohttp",
        "aiokafka",
        "aiomysql",
        "aioredis",
        "aiosqlite",
        "asyncpg",
        "grpc",
        "motor",
        "psycopg",
        "psycopg_pool",
        "pymongo",
        "redis",
        "tornado",
        "websockets",
    }
)

# They run what others call, on either backend.
_PASSED_BY: Final = frozenset(
    {"anyio", "exceptiongroup", "langchain_anyio", "outcome", "sniffio", "trio"}
)


def note_use_of_asyncio(error: BaseException) -> None:
    """Add a note to an error that a package's use of asyncio has caused on trio.

    Such an error is a `RuntimeError` that says that no event loop is running, or one that it is the
    cause of. The note names the package that the traceback shows, and the way out. Any other error
    is left as it is; one that has the note does not get it again.

    Args:
        error: An error that is about to be raised to the user. Those in a group get notes of their
            own.
    """
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("tuple[BaseException, ...]", error.exceptions):
            note_use_of_asyncio(inner)
        return
    for cause in _with_causes(error):
        if isinstance(cause, RuntimeError) and str(cause).startswith(_MESSAGES):
            note = _note(cause.__traceback__)
            if note is not None and note not in getattr(error, "__notes__", ()):
                _add_note(error, note)
            return


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that a traceback would show with it, except those in groups."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        shown = None if current.__suppress_context__ else current.__context__
        current = current.__cause__ or shown


def _note(traceback: TracebackType | None) -> str | None:
    modules = _modules(traceback)
    if not modules:
        return None
    module = modules[-1]
    package = module.partition(".")[0]
    callers = [name.partition(".")[0] for name in modules if name.partition(".")[0] != package]
    via = f", which {callers[-1]} uses," if callers and callers[-1] != "__main__" else ""
    if package in _BUILT_ON_ASYNCIO or _is_covered(module):
        return (
            f"{package}{via} needs asyncio's event loop and does not work on trio; use another "
            "client, or the synchronous methods, in a worker thread"
        )
    return f'{package}{via} uses asyncio: for trio, call langchain_anyio.enable_trio("{package}")'


def _modules(traceback: TracebackType | None) -> list[str]:
    """Return the names of the modules in a traceback that are neither Python's nor ours."""
    names = []
    while traceback is not None:
        name = traceback.tb_frame.f_globals.get("__name__")
        if isinstance(name, str):
            package = name.partition(".")[0]
            if package not in sys.stdlib_module_names and package not in _PASSED_BY:
                names.append(name)
        traceback = traceback.tb_next
    return names


def _is_covered(module: str) -> bool:
    while module:
        if module in libraries:
            return True
        module = module.rpartition(".")[0]
    return False


def _add_note(error: BaseException, note: str) -> None:
    if sys.version_info >= (3, 11):
        error.add_note(note)
    else:
        # exceptiongroup, which anyio requires there, prints these as later Pythons do.
        noted = cast("Any", error)
        noted.__notes__ = [*getattr(error, "__notes__", ()), note]
