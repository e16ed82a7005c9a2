"""The providers' models, made for an endpoint, and what they may be answered."""

from __future__ import annotations

from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_openai import AzureChatOpenAI, ChatOpenAI

from . import Endpoint, Reply, Scenario, Text, Thinking, ToolCall

OPTIONS: dict[str, Any] = {"api_key": "unused", "max_retries": 0}


def chat_completions(endpoint: Endpoint, **options: Any) -> ChatOpenAI:
    options = {**OPTIONS, "model": "gpt-loopback", "stream_usage": True, **options}
    return ChatOpenAI(base_url=endpoint.openai_url, **options)


def responses(endpoint: Endpoint, **options: Any) -> ChatOpenAI:
    return chat_completions(endpoint, use_responses_api=True, **options)


def azure(endpoint: Endpoint, **options: Any) -> AzureChatOpenAI:
    options = {**OPTIONS, "azure_deployment": "gpt-loopback", "stream_usage": True, **options}
    return AzureChatOpenAI(azure_endpoint=endpoint.azure_url, api_version="2024-10-21", **options)


def anthropic_messages(endpoint: Endpoint, **options: Any) -> ChatAnthropic:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    options = {**OPTIONS, "model": "claude-loopback", "max_tokens": 2048, **options}
    return ChatAnthropic(base_url=endpoint.anthropic_url, thinking=thinking, **options)


MAKERS = (chat_completions, responses, azure, anthropic_messages)


def sdk_client(model: Any) -> Any:
    """The asynchronous SDK client that a model uses."""
    return model._async_client if isinstance(model, ChatAnthropic) else model.root_async_client


def described(error: Exception) -> tuple[Any, str]:
    """An error as it is the same on every backend."""
    if type(error).__module__.startswith("httpx"):
        # How a broken connection shows differs from backend to backend, and from loop to loop.
        return "httpx", ""
    return type(error), str(error)


TOOLS = Reply(
    Text("Let me ", "see."),
    ToolCall("search", '{"query": "wa', 'ter"}', call_id="call_1"),
    ToolCall("add", '{"a"', ": 1, ", '"b": 2}', call_id="call_2"),
    ToolCall("now", call_id="call_3"),
    input_tokens=40,
    output_tokens=31,
)

SCENARIOS = {
    "text": Scenario(),
    "nothing": Scenario(Reply(output_tokens=0)),
    "tools": Scenario(TOOLS),
    "thinking": Scenario(Reply(Thinking("Hm, ", "yes."), Text("Yes", "."))),
    "many": Scenario(Reply(Text(*(f"{number} " for number in range(500))))),
    "status 401": Scenario(status=401),
    "status 429": Scenario(status=429),
    "status 500": Scenario(status=500),
    **{
        f"{fault} after {after}{' and a half' if halfway else ''}": Scenario(
            TOOLS, fault=fault, after=after, halfway=halfway
        )
        for fault in ("reset", "end", "truncate")
        for after, halfway in ((0, False), (1, True), (4, False), (7, True))
    },
    "error at once": Scenario(fault="error"),
    "error after 3": Scenario(fault="error", after=3),
    "malformed": Scenario(fault="malformed", after=3),
}
