"""Providers on loopback: their formats, spoken over a real socket by a real HTTP server.

    with provider_server() as server:
        endpoint = server.serve(Scenario(Reply(Text("Hello", " there"))))
        model = ChatOpenAI(base_url=endpoint.openai_url, api_key="unused")

What an endpoint answers is its `Scenario`, in whichever of the formats it is asked. What its
clients did is seen in its `exchanges`.
"""

from __future__ import annotations

from ._server import Connection, Endpoint, Exchange, ProviderServer, Scenario, provider_server
from ._wire import Reply, Text, Thinking, ToolCall

__all__ = [
    "Connection",
    "Endpoint",
    "Exchange",
    "ProviderServer",
    "Reply",
    "Scenario",
    "Text",
    "Thinking",
    "ToolCall",
    "provider_server",
]
