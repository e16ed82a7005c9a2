"""The event loop that runs, to be called from any thread and from finalizers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


if sys.version_info < (3, 11):
    pass  # type: ignore[import-not-found,unused-ignore]
from .current import backend
from .tasks import contained_call, keep_task, kept_tasks


class Loop:
    """The event loop that was running when this object was made.

    `call_soon()` may be called from any thread, at any time, even after the loop has ended.
    """

    __slots__ = ("_context", "_kept", "token")

    def __init__(self) -> None:
        # Calls run in this context, not in the caller's, which may be that of another backend.
        self._context = copy_context()
        self._kept: set[asyncio.Future[None]] | None = None
        self.token: Any
        if backend() == "trio":
            import trio

            self.token = trio.lowlevel.current_trio_token()
        else:
            import asyncio

            self._kept = kept_tasks()
            self.token = asyncio.get_running_loop()

    def call_soon(self, func: Callable[[], object]) -> bool:
        """Make the loop call `func`; return whether the loop still takes calls.

        Exceptions that `func` raises are logged. On asyncio, `KeyboardInterrupt` and `SystemExit`
        end the loop, as from any callback.
        """
        try:
            if self._kept is None:
                self.token.run_sync_soon(self._context.run, contained_call, func)
            else:
                self.token.call_soon_threadsafe(self._call_in_task, func, context=self._context)
        except RuntimeError:  # closed asyncio loop, or trio.RunFinishedError
            return False
        return True

    def _call_in_task(self, func: Callable[[], object]) -> None:
        # In a task, because anyio does not know its backend in every callback.
        async def call() -> None:
            func()

        assert self._kept is not None
        keep_task(self._kept, call(), "langchain_anyio call")

    def is_current(self) -> bool:
        """Return whether the caller runs on this loop, in a task or in a callback."""
        try:
            running = backend()
        except RuntimeError:
            running = "asyncio"
        try:
            if running == "trio":
                import trio

                return trio.lowlevel.current_trio_token() is self.token
            import asyncio

            return asyncio.get_running_loop() is self.token
        except RuntimeError:
            return False


def from_finalizer() -> Callable[[Callable[[], object]], object]:
    """Return a function that makes the running event loop call another function soon.

    It may be called from anywhere, including finalizers. The other function runs outside of any
    task, and is not called if the loop has ended.
    """
    call_soon: Callable[[Callable[[], object]], object]
    if backend() == "trio":
        import trio

        call_soon = trio.lowlevel.current_trio_token().run_sync_soon
    else:
        import asyncio

        call_soon = asyncio.get_running_loop().call_soon_threadsafe

    def call(func: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # closed asyncio loop, or trio.RunFinishedError
            call_soon(func)

    return call
