"""Provider models whose HTTP client belongs to the running event loop.

langchain-openai and langchain-anthropic keep one HTTP client per process and base address. Its
pooled connections belong to the event loop that opened them, so they break on the next loop, of
either backend. Besides, `ChatOpenAI` limits the wait for each chunk with `asyncio.wait_for`. This
module makes a view of the model, with a client of the running event loop and a time limit that
works on every backend. Attributes that the model sets on itself in a call are set on the user's
object.

Private names of the providers' packages are used in this module alone. Where they are not as
expected, the model runs unchanged. No provider is imported: a model of one exists only if its
package has been imported already.
"""

from __future__ import annotations

import logging
import sys
from contextlib import AsyncExitStack
from functools import cache, partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, cast, final

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from langchain_anyio._backends.current import backend
from langchain_anyio._backends.event_loops import Loop
from langchain_anyio._langchain_core import needs_asyncio

from .views import ABSENT, is_view, mixin_of, view_of, viewed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable
    from types import ModuleType

    from langchain_core.language_models import BaseChatModel

CLOSING_SECONDS: Final = 5.0


def for_current_loop(model: BaseChatModel) -> BaseChatModel:
    """Return the model to run on the current event loop: the same object, or a view of it.

    A model of OpenAI or Anthropic that uses its default HTTP client runs in a view, which shares
    all of its state except the clients (see `views.view_of`). The view's SDK client has an HTTP
    client with the same address, timeout, proxy and socket options. All such models on this event
    loop share that HTTP client, which is closed when the loop ends. A client that the user supplied
    is used as it is. `ChatOpenAI.stream_chunk_timeout` holds on every backend, even with a client
    that the user supplied; it closes the connection and raises
    `langchain_openai.StreamChunkTimeoutError`.

    Call this in a task of the event loop, once for each run, so that the clients have the model's
    settings of that time. It is not a checkpoint. Opening a client, when its settings are first
    used, takes about 20 milliseconds, nearly all of them for TLS certificates. Clients, one for
    each combination of settings, stay open until the loop ends, as the originals stay open until
    the process ends.

    Args:
        model: Any chat model. Its clients are never changed.
    """
    if is_view(model):
        return model
    model = viewed(model)  # it may be a view made on another loop
    openai_models = sys.modules.get("langchain_openai.chat_models.base")
    if openai_models is not None and isinstance(model, openai_models.BaseChatOpenAI):
        return _openai_for_current_loop(model)
    anthropic_models = sys.modules.get("langchain_anthropic.chat_models")
    if anthropic_models is not None and isinstance(model, anthropic_models.ChatAnthropic):
        return _anthropic_for_current_loop(model)
    return model


def embeddings_for_current_loop(embeddings: Any) -> Any:
    """Return the embeddings to use on the current event loop, like `for_current_loop`.

    Only `OpenAIEmbeddings` get a view.
    """
    openai_embeddings = sys.modules.get("langchain_openai.embeddings.base")
    if openai_embeddings is None or not isinstance(embeddings, openai_embeddings.OpenAIEmbeddings):
        return embeddings
    if is_view(embeddings):
        return embeddings
    embeddings = viewed(embeddings)
    openai = sys.modules["openai"]
    sdk = _http_client(
        embeddings.async_client
    )  # an API resource and an SDK client keep their client under one name
    used = _http_client(sdk)
    proxy = embeddings.openai_proxy or None
    # Unless it is the user's own, the SDK opened it, or for a proxy langchain-openai did.
    own_of_proxy = proxy and used is embeddings.http_async_client
    options = _key_on_trio(sdk, embeddings)
    if not own_of_proxy and not _is_default(used, openai, embeddings, object):
        if not options:
            return embeddings
        ours = sdk.with_options(**options).embeddings
        shown = {"async_client": partial(_instead, embeddings.async_client, ours)}
        return view_of(embeddings, shown, _loop_clients().are_current)

    def open_client() -> Any:
        return openai.DefaultAsyncHttpxClient(
            base_url=used.base_url,
            timeout=used.timeout,
            **({"proxy": proxy} if proxy else {}),
        )

    clients = _loop_clients()
    http = clients.get((openai, *_settings(used), proxy), open_client)
    ours = sdk.with_options(http_client=http, **options).embeddings
    shown = {"async_client": partial(_instead, embeddings.async_client, ours)}
    return view_of(embeddings, shown, clients.are_current)


