"""A client of httpx for another event loop has the same settings, and connections of its own."""

from __future__ import annotations

import importlib
import importlib.util
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from langchain_anyio._providers.httpx_clients import frozen, is_plain, on_this_loop
from loopback import Scenario

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from loopback import Endpoint, ProviderServer

pytest_plugins = ["loopback.fixtures"]

PACKAGES = [name for name in ("httpx", "httpx2") if importlib.util.find_spec(name)]
ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}

pytestmark = pytest.mark.anyio


@pytest.fixture(params=PACKAGES)
def httpx(request: pytest.FixtureRequest, no_certificates: None) -> ModuleType:
    return importlib.import_module(request.param)


def transport_of(client: Any) -> Any:
    """The transport that has the connections."""
    return client._transport._transport


async def ask(client: Any, endpoint: Endpoint) -> None:
    response = await client.post(f"{endpoint.openai_url}/chat/completions", json=ASKED)
    assert response.status_code == 200


async def test_settings_are_those_of_the_client(httpx: ModuleType) -> None:
    async def hook(request: Any) -> None:
        pass

    client = httpx.AsyncClient(
        base_url="http://localhost/v1",
        headers={"x-one": "1"},
        cookies={"a": "b"},
        auth=("user", "password"),
        params={"q": "1"},
        timeout=7.5,
        follow_redirects=True,
        max_redirects=3,
        event_hooks={"request": [hook]},
    )
    ours = on_this_loop(client)
    assert type(ours) is httpx.AsyncClient
    for name in (
        *("auth", "base_url", "cookies", "event_hooks", "follow_redirects", "headers"),
        *("max_redirects", "params", "timeout", "trust_env"),
    ):
        assert getattr(ours, name) == getattr(client, name), name


async def test_settings_of_the_connections_are_kept(httpx: ModuleType) -> None:
    limits = httpx.Limits(max_connections=7, max_keepalive_connections=3, keepalive_expiry=2.5)
    context = ssl.create_default_context()
    client = httpx.AsyncClient(verify=context, limits=limits, proxy="http://localhost:9")
    ours = on_this_loop(client, tls="mine")
    for one, other in (
        (client._transport, transport_of(ours)),
        (*client._mounts.values(), *(each._transport for each in ours._mounts.values())),
    ):
        assert other is not one
        assert type(other) is type(one)
        assert other._pool is not one._pool
        assert other._pool._connections is not one._pool._connections
        assert other._pool._requests is not one._pool._requests
        assert other._pool._network_backend is not one._pool._network_backend
        assert other._pool._ssl_context is context
        assert other._pool._max_connections == 7
        assert other._pool._max_keepalive_connections == 3
        assert other._pool._keepalive_expiry == 2.5


def test_it_works_on_each_loop_and_closes_with_it(
    httpx: ModuleType, run: Callable[..., Any], server: ProviderServer
) -> None:
    endpoint = server.serve(Scenario())
    client = httpx.AsyncClient()

    async def main() -> None:
        for _ in range(2):
            await ask(on_this_loop(client), endpoint)

    for _ in range(3):
        run(main)
    assert len(endpoint.connections) == 3  # on each loop, one connection was used twice
    for connection in endpoint.connections:
        assert connection.closed.wait_blocking()
    assert not client._transport._pool.connections


async def test_closing_it_leaves_the_connections_to_others(
    httpx: ModuleType, server: ProviderServer
) -> None:
    endpoint = server.serve(Scenario())
    client = httpx.AsyncClient()
    async with on_this_loop(client) as ours:
        await ask(ours, endpoint)
    assert ours.is_closed
    await ask(on_this_loop(client), endpoint)
    assert len(endpoint.connections) == 1


async def test_clients_with_equal_settings_share_connections(httpx: ModuleType) -> None:
    one = on_this_loop(httpx.AsyncClient(headers={"x-user": "1"}, timeout=1))
    other = on_this_loop(httpx.AsyncClient(headers={"x-user": "2"}, timeout=2))
    assert transport_of(one) is transport_of(other)
    assert one.headers["x-user"] == "1"


