"""Models and embeddings whose SDK is made by Stainless, and which have one SDK client.

Such an SDK opens an HTTP client of a private class, derived from the public
`DefaultAsyncHttpxClient`; if the user gives it one, that one has another class. An SDK client can
be copied with another HTTP client by `with_options()`.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from .http_clients import http_client_of, instead, loop_clients, settings_of
from .httpx_clients import on_this_loop
from .views import view_of


def groq_for_current_loop(model: Any) -> Any:
    """Return a view of a `ChatGroq` with an SDK client of this loop."""
    return _with_resource(model, "groq", "chat", "completions")


def fireworks_for_current_loop(model: Any) -> Any:
    """Return a view of a `ChatFireworks` with an SDK client of this loop."""
    return _with_resource(model, "fireworks", "chat", "completions")


def openai_llm_for_current_loop(model: Any) -> Any:
    """Return a view of an `OpenAI`, the LLM, with an SDK client of this loop."""
    return _with_resource(model, "openai", "completions")


def together_embeddings_for_current_loop(model: Any) -> Any:
    """Return a view of `TogetherEmbeddings` with an SDK client of this loop."""
    return _with_resource(model, "openai", "embeddings")


def perplexity_for_current_loop(model: Any) -> Any:
    """Return a view of a chat model or embeddings of Perplexity with an SDK client of this loop."""
    sdk = model.async_client
    http = sdk_http_client(sdk, "perplexity")
    if http is None:
        return model
    shown = {"async_client": partial(instead, sdk, sdk.with_options(http_client=http))}
    return view_of(model, shown, loop_clients().are_current)


def _with_resource(model: Any, package: str, *path: str) -> Any:
    """Return a view of a model whose `async_client` is a resource of an SDK client."""
    resource = model.async_client
    sdk = http_client_of(resource)  # a resource keeps its SDK client under the same name
    http = sdk_http_client(sdk, package)
    if http is None:
        return model
    ours = sdk.with_options(http_client=http)
    for name in path:
        ours = getattr(ours, name)
    if type(ours) is not type(resource):
        return model
    shown = {"async_client": partial(instead, resource, ours)}
    return view_of(model, shown, loop_clients().are_current)


def sdk_http_client(sdk: Any, package: str) -> Any:
    """Return this loop's HTTP client for an SDK client; `None` if it has not opened its own.

    Instead of a client that uses aiohttp, which needs asyncio and is not closed when its loop ends,
    the client is the SDK's own for httpx, on both backends.
    """
    used = http_client_of(sdk)
    module = sys.modules[package]
    public = module.DefaultAsyncHttpxClient, getattr(module, "DefaultAioHttpClient", None)
    if type(used).__module__.partition(".")[0] != package or type(used) in public:
        return None
    if used.is_closed:
        return None
    if isinstance(used, public[0]):
        return on_this_loop(used)

    def open_client() -> Any:
        return public[0](base_url=used.base_url, timeout=used.timeout)

    return loop_clients().get(settings_of(used), open_client)
