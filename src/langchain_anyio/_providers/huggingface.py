"""Models and embeddings of langchain-huggingface that use an inference client."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from copy import copy
from functools import partial
from typing import Any

from .http_clients import instead, loop_clients
from .views import is_view, view_of


def endpoint_for_current_loop(model: Any) -> Any:
    """Return a view of an LLM or of embeddings with an inference client of this loop."""
    client = model.async_client
    hub = sys.modules.get("huggingface_hub")
    known = {"_async_client", "exit_stack"}
    if (
        hub is None
        or type(client) is not hub.AsyncInferenceClient
        or not known <= vars(client).keys()
    ):
        return model
    # The user may have set a function that opens the HTTP clients.
    factory = getattr(
        sys.modules["huggingface_hub.utils._http"], "_GLOBAL_ASYNC_CLIENT_FACTORY", None
    )
    if factory is None:
        return model
    ours = copy(client)
    ours._async_client = loop_clients().get((hub, factory), factory)
    # It keeps the responses of streams, until it is closed.
    ours.exit_stack = AsyncExitStack()
    shown = {"async_client": partial(instead, client, ours)}
    return view_of(model, shown, loop_clients().are_current)


def chat_for_current_loop(model: Any) -> Any:
    """Return a view of a `ChatHuggingFace` whose endpoint has an inference client of this loop."""
    endpoints = sys.modules.get("langchain_huggingface.llms.huggingface_endpoint")
    llm = model.llm
    if endpoints is None or not isinstance(llm, endpoints.HuggingFaceEndpoint):
        return model
    ours = endpoint_for_current_loop(llm)
    if not is_view(ours):
        return model
    return view_of(model, {"llm": partial(instead, llm, ours)}, loop_clients().are_current)
