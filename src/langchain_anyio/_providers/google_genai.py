"""Models and embeddings of langchain-google-genai.

google-genai prefers aiohttp where it is installed, which needs asyncio and leaves its connections
open when its loop ends. Here its other HTTP client, of httpx, is used on both backends.
"""

from __future__ import annotations

import sys
from functools import cache, partial
from typing import Any, cast

import anyio.to_thread

from langchain_anyio._backends.current import backend

from .http_clients import instead, loop_clients
from .httpx_clients import frozen, on_this_loop
from .views import view_of


def google_for_current_loop(model: Any) -> Any:
    """Return a view of a chat model or embeddings with an SDK client of this loop."""
    sdk = model.client
    ours = _on_this_loop(sdk, model.client_args)
    if ours is None:
        return model
    shown = {"client": partial(instead, sdk, ours)}
    return view_of(model, shown, loop_clients().are_current)


def _on_this_loop(sdk: Any, client_args: Any) -> Any:
    genai = sys.modules["google.genai.client"]
    if type(sdk) is not genai.Client:
        return None
    try:
        api = sdk._api_client
        options, http = api._http_options, api._async_httpx_client
        if (
            type(api) is not genai.BaseApiClient
            or options.httpx_async_client is not None
            or options.aiohttp_client is not None
            or type(http).__module__ != type(api).__module__
        ):
            return None
        ours = on_this_loop(http, tls=frozen(client_args))
        if ours is None:
            return None
        copied: Any = object.__new__(_api_class(cast("Any", type(api))))
        copied.__dict__.update(
            vars(api),
            _async_httpx_client=ours,
            _aiohttp_sessions={},
            _langchain_anyio_original=api,
        )
        aio: Any = object.__new__(_never_closing(cast("Any", type(sdk._aio))))
        type(sdk._aio).__init__(aio, copied)
    except AttributeError:
        return None
    client: Any = object.__new__(_never_closing(cast("Any", type(sdk))))
    client.__dict__.update(vars(sdk), _api_client=copied, _aio=aio)
    return client


@cache
def _never_closing(cls: Any) -> Any:
    """Return a subclass whose objects do not close what they share when they are collected."""
    return type(cls.__name__, (cls,), {"__del__": lambda _self: None})


@cache
def _api_class(cls: Any) -> Any:
    async def access_token(self: Any) -> Any:
        # The original keeps the credentials; its lock for the loop is asyncio's.
        original = self._langchain_anyio_original
        if backend() == "asyncio":
            token = await original._async_access_token()
        else:
            token = await anyio.to_thread.run_sync(original._access_token)
        self._credentials, self.project = original._credentials, original.project
        return token

    methods = {
        "_use_aiohttp": lambda _self: False,
        "_async_access_token": access_token,
    }
    base = _never_closing(cls)
    return type(base.__name__, (base,), methods)
