"""Cheap checkpoints for a consumer whose next item is often ready."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from threading import get_ident
from typing import TYPE_CHECKING, final

import anyio
from anyio.lowlevel import current_token

from langchain_anyio._backends.waiters import MOVED, Waiter, waiters

if TYPE_CHECKING:
    from anyio.abc import AsyncBackend

# A task whose items are always ready lets other tasks run every so many steps.
STEPS_BETWEEN_YIELDS = 64

# Every so many steps, `take_longer()` replaces the plain check; a divisor of the above.
STEPS_CHECKED = 16


def raise_if_moved(error: BaseException) -> None:
    """Explain the error of a checkpoint or waiter that belongs to another event loop.

    Args:
        error: The exception that the checkpoint or waiter raised. Each backend reports a foreign
            event loop by its own `RuntimeError` or `TypeError`; nothing else raises these here.

    Raises:
        RuntimeError: `error` is such an exception; the message says what to do instead.
    """
    if isinstance(error, (RuntimeError, TypeError)):
        raise RuntimeError(MOVED) from error


@final
class ConsumerCheckpoints:
    """Checkpoints of one consumer, which stays on one event loop.

    anyio looks up its backend in each call, which costs as much as the checkpoint itself. Here it
    is looked up once.

    Attributes:
        backend: anyio's backend; `None` before `look_up()`.
        taken: Number of steps taken.
        make_waiter: Makes the awaitables that the consumer waits on; `None` before
            `look_up_waiters()`, which also sets the next two.
        loop: Token of the event loop that the consumer runs on.
        thread: Identifier of the event loop's thread.
    """

    __slots__ = ("backend", "loop", "make_waiter", "taken", "thread")

    def __init__(self) -> None:
        self.backend: type[AsyncBackend] | None = None
        self.taken: int = 0
        self.make_waiter: Callable[[], Waiter] | None = None
        self.loop: object = None
        self.thread: int = 0

    async def take(self, *, ready: bool = True) -> None:
        """Execute the checkpoint of the next step.

        Every step checks for cancellation. The first and every 64th also let other tasks run;
        without the first, a task that reads many short projections would never do so.

        Args:
            ready: Whether the next item is there. If not, the wait itself lets other tasks run.

        Raises:
            RuntimeError: The consumer has moved to another event loop.
        """
        backend, taken = self.backend or self.look_up(), self.taken
        try:
            if not (taken % STEPS_CHECKED) and (ready or taken):
                await self.take_longer()
            else:
                self.taken = taken + 1
                await backend.checkpoint_if_cancelled()
        except Exception as exc:
            raise_if_moved(exc)
            raise

    def take_longer(self) -> Awaitable[None]:
        """Return the checkpoint of the first step, or of one in `STEPS_CHECKED`."""
        backend, taken = self.backend or self.look_up(), self.taken
        self.taken = taken + 1
        if taken == STEPS_CHECKED:
            # On asyncio, anyio's check raises and catches a KeyError in a task that was never in a
            # cancel scope, which costs more than the rest of the step. Entering a scope avoids it.
            with anyio.CancelScope():  # noqa: ASYNC100 - it cancels nothing
                pass
        if taken % STEPS_BETWEEN_YIELDS:
            return backend.checkpoint_if_cancelled()
        return backend.checkpoint()

    def look_up_waiters(self) -> Callable[[], Waiter]:
        """Return the factory of the awaitables that the consumer waits on.

        Raises:
            RuntimeError: The consumer has moved to another backend.
        """
        self.loop = self.current_loop()
        if self.loop is None:
            raise RuntimeError(MOVED)
        self.thread = get_ident()
        self.make_waiter = waiters()
        return self.make_waiter

    def check_loop(self, loop: object) -> None:
        """Raise unless the caller runs on `loop`, given by its token.

        Raises:
            RuntimeError: The caller runs on another event loop.
        """
        if self.current_loop() is not loop:
            raise RuntimeError(MOVED)

    def current_loop(self) -> object:
        """Return the token of the caller's event loop; `None` if its backend has changed."""
        try:
            return (self.backend or self.look_up()).current_token()
        except RuntimeError:
            return None

    def look_up(self) -> type[AsyncBackend]:
        """Look up anyio's backend for the running event loop, and return it."""
        self.backend = current_token().backend_class
        return self.backend
