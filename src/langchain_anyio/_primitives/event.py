"""`Event`, the port of `asyncio.Event` as LangChain's handlers expose it."""

from __future__ import annotations

from typing import Literal, final

from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from .wakeup import Wakeup


@final
class Event:
    """A flag that tasks wait for, and that can be cleared again.

    A waiter that was woken by `set()` returns even if `clear()` follows before it runs. It may be made
    outside of an event loop, and used on one loop after another. All tasks that use it at a time run on
    one event loop.

    Ports `asyncio.Event`, which `langchain_classic.callbacks.AsyncIteratorCallbackHandler` has as `done`.
    """

    __slots__ = ("_flag", "_wakeup")

    def __init__(self) -> None:
        self._flag = False
        self._wakeup = Wakeup()

    def is_set(self) -> bool:
        """Tell whether the flag is set."""
        return self._flag

    def set(self) -> None:
        """Set the flag and wake every waiter.

        Raises:
            RuntimeError: Tasks of another thread wait; the flag is as it was.
        """
        self._wakeup.fire()
        self._flag = True

    def clear(self) -> None:
        """Unset the flag; who was woken already returns all the same."""
        self._flag = False

    async def wait(self) -> Literal[True]:
        """Wait until the flag is set; a checkpoint also if it is set already.

        Cancellation: leaves nothing behind.

        Returns:
            `True`, as `asyncio.Event.wait` does.
        """
        # On asyncio a task that is woken in the turn in which its scope is cancelled goes on.
        await checkpoint_if_cancelled()
        if self._flag:
            await checkpoint()
        else:
            await self._wakeup.wait()
        return True


Event.__module__ = "langchain_anyio"
