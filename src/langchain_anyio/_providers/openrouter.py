"""Models of langchain-openrouter, each of which has an SDK client of its own."""

from __future__ import annotations

import sys
from copy import copy
from functools import partial
from typing import Any

from .http_clients import instead, loop_clients
from .httpx_clients import is_plain, on_this_loop
from .views import view_of


def openrouter_for_current_loop(model: Any) -> Any:
    """Return a view of a `ChatOpenRouter` with an SDK client of this loop."""
    sdk = model.client
    if type(sdk) is not sys.modules["openrouter"].OpenRouter:
        return model
    configuration = sdk.sdk_configuration
    http = configuration.async_client
    ours = on_this_loop(http) if is_plain(http) else None
    if ours is None:
        return model
    client = object.__new__(type(sdk))
    # Without the parts that it has opened, which have the original configuration.
    parts = type(sdk)._sub_sdk_map
    client.__dict__.update({k: v for k, v in vars(sdk).items() if k not in parts})
    client.sdk_configuration = copy(configuration)
    client.sdk_configuration.async_client = ours
    return view_of(model, {"client": partial(instead, sdk, client)}, loop_clients().are_current)
