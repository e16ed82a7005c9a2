"""Provider models whose HTTP client belongs to the running event loop.

langchain-openai and langchain-anthropic keep one HTTP client per process and base address. Its pooled connections
belong to the event loop that opened them, so the next loop, of either backend, breaks on them. Besides, `ChatOpenAI`
bounds the wait for each chunk with `asyncio.wait_for`. Here a model is given, in a view of it, a client of this event
loop and a bound that holds on every backend. All that the model sets on itself in a call it sets on the user's object.

What the providers' packages keep private is touched in this module alone; where it is not as known, the model runs as
it is. No provider is imported: a model of one exists only where its package is imported already.
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

from langchain_anyio._backends.background import Loop, backend
from langchain_anyio._langchain_core import needs_asyncio

from .views import ABSENT, is_view, mixin_of, view_of, viewed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable
    from types import ModuleType

    from langchain_core.language_models import BaseChatModel

CLOSING_SECONDS: Final = 5.0


def for_current_loop(model: BaseChatModel) -> BaseChatModel:
    """The model to run on the current event loop: the same object, or a view of it with a client of this loop.

    A model of OpenAI's or Anthropic's that uses its default HTTP client is run in a view, which shares all its state but
    for the clients (`_views.view_of`). The view's SDK client has an HTTP client with the same address, timeout, proxy and socket options, which all such models on this event loop share and
    which is closed at the loop's end. A client that the user supplied is used as it is.
    `ChatOpenAI.stream_chunk_timeout` holds on every backend, also with a client that the user supplied, closes the
    connection and raises `langchain_openai.StreamChunkTimeoutError`.

    Call it in a task of the event loop, once for each run, so that the clients have the model's settings of that time.
    It is not a checkpoint. Opening a client, the first time that its settings are met, takes some 20 milliseconds, nearly
    all of them for TLS certificates. Clients stay until the loop ends, as the originals stay until the process ends:
    one for each combination of settings.

    Args:
        model: Any chat model. Its clients are never changed.
    """
    if is_view(model):
        return model
    model = viewed(model)  # a view of another loop, which the model has kept perhaps
    openai_models = sys.modules.get("langchain_openai.chat_models.base")
    if openai_models is not None and isinstance(model, openai_models.BaseChatOpenAI):
        return _openai_for_current_loop(model)
    anthropic_models = sys.modules.get("langchain_anthropic.chat_models")
    if anthropic_models is not None and isinstance(model, anthropic_models.ChatAnthropic):
        return _anthropic_for_current_loop(model)
    return model


def embeddings_for_current_loop(embeddings: Any) -> Any:
    """The embeddings to ask on the current event loop: as `for_current_loop`, for `OpenAIEmbeddings`."""
    openai_embeddings = sys.modules.get("langchain_openai.embeddings.base")
    if openai_embeddings is None or not isinstance(embeddings, openai_embeddings.OpenAIEmbeddings):
        return embeddings
    if is_view(embeddings):
        return embeddings
    embeddings = viewed(embeddings)
    openai = sys.modules["openai"]
    sdk = _http_client(
        embeddings.async_client
    )  # a part of its API shows its client as that shows its own
    used = _http_client(sdk)
    proxy = embeddings.openai_proxy or None
    # Without the user's own, it is one that the SDK has opened, or langchain-openai for the proxy.
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
    # Older releases of langchain-openai have neither this nor the socket options.
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
    """The options of an SDK client whose key comes from a plain function, which langchain-openai calls through asyncio."""
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
    """`BaseChatOpenAI` whose `_agenerate` makes its result in a thread of anyio's and not in an executor of asyncio's.

    The method is langchain-openai's own, with another `run_in_executor` among its global names.
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
    """Show our client instead of one that it stands for; what the model has set since is shown as it is."""
    return ours if stored is theirs else stored


def _bounded(show: Callable[[Any], Any] | None, limit: _ChunkTimeout, stored: Any) -> Any:
    client = stored if show is None else show(stored)
    return client if client is ABSENT or client is None else _Resource(client, limit)


