"""Models and embeddings of langchain-ollama, each of which has an SDK client of its own."""

from __future__ import annotations

import sys
from copy import copy
from typing import Any

from .http_clients import loop_clients
from .httpx_clients import is_plain, on_this_loop
from .views import ABSENT, view_of


def ollama_for_current_loop(model: Any) -> Any:
    """Return a view of a chat model, an LLM or embeddings with an SDK client of this loop."""
    sdk = model._async_client
    if type(sdk) is not sys.modules["ollama"].AsyncClient or not is_plain(sdk._client):
        return model
    ours = copy(sdk)
    ours._client = on_this_loop(sdk._client, tls=[model.client_kwargs, model.async_client_kwargs])
    if ours._client is None:
        return model

    def show(_stored: Any) -> Any:
        return ours if model._async_client is sdk else ABSENT

    return view_of(model, {"_async_client": show}, loop_clients().are_current)
