"""Providers on loopback: OpenAI's and Anthropic's streams, spoken over a real socket by a real HTTP server.

    with provider_server() as server:
        endpoint = server.serve(Scenario(Reply(Text("Hello", " there"))))
        model = ChatOpenAI(base_url=endpoint.openai_url, api_key="unused")

What an endpoint answers is its `Scenario`, in whichever of the three formats it is asked. What its
clients did is seen in its `exchanges`.
"""

from __future__ import annotations

from ._server import (
    Endpoint as Endpoint,
    Exchange as Exchange,
    ProviderServer as ProviderServer,
    Scenario as Scenario,
    provider_server as provider_server,
)
from ._wire import Reply as Reply, Text as Text, Thinking as Thinking, ToolCall as ToolCall