def _openai_for_current_loop(model: Any) -> BaseChatModel:
    shown: dict[str, Any] = {}
    sdk, completions = model.root_async_client, model.async_client
    http = _openai_http_client(model)
    options = _key_on_trio(sdk, model)
    if http is not None:
        options["http_client"] = http
    if options:
        ours = sdk.with_options(**options)
        shown["root_async_client"] = partial(_instead, sdk, ours)
        if completions is not None and _http_client(completions) is sdk:
            shown["async_client"] = partial(_instead, completions, ours.chat.completions)
    # Older releases of langchain-openai have neither this setting nor the socket options.
    seconds = getattr(model, "stream_chunk_timeout", None)
    if seconds and seconds > 0:
        limit = _ChunkTimeout(model, sys.modules["langchain_openai"].StreamChunkTimeoutError)
        for name in ("root_async_client", "async_client"):
            shown[name] = partial(_bounded, shown.get(name), limit)
        shown["stream_chunk_timeout"] = _elsewhere
    below = None
    if backend() == "trio" and needs_asyncio():
        below = _openai_on_trio()
    if not shown and not (below and model.disable_streaming):
        return cast("BaseChatModel", model)
    result: BaseChatModel = view_of(model, shown, _loop_clients().are_current, below=below)
    return result


def _key_on_trio(sdk: Any, model: Any) -> dict[str, Any]:
    """Return options for an SDK client whose API key comes from a sync function, if on trio.

    langchain-openai calls such a function through asyncio; here anyio calls it in a thread.
    `{}` if no options are needed.
    """
    provider = getattr(sdk, "_api_key_provider", None)
    key = model.openai_api_key
    if (
        backend() != "trio"
        or getattr(provider, "__module__", None) != "langchain_openai.chat_models._client_utils"
        or not callable(key)
    ):
        return {}

    async def api_key() -> Any:
        return await anyio.to_thread.run_sync(key, abandon_on_cancel=True)

    return {"api_key": api_key}


async def _run_in_thread(_executor: None, func: Callable[..., Any], *args: Any) -> Any:
    return await anyio.to_thread.run_sync(partial(func, *args), abandon_on_cancel=True)


@cache
def _openai_on_trio() -> type | None:
    """Return a `BaseChatOpenAI` whose `_agenerate` makes its result in a thread of anyio's.

    The method is langchain-openai's own, with another `run_in_executor` among its globals in place
    of the one that uses an asyncio executor. `None` if this release has no such method.
    """
    base = sys.modules["langchain_openai.chat_models.base"].BaseChatOpenAI
    method = base._agenerate
    if not isinstance(method, FunctionType) or "run_in_executor" not in method.__globals__:
        return None
    names = {**method.__globals__, "run_in_executor": _run_in_thread}
    on_trio = FunctionType(
        method.__code__, names, method.__name__, method.__defaults__, method.__closure__
    )
    on_trio.__kwdefaults__ = method.__kwdefaults__
    return mixin_of(base, {"_agenerate": on_trio})


def _instead(theirs: Any, ours: Any, stored: Any) -> Any:
    """Return `ours` in place of `theirs`; return anything that was stored since unchanged."""
    return ours if stored is theirs else stored


def _bounded(show: Callable[[Any], Any] | None, limit: _ChunkTimeout, stored: Any) -> Any:
    client = stored if show is None else show(stored)
    return client if client is ABSENT or client is None else _Resource(client, limit)