@pytest.mark.parametrize(
    "options",
    (
        {"limits": 1},
        {"http1": False, "http2": True},
        {"verify": False},
        {"proxy": "http://localhost:9"},
        {"proxy": "http://localhost:10"},
        {"proxy": "http://user:password@localhost:10"},
    ),
    ids=str,
)
async def test_clients_with_other_settings_do_not(
    httpx: ModuleType, options: dict[str, Any]
) -> None:
    if "limits" in options:
        options = {"limits": httpx.Limits(max_connections=options["limits"])}
    if "http2" in options and importlib.util.find_spec("h2") is None:
        pytest.skip("needs h2")
    default = on_this_loop(httpx.AsyncClient())
    ours = on_this_loop(httpx.AsyncClient(**options))
    proxies = [on_this_loop(httpx.AsyncClient(proxy=f"http://localhost:{n}")) for n in (11, 12)]
    for other in (default, *proxies):
        assert transport_of(ours) is not transport_of(other)


async def test_certificates_of_the_user_are_a_key_of_their_own(httpx: ModuleType) -> None:
    """They cannot be read back from a client."""
    one, other = (
        on_this_loop(httpx.AsyncClient(), tls={"cert": path}) for path in ("one.pem", "other.pem")
    )
    assert transport_of(one) is not transport_of(other)
    again = on_this_loop(httpx.AsyncClient(), tls={"cert": "one.pem"})
    assert transport_of(again) is transport_of(one)


async def test_what_is_not_as_known_is_left_alone(
    httpx: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transports of the user's own, and those of a release of httpx or httpcore that differs."""

    class Own(httpx.AsyncHTTPTransport):  # type: ignore[misc,name-defined]
        pass

    assert on_this_loop(httpx.AsyncClient(transport=Own())) is None
    mock = httpx.MockTransport(lambda request: httpx.Response(200))
    assert on_this_loop(httpx.AsyncClient(transport=mock)) is None
    assert on_this_loop(httpx.AsyncClient(mounts={"http://": Own()})) is None
    assert on_this_loop(object()) is None

    more = httpx.AsyncClient()
    more._transport._pool._more_state = {}
    assert on_this_loop(more) is None
    fewer = httpx.AsyncClient()
    del fewer._transport._pool._requests
    assert on_this_loop(fewer) is None
    renamed = httpx.AsyncClient()
    renamed.__dict__["_sender"] = renamed.__dict__.pop("_transport")
    assert on_this_loop(renamed) is None
    backend = httpx.AsyncClient()
    backend._transport._pool._network_backend = object()
    assert on_this_loop(backend) is None


async def test_one_that_is_closed_is_left_alone(httpx: ModuleType) -> None:
    """So that using it fails as before."""
    client = httpx.AsyncClient()
    await client.aclose()
    assert on_this_loop(client) is None


async def test_a_subclass_is_not_plain(httpx: ModuleType) -> None:
    class Own(httpx.AsyncClient):  # type: ignore[misc,name-defined]
        pass

    assert is_plain(httpx.AsyncClient())
    assert not is_plain(Own())
    assert not is_plain(None)
    # Packages derive clients that close themselves when they are collected.
    assert type(on_this_loop(Own())) is httpx.AsyncClient


def test_frozen() -> None:
    equal = {"verify": False, "headers": {"b": [1, 2], "a": None}}
    same = {"headers": {"a": None, "b": (1, 2)}, "verify": False}
    assert frozen(equal) == frozen(same)
    assert hash(frozen(equal)) == hash(frozen(same))
    assert frozen(True) != frozen(1)
    one: list[Any] = [set(), set()]
    assert frozen(one) == frozen(one)
    assert frozen([one[0]]) != frozen([one[1]])
