"""Models and embeddings of langchain-cohere, each of which has an SDK client of its own."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from .http_clients import instead, loop_clients
from .httpx_clients import is_plain, on_this_loop
from .views import view_of


def cohere_for_current_loop(model: Any) -> Any:
    """Return a view of a chat model, an LLM or embeddings with an SDK client of this loop."""
    sdk = model.async_client
    ours = _on_this_loop(sdk)
    if ours is None:
        return model
    shown = {"async_client": partial(instead, sdk, ours)}
    return view_of(model, shown, loop_clients().are_current)


def _on_this_loop(sdk: Any) -> Any:
    if type(sdk) is not sys.modules["cohere"].AsyncClient:
        return None
    try:
        wrapper = sdk._client_wrapper
        http = wrapper.httpx_client.httpx_client
        if not is_plain(http) or (ours := on_this_loop(http)) is None:
            return None
        # Not a copy, because a client puts functions on itself that are bound to it.
        copy = type(sdk)(
            api_key=wrapper._token,
            base_url=wrapper._base_url,
            client_name=wrapper._client_name,
            timeout=wrapper._timeout,
            httpx_client=ours,
            thread_pool_executor=sdk._executor,
            log_warning_experimental_features="chat_stream" in vars(sdk),
        )
        copy._client_wrapper._headers = wrapper._headers
    except (AttributeError, TypeError):
        return None
    return copy
