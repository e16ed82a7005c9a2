"""SDK clients, and resources of their API, whose streams are decoded by `streams`."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any, final

from typing_extensions import override

from langchain_anyio._providers.forwarding import Forwarding, ForwardingManager
from langchain_anyio._providers.views import ABSENT

from .streams import decoded

if TYPE_CHECKING:
    from collections.abc import Callable

_RESOURCES = frozenset({"beta", "chat", "completions", "messages", "responses"})


def decoding(show: Callable[[Any], Any] | None, stored: Any, *, raw_models: bool = False) -> Any:
    """Return the SDK client or API resource to show, whose streams are decoded.

    Args:
        show: Returns the client to decode, for the stored one.
        stored: The client that the model has.
        raw_models: Whether streams of raw responses, which are asked for because of their headers,
            keep the SDK's models.
    """
    client = stored if show is None else show(stored)
    return client if client is ABSENT or client is None else _Resource(client, raw_models)


class _Decoding(Forwarding):
    __slots__ = ("_raw_models",)

    def __init__(self, target: Any, raw_models: bool) -> None:
        super().__init__(target)
        self._raw_models = raw_models


@final
class _Resource(_Decoding):
    """An SDK client, or a resource of its API."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if name in _RESOURCES:
            return _Resource(value, self._raw_models)
        if name == "with_raw_response":
            return _RawResource(value, self._raw_models)
        if name == "create":
            return partial(_created, value)
        if name == "stream":
            return lambda *args, **kwargs: _StreamManager(value(*args, **kwargs))
        return value


async def _created(create: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return decoded(await create(*args, **kwargs))


@final
class _RawResource(_Decoding):
    """A resource whose methods return responses with their headers."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if name in _RESOURCES:
            return _RawResource(value, self._raw_models)
        if name == "create":
            return partial(self._created, value)
        return value

    async def _created(self, create: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return _RawResponse(await create(*args, **kwargs), self._raw_models)


@final
class _RawResponse(_Decoding):
    """A response with its headers."""

    __slots__ = ()

    def parse(self, **options: Any) -> Any:
        parsed = self._target.parse(**options)
        if inspect.isawaitable(parsed):
            return self._parsed(parsed)
        return decoded(parsed, models=self._raw_models)

    async def _parsed(self, parsed: Any) -> Any:
        return decoded(await parsed, models=self._raw_models)


@final
class _StreamManager(ForwardingManager):
    """A context manager whose stream is one of models, which reads the SDK's own stream."""

    __slots__ = ()

    @override
    def _entered(self, stream: Any) -> Any:
        decoded(getattr(stream, "_raw_stream", None), models=True)
        return stream
