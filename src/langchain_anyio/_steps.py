"""Checkpoints for those who find what they ask for ready, again and again."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, final

import anyio
from anyio.lowlevel import current_token

if TYPE_CHECKING:
    from anyio.abc import AsyncBackend

# A task that finds all it asks for ready gives way to others once in so many steps.
STEPS_BETWEEN_YIELDS = 64


@final
class Steps:
    """The steps of one consumer, which takes all of them on one event loop.

    anyio looks its backend up at each call, which takes as long as the checkpoint itself; here it is looked
    up once.
    """

    __slots__ = ("_backend", "_taken")

    def __init__(self) -> None:
        self._backend: type[AsyncBackend] | None = None
        self._taken = 0

    @property
    def backend(self) -> type[AsyncBackend]:
        """The backend that the consumer runs on."""
        if self._backend is None:
            self._backend = current_token().backend_class
        return self._backend

    def take(self) -> Awaitable[None]:
        """Return a checkpoint; the first one and every 64th give way to other tasks too."""
        taken = self._taken
        self._taken = taken + 1
        backend = self._backend or self.backend
        # The first does, or a task that reads many short projections would not.
        if taken % STEPS_BETWEEN_YIELDS:
            return backend.checkpoint_if_cancelled()
        return backend.checkpoint()

    def make_event(self) -> anyio.Event:
        """Make an event on the consumer's backend."""
        return (self._backend or self.backend).create_event()
