"""Models and embeddings of langchain-openai, and of packages that derive from its classes."""

from __future__ import annotations

import sys
from functools import cache, partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from langchain_anyio._backends.current import backend
from langchain_anyio._langchain_core import needs_asyncio

from .chunk_timeout import ChunkTimeout, bounded, elsewhere
from .decoding.clients import decoding
from .http_clients import http_client_of, instead, is_default, loop_clients, settings_of
from .views import mixin_of, view_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.language_models import BaseChatModel


def openai_for_current_loop(model: Any) -> BaseChatModel:
    """Return a view of the model with SDK clients of this loop, whose streams are decoded here.

    The view keeps the model's limit on each wait for a chunk.
    """
    shown: dict[str, Any] = {}
    sdk, completions = model.root_async_client, model.async_client
    http = _openai_http_client(model)
    options = _key_on_trio(sdk, model)
    if http is not None:
        options["http_client"] = http
    if options:
        ours = sdk.with_options(**options)
        shown["root_async_client"] = partial(instead, sdk, ours)
        if completions is not None:
            second = http_client_of(completions)
            if second is not sdk:  # as of xAI and Together
                ours = None if http is None else second.with_options(**options)
            if ours is not None:
                shown["async_client"] = partial(instead, completions, ours.chat.completions)
    for name in ("root_async_client", "async_client"):
        # A raw response is asked for if its headers are.
        shown[name] = partial(decoding, shown.get(name), raw_models=True)
    # Older releases of langchain-openai have neither this setting nor the socket options.
    seconds = getattr(model, "stream_chunk_timeout", None)
    if seconds and seconds > 0:
        limit = ChunkTimeout(model, sys.modules["langchain_openai"].StreamChunkTimeoutError)
        for name in ("root_async_client", "async_client"):
            shown[name] = partial(bounded, shown[name], limit)
        shown["stream_chunk_timeout"] = elsewhere
    below = None
    if backend() == "trio" and needs_asyncio():
        below = _openai_on_trio()
    result: BaseChatModel = view_of(model, shown, loop_clients().are_current, below=below)
    return result


def _openai_http_client(model: Any) -> Any:
    """Return this loop's HTTP client for a model of OpenAI; `None` if the user supplied one."""
    langchain_openai, openai = sys.modules["langchain_openai"], sys.modules["openai"]
    sdk = model.root_async_client
    used = http_client_of(sdk)
    # langchain-openai keeps its client for `openai_proxy` where the user's own would be, and
    # refuses to be given both.
    proxied = used is not None and bool(model.openai_proxy) and used is model.http_async_client
    if not proxied and not is_default(used, openai, model, langchain_openai.ChatOpenAI):
        return None
    if sdk.chat.completions is not model.async_client:
        # The models of xAI and Together open a second SDK client, with the same settings.
        second = http_client_of(http_client_of(model.async_client))
        if type(second) is not type(used) or settings_of(second) != settings_of(used):
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
        return http_client_of(donor.root_async_client)

    return loop_clients().get((*settings_of(used), model.openai_proxy, socket_options), open_client)


def openai_embeddings_for_current_loop(embeddings: Any) -> Any:
    """Return the embeddings with an SDK client of this loop; the same object if they need none."""
    openai = sys.modules["openai"]
    sdk = http_client_of(
        embeddings.async_client
    )  # an API resource and an SDK client keep their client under one name
    used = http_client_of(sdk)
    proxy = embeddings.openai_proxy or None
    # Unless it is the user's own, the SDK opened it, or for a proxy langchain-openai did.
    own_of_proxy = proxy and used is embeddings.http_async_client
    options = _key_on_trio(sdk, embeddings)
    if not own_of_proxy and not is_default(used, openai, embeddings, object):
        if not options:
            return embeddings
        ours = sdk.with_options(**options).embeddings
        shown = {"async_client": partial(instead, embeddings.async_client, ours)}
        return view_of(embeddings, shown, loop_clients().are_current)

    def open_client() -> Any:
        return openai.DefaultAsyncHttpxClient(
            base_url=used.base_url,
            timeout=used.timeout,
            **({"proxy": proxy} if proxy else {}),
        )

    clients = loop_clients()
    http = clients.get((openai, *settings_of(used), proxy), open_client)
    ours = sdk.with_options(http_client=http, **options).embeddings
    shown = {"async_client": partial(instead, embeddings.async_client, ours)}
    return view_of(embeddings, shown, clients.are_current)


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
