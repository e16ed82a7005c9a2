"""Models of langchain-aws, which run in worker threads, as boto3 has no async API.

A thread that reads an answer can be neither cancelled nor closed by another thread, but its socket
can be shut down. Then the read returns, and the thread closes the connection.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any, final

from .http_clients import instead
from .interrupts import current_interrupts
from .views import view_of


def bedrock_for_current_loop(model: Any) -> Any:
    """Return a view of a model whose streams end when the run that reads them is cancelled."""
    client = model.client
    if client is None or isinstance(client, _Client):
        return model
    shown = {"client": partial(instead, client, _Client(client))}
    return view_of(model, shown, lambda: True)  # in threads, where no event loop runs


@final
class _Client:
    """A client of boto3 that says how to interrupt the streams that it opens."""

    __slots__ = ("_client",)

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        if name not in {"converse_stream", "invoke_model_with_response_stream"}:
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            response = value(*args, **kwargs)
            interrupts = current_interrupts.get()
            if interrupts is not None:
                stream = response.get("stream") or response.get("body")
                # botocore's stream of events has no public name for the response of urllib3, whose
                # releases before 2.3 cannot be shut down.
                shut_down = getattr(getattr(stream, "_raw_stream", None), "shutdown", None)
                if shut_down is not None:
                    interrupts.add(partial(_quietly, shut_down))
            return response

        return call


def _quietly(shut_down: Any) -> None:
    # urllib3 raises the latter two for a connection that has been released.
    with suppress(OSError, RuntimeError, ValueError):
        shut_down()