class _Elsewhere(float):
    """A limit that langchain-openai treats as unset, because this module enforces it."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False


def _elsewhere(seconds: Any) -> Any:
    return seconds if seconds is None or seconds is ABSENT else _Elsewhere(seconds)


def _openai_http_client(model: Any) -> Any:
    """Return this loop's HTTP client for a model of OpenAI; `None` if the user supplied one."""
    langchain_openai, openai = sys.modules["langchain_openai"], sys.modules["openai"]
    sdk = model.root_async_client
    used = _http_client(sdk)
    # langchain-openai keeps its client for `openai_proxy` where the user's own would be, and
    # refuses to be given both.
    proxied = used is not None and bool(model.openai_proxy) and used is model.http_async_client
    if not proxied and not _is_default(used, openai, model, langchain_openai.ChatOpenAI):
        return None
    if sdk.chat.completions is not model.async_client:
        return None
    socket_options = getattr(model, "http_socket_options", None)
    if socket_options is not None:
        socket_options = tuple(socket_options)

    def open_client() -> Any:
        if type(used).__module__.startswith("openai."):
            return openai.DefaultAsyncHttpxClient(base_url=used.base_url, timeout=used.timeout)
        # How socket options and a proxy are applied is up to langchain-openai, so another model is
        # created to take its client. That client is not a shared one: langchain-openai does not
        # cache clients whose timeout is a `Timeout`, because that has no hash.
        options = {} if socket_options is None else {"http_socket_options": socket_options}
        donor = langchain_openai.ChatOpenAI(
            api_key="unused",
            base_url=str(used.base_url),
            timeout=used.timeout,
            openai_proxy=model.openai_proxy,
            # With one given, no sync client is opened.
            client=model.client or object(),
            **options,
        )
        return _http_client(donor.root_async_client)

    return _loop_clients().get((*_settings(used), model.openai_proxy, socket_options), open_client)


def _anthropic_for_current_loop(model: BaseChatModel) -> BaseChatModel:
    langchain_anthropic, anthropic = sys.modules["langchain_anthropic"], sys.modules["anthropic"]
    stored: Any = model.__dict__.get("_async_client", ABSENT)
    sdk = stored
    if stored is ABSENT:
        try:
            # A cached property, computed on a copy if the user's model has none yet. A user who
            # wants another client sets this attribute, as there is no parameter for it.
            sdk = cast("Any", model.model_copy())._async_client
        except Exception:  # noqa: BLE001
            # Raised again, and reported by the run, when the model uses its client.
            return model
    used = _http_client(sdk)
    if not _is_default(used, anthropic, model, langchain_anthropic.ChatAnthropic):
        return model
    proxy = cast("Any", model).anthropic_proxy

    def open_client() -> Any:
        options = {"proxy": proxy} if proxy else {}
        return anthropic.DefaultAsyncHttpxClient(
            base_url=used.base_url, timeout=used.timeout, **options
        )

    clients = _loop_clients()
    http = clients.get((*_settings(used), proxy), open_client)
    ours = sdk.with_options(http_client=http)

    def show(now: Any) -> Any:
        # If the model had no client, it may have got one since, with the same HTTP client.
        return ours if now is ABSENT or now is stored or _http_client(now) is used else now

    return view_of(model, {"_async_client": show}, clients.are_current)


def _http_client(sdk: Any) -> Any:
    """Return the HTTP client of an SDK client, which has no public name for it."""
    return getattr(sdk, "_client", None)


def _is_default(http: Any, sdk: ModuleType, model: BaseChatModel, plain: type) -> bool:
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


def _settings(http: Any) -> tuple[Any, ...]:
    return type(http), str(http.base_url), tuple(sorted(http.timeout.as_dict().items()))


@final
class _LoopClients:
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
            with anyio.move_on_after(CLOSING_SECONDS, shield=True):
                await self._closing.aclose()

    def get(self, key: Hashable, open_client: Callable[[], Any]) -> Any:
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


