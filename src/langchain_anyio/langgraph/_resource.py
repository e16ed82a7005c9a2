"""A synchronous object that an asynchronous one wraps, opened and closed with a block."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Generic, TypeVar, cast, final

from ._calls import OrderedCalls

S = TypeVar("S")


@final
class Resource(Generic[S]):
    """The original of a threaded object, or the context manager that makes it.

    Args:
        given: The original, or a context manager of it. An original that is a context manager too
            is entered and left with the block.
        kind: The class of the original.
        check: Raises `TypeError` if an original cannot be used.
        wrapper: The name of the class that wraps it.
        max_threads: Number of calls that may be in progress at the same time.
    """

    __slots__ = ("_check", "_given", "_kind", "_original", "_state", "_wrapper", "calls")

    def __init__(
        self,
        given: S | AbstractContextManager[S],
        *,
        kind: type[S],
        check: Callable[[S], None],
        wrapper: str,
        max_threads: int,
    ) -> None:
        if isinstance(max_threads, bool) or not isinstance(max_threads, int) or max_threads < 1:
            raise ValueError(f"max_threads must be an int of at least 1, not {max_threads!r}")
        self._given = given
        self._kind = kind
        self._check = check
        self._wrapper = wrapper
        self._original: S | None = None
        self._state = "new"
        if isinstance(given, kind):
            check(given)
            self._original = given
        elif not hasattr(given, "__enter__"):
            asynchronous = hasattr(given, "__aenter__")
            raise TypeError(
                f"{wrapper} takes a synchronous {kind.__name__}, or a context manager of one, "
                f"not {type(given).__name__}"
                + ("; use the synchronous class of the same database" if asynchronous else "")
            )
        self.calls = OrderedCalls(
            wrapper if self._original is None else f"{wrapper}({type(given).__name__})", max_threads
        )

    @property
    def original(self) -> S:
        """The original.

        Raises:
            RuntimeError: It is made by a context manager, whose block has not been entered.
        """
        if self._original is None:
            raise RuntimeError(
                f"{self._wrapper} of a context manager is used before its block has been entered: "
                f"`async with {self._wrapper}(...) as ...:`"
            )
        return self._original

    async def open(self) -> None:
        """Enter the context manager, in a worker thread.

        Cancellation: takes effect at once. What the thread opens then is closed there.
        """
        if self._state != "new":
            raise RuntimeError(f"the block of a {self._wrapper} can be entered only once")
        self._state = "open"
        if not hasattr(self._given, "__enter__"):
            return
        manager = cast("AbstractContextManager[S]", self._given)
        lock = threading.Lock()
        abandoned = False
        made: S | None = None

        def enter() -> S:
            nonlocal made
            entered = manager.__enter__()
            with lock:
                if not abandoned:
                    made = entered
                    return entered
            manager.__exit__(None, None, None)
            return entered

        try:
            original = await self.calls.run(enter, label=f"opening a {self._wrapper}", writes=False)
            if self._original is None:
                if not isinstance(original, self._kind):
                    raise TypeError(
                        f"{self._wrapper} takes a context manager of a {self._kind.__name__}, "
                        f"not one of {type(original).__name__}"
                    )
                self._check(original)
        except BaseException as exc:
            with lock:
                abandoned = True
                opened = made is not None
            if opened:  # and not closed in the thread
                await self.close(type(exc), exc, exc.__traceback__)
            raise
        self._original = original

    async def close(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Refuse further calls, wait for those in progress, and leave the context manager.

        What the manager returns is ignored: it does not suppress the error of the block.
        """

        def leave() -> None:
            if hasattr(self._given, "__enter__"):
                cast("Any", self._given).__exit__(exc_type, exc, traceback)

        await self.calls.close(leave, label=f"closing a {self._wrapper}")
