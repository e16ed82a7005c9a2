"""Models and embeddings of langchain-mistralai, which use an HTTP client without an SDK."""

from __future__ import annotations

from functools import partial
from typing import Any

from .http_clients import instead, loop_clients
from .httpx_clients import is_plain, on_this_loop
from .views import view_of


def mistralai_for_current_loop(model: Any) -> Any:
    """Return a view of a chat model or embeddings with an HTTP client of this loop."""
    http = model.async_client
    ours = on_this_loop(http, tls=type(model).__name__) if is_plain(http) else None
    if ours is None:
        return model
    shown = {"async_client": partial(instead, http, ours)}
    return view_of(model, shown, loop_clients().are_current)
