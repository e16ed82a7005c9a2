"""Objects that stand in front of parts of an SDK, and forward what they do not define."""

from __future__ import annotations

from typing import Any


class Forwarding:
    """Forwards every attribute that is not defined here to the target."""

    __slots__ = ("_target",)

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


class ForwardingManager(Forwarding):
    """A context manager that sends its request on entering and gives a stream."""

    __slots__ = ()

    async def __aenter__(self) -> Any:
        return self._entered(await self._target.__aenter__())

    def _entered(self, stream: Any) -> Any:
        """Return the stream to give."""
        return stream

    async def __aexit__(self, *exc_info: object) -> Any:
        return await self._target.__aexit__(*exc_info)