class _Elsewhere(float):
    """A limit that langchain-openai takes for none, since it is kept here."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False


def _elsewhere(seconds: Any) -> Any:
    return seconds if seconds is None or seconds is ABSENT else _Elsewhere(seconds)


def _openai_http_client(model: Any) -> Any:
    """The HTTP client of this loop for a model of OpenAI's; none if the user supplied one."""
    langchain_openai, openai = sys.modules["langchain_openai"], sys.modules["openai"]
    sdk = model.root_async_client
    used = _http_client(sdk)
    # The client for `openai_proxy` stands where the user's own would; langchain-openai refuses to be given both.
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
        # What socket options and a proxy come to is langchain-openai's business, so another model is asked for its
        # client. That is not a shared one: clients whose timeout is a `Timeout`, which has no hash, are not cached.
        options = {} if socket_options is None else {"http_socket_options": socket_options}
        donor = langchain_openai.ChatOpenAI(
            api_key="unused",
            base_url=str(used.base_url),
            timeout=used.timeout,
            openai_proxy=model.openai_proxy,
            # With one given, no client for synchronous calls is opened.
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
            # A cached property, made in a copy where the user's model has none yet. A user who wants another client puts
            # it there, as there is no parameter for it.
            sdk = cast("Any", model.model_copy())._async_client
        except Exception:  # noqa: BLE001
            # The run raises it again, and reports it, where the model uses its client.
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
        # Where the model had none, others may have made it one since, with the same HTTP client.
        return ours if now is ABSENT or now is stored or _http_client(now) is used else now

    return view_of(model, {"_async_client": show}, clients.are_current)


def _http_client(sdk: Any) -> Any:
    """The HTTP client of an SDK client, which shows it under no public name."""
    return getattr(sdk, "_client", None)


def _is_default(http: Any, sdk: ModuleType, model: BaseChatModel, plain: type) -> bool:
    """Whether an HTTP client is one that the provider's packages opened themselves.

    Theirs are of private subclasses of the class that their SDK offers to users. The plain models open theirs themselves,
    others derived from them may leave that to the SDK; with a plain model, such a client came with the user's SDK client.
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
    """The HTTP clients of one event loop, closed at its end."""

    __slots__ = ("_closing", "_keeper", "_open")

    def __init__(self) -> None:
        self._open: dict[Hashable, Any] = {}
        self._closing = AsyncExitStack()
        # Every event loop closes, at its end, the asynchronous generators that were begun on it and are still there. It
        # begins this one itself, because who calls here may have theirs watched, as a stream does to close its model's.
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
            # What a RunVar holds must not refer to its loop, or neither ever goes: clients do, through their connections,
            # and generators, through the loop's hook for their finalization.
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
        """Return whether the caller runs on their event loop."""
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
    """How long a model waits for the next chunk, and what it raises then."""

    __slots__ = ("_model", "error")

    def __init__(self, model: Any, error: Callable[..., Exception]) -> None:
        self._model = model
        self.error = error

    @property
    def seconds(self) -> float | None:
        """The model's setting now, which it may change in its call."""
        seconds: float | None = self._model.stream_chunk_timeout
        return seconds if seconds is not None and seconds > 0 else None

    def bound(self, response: Any) -> Any:
        """The same response, bounded if it is a stream."""
        if hasattr(response, "__anext__") or hasattr(response, "__aiter__"):
            return _Stream(response, self)
        if hasattr(response, "parse"):
            return _RawResponse(response, self)
        return response

    def expired(self, seconds: float, chunks_received: int) -> Exception:
        model_name = self._model.model_name
        # As langchain-openai logs it, for those who watch for it.
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
    """Everything that is not defined here is the target's."""

    __slots__ = ("_limit", "_target")

    def __init__(self, target: Any, limit: _ChunkTimeout) -> None:
        self._target = target
        self._limit = limit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


@final
class _Resource(_Forwarding):
    """An SDK client, or a part of its API, whose streams are bounded."""

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
    """A response with its headers, whose content is a stream that is bounded."""

    __slots__ = ()

    def parse(self, **kwargs: Any) -> Any:
        return self._limit.bound(self._target.parse(**kwargs))


@final
class _StreamManager(_Forwarding):
    """A request that is sent as its block is entered."""

    __slots__ = ()

    async def __aenter__(self) -> Any:
        return self._limit.bound(await self._target.__aenter__())

    async def __aexit__(self, *exc_info: object) -> Any:
        return await self._target.__aexit__(*exc_info)


@final
class _Stream(_Forwarding):
    """An SDK stream with a bound on the wait for each chunk."""

    __slots__ = ("_chunks", "_chunks_received", "_seconds")

    def __init__(self, target: Any, limit: _ChunkTimeout) -> None:
        super().__init__(target, limit)
        # The SDKs' streams are iterators themselves; `__aiter__` only puts a generator before them that nobody closes.
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
        # The wait that is cut short closes the response, as a cancelled one does.
        with anyio.move_on_after(self._seconds):
            chunk = await self._chunks.__anext__()
            self._chunks_received += 1
            return chunk
        assert self._seconds is not None
        raise self._limit.expired(self._seconds, self._chunks_received)
