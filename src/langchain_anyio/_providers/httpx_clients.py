"""HTTP clients of httpx on another event loop: the same settings, connections of their own.

The packages of many providers open an `httpx.AsyncClient` for each model. What was given to its
constructor cannot be read back from it, so its connection pool is copied without its connections.
The private names of httpx and httpcore stand in this module alone, for these and for httpx2 and
httpcore2, which have the same.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Hashable, Iterable
from typing import Any, Final, final

from .http_clients import loop_clients

# All attributes of a connection pool, so that state that is added by a later release of httpcore is
# not shared between event loops.
_OF_POOLS: Final = frozenset(
    {
        "_connections",
        "_http1",
        "_http2",
        "_keepalive_expiry",
        "_local_address",
        "_max_connections",
        "_max_keepalive_connections",
        "_network_backend",
        "_optional_thread_lock",
        "_proxy",
        "_proxy_auth",
        "_proxy_headers",
        "_proxy_ssl_context",
        "_proxy_url",
        "_requests",
        "_retries",
        "_socket_options",
        "_ssl_context",
        "_uds",
    }
)
_STATE_OF_POOLS: Final = frozenset(
    {"_connections", "_network_backend", "_optional_thread_lock", "_requests"}
)


def on_this_loop(http: Any, *, tls: Any = None) -> Any:
    """Return a client like `http`, with the connections of this loop.

    Headers, authentication, cookies, event hooks and timeouts are the client's own. Clients whose
    transports have the same settings share their connections, which are closed when the loop ends,
    not when the client is closed.

    Args:
        http: The client that the provider's package opened.
        tls: The user's settings for the certificates, by which clients with different ones do not
            share connections. A client does not show them.

    Returns:
        The client; `None` if `http` is closed, or its transport is not the default one of its
        package as it is known here.
    """
    cls = _public_class(http)
    if cls is None or http.is_closed:
        return None
    try:
        transports = http._transport, *http._mounts.values()
        key = cls, frozen(tls), *map(_settings_of, transports)
        opened = loop_clients().get(key, lambda: _Transports(transports))
        transport, *mounts = opened.borrowed
        state = {
            **vars(http),
            "_transport": transport,
            "_mounts": dict(zip(http._mounts, mounts, strict=True)),
            "_state": type(http._state).UNOPENED,
        }
    except (_UnknownError, AttributeError):
        return None
    # Not by the class of `http`, which may close the client when it is collected.
    copy = object.__new__(cls)
    copy.__dict__.update(state)
    return copy


def is_plain(http: Any) -> bool:
    """Return whether `http` is an `httpx.AsyncClient` itself, of no subclass."""
    return type(http) is _public_class(http)


def frozen(value: Any) -> Hashable:
    """Return a hashable stand-in for a user's settings, equal for equal settings."""
    if isinstance(value, dict):
        return tuple((key, frozen(value[key])) for key in sorted(value, key=repr))
    if isinstance(value, (list, tuple)):
        return tuple(map(frozen, value))
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return type(value), value


@final
class _Same:
    """A key that equals those of the same object only, and keeps it from being collected."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


class _UnknownError(Exception):
    """A transport or a connection pool is not as it is known here."""


@final
class _Transports:
    """The transports of a client and of its proxies, with connections of their own."""

    __slots__ = ("_own", "borrowed")

    def __init__(self, transports: Iterable[Any]) -> None:
        self._own = [None if each is None else _without_connections(each) for each in transports]
        self.borrowed = [None if each is None else _Borrowed(each) for each in self._own]

    async def aclose(self) -> None:
        for transport in self._own:
            if transport is not None:
                await transport.aclose()


@final
class _Borrowed:
    """A transport that stays open when a client that uses it is closed."""

    __slots__ = ("_transport",)

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    async def handle_async_request(self, request: Any) -> Any:
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        pass

    async def __aenter__(self) -> _Borrowed:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass


def _public_class(http: Any) -> Any:
    for base in type(http).__mro__:
        package = base.__module__.partition(".")[0]
        if package in {"httpx", "httpx2"}:
            return base if base is sys.modules[package].AsyncClient else None
    return None


def _pool_of(transport: Any) -> Any:
    package = type(transport).__module__.partition(".")[0]
    if package not in {"httpx", "httpx2"}:
        raise _UnknownError
    if type(transport) is not sys.modules[package].AsyncHTTPTransport:
        raise _UnknownError
    pool = transport._pool
    if vars(transport).keys() != {"_pool"} or not (
        _STATE_OF_POOLS <= vars(pool).keys() <= _OF_POOLS
    ):
        raise _UnknownError
    if type(pool._network_backend).__name__ != "AutoBackend":
        raise _UnknownError
    return pool


def _without_connections(transport: Any) -> Any:
    pool = _pool_of(transport)
    copy, copied = object.__new__(type(transport)), object.__new__(type(pool))
    copied.__dict__.update(
        vars(pool),
        _connections=[],
        _requests=[],
        _network_backend=type(pool._network_backend)(),
        _optional_thread_lock=type(pool._optional_thread_lock)(),
    )
    copy._pool = copied
    return copy


def _settings_of(transport: Any) -> Hashable:
    if transport is None:
        return None
    pool = _pool_of(transport)
    return type(pool), *(
        (name, _comparable(value))
        for name, value in vars(pool).items()
        if name not in _STATE_OF_POOLS
    )


def _comparable(value: Any) -> Hashable:
    if isinstance(value, ssl.SSLContext):
        # Its certificates cannot be compared; those that a user has set are a key of their own.
        return value.verify_mode, value.check_hostname, value.verify_flags, value.options
    if type(value).__module__.partition(".")[0] in {"httpcore", "httpcore2"}:  # an address, a proxy
        slots = getattr(value, "__dict__", {})
        return type(value), tuple((name, _comparable(each)) for name, each in slots.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(_comparable, value))
    return frozen(value)
