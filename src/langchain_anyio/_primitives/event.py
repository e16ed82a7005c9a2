"""`Event`, a port of `asyncio.Event`, which LangChain's handlers expose."""

from __future__ import annotations

from typing import Literal, final

from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from .wakeup import Wakeup


@final
class Event:
    """A flag that tasks can wait for, and that can be cleared.

    A waiter woken by `set()` returns even if `clear()` is called before it runs. An event can be
    created outside of an event loop and used on one loop after another, but all tasks that use it
    at the same time must run on one event loop.

    Ports `asyncio.Event`, the type of `done` in
    `langchain_classic.callbacks.AsyncIteratorCallbackHandler`.
    """

    __slots__ = ("_flag", "_wakeup")

    def __init__(self) -> None:
        self._flag = False
        self._wakeup = Wakeup()

    def is_set(self) -> bool:
        """Return whether the flag is set."""
        return self._flag

    def set(self) -> None:
        """Set the flag and wake every waiter.

        Raises:
            RuntimeError: Tasks of another thread wait. The flag is unchanged.
        """
        self._wakeup.fire()
        self._flag = True

    def clear(self) -> None:
        """Unset the flag; waiters already woken still return."""
        self._flag = False

    async def wait(self) -> Literal[True]:
        """Wait until the flag is set; always a checkpoint.

        Cancellation: the event is unchanged.

        Returns:
            `True`, as `asyncio.Event.wait` does.
        """
        # On asyncio, a task woken in the same loop iteration in which its scope is cancelled would
        # return normally.
        await checkpoint_if_cancelled()
        if self._flag:
            await checkpoint()
        else:
            await self._wakeup.wait()
        return True


Event.__module__ = "langchain_anyio"
