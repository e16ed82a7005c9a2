"""The HTTP clients of each event loop, opened when first used and closed when the loop ends.

The packages of providers keep one HTTP client per process or per model. Its pooled connections
belong to the event loop that opened them, so they break on the next loop, of either backend.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, final

import anyio
from anyio.lowlevel import RunVar

from langchain_anyio._backends import limits
from langchain_anyio._backends.event_loops import Loop

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable
    from types import ModuleType

    from langchain_core.language_models import BaseChatModel


@final
class LoopClients:
    """The HTTP clients of one event loop, closed when it ends."""

    __slots__ = ("_closing", "_keeper", "_open")

    def __init__(self) -> None:
        self._open: dict[Hashable, Any] = {}
        self._closing = AsyncExitStack()
        # When an event loop ends, it closes the async generators that were first iterated over on
        # it and still exist. The loop starts this one itself, because the caller may run under a
        # watcher of generators, such as a stream that closes those of its model.
        self._keeper: AsyncGenerator[None, None] | None = self._close_at_the_end()
        Loop().call_soon(self._begin)

    def _begin(self) -> None:
        assert self._keeper is not None
        try:
            self._keeper.__anext__().send(None)  # awaits nothing before its `yield`
        except StopIteration:
            pass

    async def _close_at_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            # The value of a RunVar must not refer to its loop, or neither is ever collected.
            # Clients do, through their connections, and so do generators, through the loop's
            # finalizer hook.
            self._open.clear()
            self._keeper = None
            # trio runs this in a cancelled scope.
            with anyio.move_on_after(limits.CLEANUP_SECONDS, shield=True):
                await self._closing.aclose()

    def get(self, key: Hashable, open_client: Callable[[], Any]) -> Any:
        """Return the client with this key, opened if there is none yet."""
        if key not in self._open:
            client = open_client()
            self._closing.push_async_callback(client.aclose)
            self._open[key] = client
        return self._open[key]

    def are_current(self) -> bool:
        """Return whether the caller runs on the event loop of these clients."""
        try:
            return _clients.get(None) is self
        except RuntimeError:  # no event loop runs here
            return False


_clients: RunVar[LoopClients] = RunVar("langchain_anyio_http_clients")


def loop_clients() -> LoopClients:
    """Return the HTTP clients of the running event loop."""
    try:
        return _clients.get()
    except LookupError:
        clients = LoopClients()
        _clients.set(clients)
        return clients


def http_client_of(sdk: Any) -> Any:
    """Return the HTTP client of an SDK client, which has no public name for it."""
    return getattr(sdk, "_client", None)


def is_default(http: Any, sdk: ModuleType, model: BaseChatModel, plain: type) -> bool:
    """Return whether an HTTP client is one that the provider's packages opened themselves.

    Theirs are of private subclasses of the class that their SDK offers to users. The plain models
    open their clients themselves; models derived from them may leave that to the SDK. With a plain
    model, a client opened by the SDK therefore came with the user's own SDK client.
    """
    public, own = sdk.DefaultAsyncHttpxClient, type(http)
    if not isinstance(http, public) or own is public:
        return False
    package = own.__module__.partition(".")[0]
    return package == f"langchain_{sdk.__name__}" or (
        package == sdk.__name__ and type(model) is not plain
    )


def settings_of(http: Any) -> tuple[Any, ...]:
    """Return the settings of an HTTP client with which models can share one."""
    return type(http), str(http.base_url), tuple(sorted(http.timeout.as_dict().items()))


def instead(theirs: Any, ours: Any, stored: Any) -> Any:
    """Return `ours` in place of `theirs`; return anything that was stored since unchanged."""
    return ours if stored is theirs else stored