_clients: RunVar[_LoopClients] = RunVar("langchain_anyio_http_clients")


def _loop_clients() -> _LoopClients:
    try:
        return _clients.get()
    except LookupError:
        clients = _LoopClients()
        _clients.set(clients)
        return clients


@final
class _ChunkTimeout:
    """The longest wait for the next chunk of a model, and the error raised after it."""

    __slots__ = ("_model", "error")

    def __init__(self, model: Any, error: Callable[..., Exception]) -> None:
        self._model = model
        self.error = error

    @property
    def seconds(self) -> float | None:
        """The model's current setting, which it may change in its call; `None` for no limit."""
        seconds: float | None = self._model.stream_chunk_timeout
        return seconds if seconds is not None and seconds > 0 else None

    def bound(self, response: Any) -> Any:
        """Return the response, with a limit on each wait if it is a stream."""
        if hasattr(response, "__anext__") or hasattr(response, "__aiter__"):
            return _Stream(response, self)
        if hasattr(response, "parse"):
            return _RawResponse(response, self)
        return response

    def expired(self, seconds: float, chunks_received: int) -> Exception:
        model_name = self._model.model_name
        # The same record as of langchain-openai, for users who monitor its log.
        logging.getLogger(getattr(self.error, "__module__", __name__)).warning(
            "langchain_openai.stream_chunk_timeout fired",
            extra={
                "source": "stream_chunk_timeout",
                "timeout_s": seconds,
                "model_name": model_name,
                "chunks_received": chunks_received,
            },
        )
        return self.error(seconds, model_name=model_name, chunks_received=chunks_received)


class _Forwarding:
    """Forwards every attribute that is not defined here to the target."""

    __slots__ = ("_limit", "_target")

    def __init__(self, target: Any, limit: _ChunkTimeout) -> None:
        self._target = target
        self._limit = limit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


@final
class _Resource(_Forwarding):
    """An SDK client, or a resource of its API, whose streams have a limit on each wait."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if name in {"chat", "completions", "responses", "beta", "with_raw_response"}:
            return _Resource(value, self._limit)
        if name in {"create", "parse"}:

            async def create(*args: Any, **kwargs: Any) -> Any:
                return self._limit.bound(await value(*args, **kwargs))

            return create
        if name == "stream":
            return lambda *args, **kwargs: _StreamManager(value(*args, **kwargs), self._limit)
        return value


@final
class _RawResponse(_Forwarding):
    """A response with its headers, whose content is a stream with a limit on each wait."""

    __slots__ = ()

    def parse(self, **kwargs: Any) -> Any:
        return self._limit.bound(self._target.parse(**kwargs))


@final
class _StreamManager(_Forwarding):
    """A context manager that sends its request on entering and gives a stream."""

    __slots__ = ()

    async def __aenter__(self) -> Any:
        return self._limit.bound(await self._target.__aenter__())

    async def __aexit__(self, *exc_info: object) -> Any:
        return await self._target.__aexit__(*exc_info)


@final
class _Stream(_Forwarding):
    """An SDK stream with a limit on the wait for each chunk."""

    __slots__ = ("_chunks", "_chunks_received", "_seconds")

    def __init__(self, target: Any, limit: _ChunkTimeout) -> None:
        super().__init__(target, limit)
        # The SDKs' streams are iterators themselves; `__aiter__` would only wrap them in a
        # generator that nobody closes.
        self._chunks = target if hasattr(target, "__anext__") else target.__aiter__()
        self._chunks_received = 0
        self._seconds = limit.seconds

    async def __aenter__(self) -> _Stream:
        await self._target.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> Any:
        return await self._target.__aexit__(*exc_info)

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> Any:
        # A wait that times out closes the response, as a cancelled one does.
        with anyio.move_on_after(self._seconds):
            chunk = await self._chunks.__anext__()
            self._chunks_received += 1
            return chunk
        assert self._seconds is not None
        raise self._limit.expired(self._seconds, self._chunks_received)
