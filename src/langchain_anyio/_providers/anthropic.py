"""Models of langchain-anthropic."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from .decoding.clients import decoding
from .http_clients import http_client_of, is_default, loop_clients, settings_of
from .views import ABSENT, view_of

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel


def anthropic_for_current_loop(model: BaseChatModel) -> BaseChatModel:
    """Return a view of the model with an SDK client of this loop, and streams decoded here."""
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
    used = http_client_of(sdk)
    if not is_default(used, anthropic, model, langchain_anthropic.ChatAnthropic):
        shown = {"_async_client": partial(decoding, None)}
        return view_of(model, shown, loop_clients().are_current)
    proxy = cast("Any", model).anthropic_proxy

    def open_client() -> Any:
        options = {"proxy": proxy} if proxy else {}
        return anthropic.DefaultAsyncHttpxClient(
            base_url=used.base_url, timeout=used.timeout, **options
        )

    clients = loop_clients()
    http = clients.get((*settings_of(used), proxy), open_client)
    ours = sdk.with_options(http_client=http)

    def show(now: Any) -> Any:
        # If the model had no client, it may have got one since, with the same HTTP client.
        return ours if now is ABSENT or now is stored or http_client_of(now) is used else now

    return view_of(model, {"_async_client": partial(decoding, show)}, clients.are_current)
