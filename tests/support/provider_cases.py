"""The registry of providers: for each package how its models are made for an endpoint, and what they can do.

The tests of every provider run over it, and the tables of docs/models.md list what it holds. A model is
made as a user makes it: with an address and a key, and with the HTTP client that its package chooses.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from loopback import Endpoint

KEY = "unused"

# What packages look up in the environment, some of it when they are imported.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": KEY,
    "AWS_EC2_METADATA_DISABLED": "true",
    # Otherwise it asks for a table on the internet first.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
}


@dataclass(frozen=True)
class ChatCase:
    """A chat model of a provider.

    Args:
        package: The distribution that it is in.
        name: Of its class.
        make: Makes one for an endpoint.
        api: The API that it speaks, if its package knows several.
        tools: Whether its messages have tool calls.
        reasoning: Whether its messages have reasoning.
        needs_asyncio: Whether it is refused on trio.
        keeps_its_client: Whether it runs with the client of its package, whose connections end
            when the package ends them.
        closes_late: Whether it runs in a thread that nothing ends when its caller is cancelled.
        as_events: Whether langchain-core's event stream has its tool calls and reasoning whole, and
            so `open_stream` too.
        note: What a user has to know.
    """

    package: str
    name: str
    make: Callable[[Endpoint], Any]
    api: str = ""
    as_events: bool = True
    tools: bool = True
    reasoning: bool = True
    needs_asyncio: bool = False
    keeps_its_client: bool = False
    closes_late: bool = False
    note: str = ""

    def __str__(self) -> str:
        provider = self.package.removeprefix("langchain-")
        return f"{provider}-{self.api.replace(' ', '-').lower()}" if self.api else provider


@dataclass(frozen=True)
class EmbeddingsCase:
    """The embeddings of a provider, with the same arguments as a `ChatCase`."""

    package: str
    name: str
    make: Callable[[Endpoint], Any]
    needs_asyncio: bool = False
    keeps_its_client: bool = False
    closes_late: bool = False
    note: str = ""

    def __str__(self) -> str:
        return self.package.removeprefix("langchain-")


def installed(package: str) -> str | None:
    """Return the version of a distribution, or `None` if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def overrides(model: Any, name: str, base: type) -> bool:
    """Return whether the class of a model, or a base of it below `base`, has a method of its own."""
    return getattr(type(model), name) is not getattr(base, name)


def _class(package: str, name: str) -> Any:
    return getattr(import_module(package.replace("-", "_")), name)


def _make(
    package: str, name: str, address: Callable[[Endpoint], Any], options: dict[str, Any]
) -> Callable[[Endpoint], Any]:
    def make(endpoint: Endpoint) -> Any:
        usual = {"model": "loopback", "api_key": KEY, "base_url": address(endpoint)}
        return _class(package, name)(**usual, **options)

    return make


def _chat(package: str, name: str, address: Callable[[Endpoint], Any], **more: Any) -> ChatCase:
    """Return the case of a class that takes its address, the names of it and of the key as usual."""
    options = more.pop("options", {})
    return ChatCase(package, name, _make(package, name, address, options), **more)


def _embeddings(
    package: str, name: str, address: Callable[[Endpoint], Any], **more: Any
) -> EmbeddingsCase:
    options = more.pop("options", {})
    return EmbeddingsCase(package, name, _make(package, name, address, options), **more)


def _azure(endpoint: Endpoint) -> Any:
    return _class("langchain-openai", "AzureChatOpenAI")(
        azure_endpoint=endpoint.azure_url,
        azure_deployment="loopback",
        api_version="2024-10-21",
        api_key=KEY,
    )


def _bedrock(endpoint: Endpoint) -> Any:
    return _class("langchain-aws", "ChatBedrockConverse")(
        # It looks at the name for what the model can do.
        model="anthropic.claude-3-7-sonnet-20250219-v1:0",
        base_url=endpoint.bedrock_url,
        region_name="us-east-1",
    )


def _cohere(endpoint: Endpoint) -> Any:
    return _class("langchain-cohere", "ChatCohere")(
        model="loopback", base_url=endpoint.cohere_url, cohere_api_key=KEY
    )


def _hugging_face(endpoint: Endpoint) -> Any:
    address = endpoint.openai_url.removesuffix("/v1")
    llm = _class("langchain-huggingface", "HuggingFaceEndpoint")(
        endpoint_url=address, huggingfacehub_api_token=KEY
    )
    return _class("langchain-huggingface", "ChatHuggingFace")(llm=llm, model_id="loopback")


def _litellm(endpoint: Endpoint) -> Any:
    return _class("langchain-litellm", "ChatLiteLLM")(
        model="openai/loopback", api_base=endpoint.openai_url, api_key=KEY
    )


def _perplexity(name: str, **more: Any) -> Callable[[Endpoint], Any]:
    def make(endpoint: Endpoint) -> Any:
        # The classes have no parameter for the address; the SDK looks here.
        os.environ["PERPLEXITY_BASE_URL"] = endpoint.perplexity_url
        try:
            return _class("langchain-perplexity", name)(api_key=KEY, **more)
        finally:
            del os.environ["PERPLEXITY_BASE_URL"]

    return make


CHAT: tuple[ChatCase, ...] = (
    _chat(
        *("langchain-openai", "ChatOpenAI", lambda endpoint: endpoint.openai_url),
        api="Chat Completions",
        reasoning=False,
        options={"stream_usage": True},
    ),
    _chat(
        *("langchain-openai", "ChatOpenAI", lambda endpoint: endpoint.openai_url),
        api="Responses",
        options={"use_responses_api": True, "output_version": "responses/v1"},
    ),
    ChatCase("langchain-openai", "AzureChatOpenAI", _azure, api="Azure", reasoning=False),
    _chat(
        *("langchain-anthropic", "ChatAnthropic", lambda endpoint: endpoint.anthropic_url),
        options={"max_tokens": 2048, "thinking": {"type": "enabled", "budget_tokens": 1024}},
    ),
    _chat(
        *("langchain-google-genai", "ChatGoogleGenerativeAI", lambda e: e.google_url),
        options={"include_thoughts": True},
    ),
    ChatCase(
        *("langchain-aws", "ChatBedrockConverse", _bedrock),
        keeps_its_client=True,
        closes_late=True,
        note="a silent server holds its thread until botocore's `read_timeout`, a minute by default",
    ),
    _chat(
        *("langchain-ollama", "ChatOllama", lambda endpoint: endpoint.ollama_url),
        options={"reasoning": True},
        as_events=False,
        note="several tool calls in one answer run together in the event stream, as in langchain-core's",
    ),
    _chat("langchain-mistralai", "ChatMistralAI", lambda endpoint: endpoint.mistral_url),
    ChatCase(
        *("langchain-cohere", "ChatCohere", _cohere),
        as_events=False,
        note="no reasoning in the event stream, as in langchain-core's",
    ),
    _chat(
        *("langchain-groq", "ChatGroq", lambda endpoint: endpoint.groq_url),
        as_events=False,
        note="several tool calls in one answer run together in the event stream, as in langchain-core's",
    ),
    _chat("langchain-deepseek", "ChatDeepSeek", lambda endpoint: endpoint.reasoning_content_url),
    _chat("langchain-xai", "ChatXAI", lambda endpoint: endpoint.reasoning_content_url),
    _chat(
        *("langchain-together", "ChatTogether", lambda endpoint: endpoint.openai_url),
        reasoning=False,
    ),
    _chat(
        *("langchain-fireworks", "ChatFireworks"),
        lambda endpoint: endpoint.reasoning_content_url.removesuffix("/v1"),
    ),
    _chat("langchain-openrouter", "ChatOpenRouter", lambda endpoint: endpoint.reasoning_url),
    ChatCase(
        *("langchain-perplexity", "ChatPerplexity", _perplexity("ChatPerplexity", model="sonar")),
        tools=False,
        reasoning=False,
    ),
    ChatCase("langchain-huggingface", "ChatHuggingFace", _hugging_face, reasoning=False),
    ChatCase(
        *("langchain-litellm", "ChatLiteLLM", _litellm),
        reasoning=False,
        needs_asyncio=True,
        keeps_its_client=True,
        note="needs asyncio: its client is aiohttp's",
    ),
    _chat(
        *("langchain-nvidia-ai-endpoints", "ChatNVIDIA", lambda e: e.reasoning_content_url),
        needs_asyncio=True,
        keeps_its_client=True,
        note="needs asyncio: its client is aiohttp's",
    ),
)


def _bedrock_embeddings(endpoint: Endpoint) -> Any:
    return _class("langchain-aws", "BedrockEmbeddings")(
        model_id="amazon.titan-embed-text-v2:0",
        endpoint_url=endpoint.bedrock_url,
        region_name="us-east-1",
    )


def _cohere_embeddings(endpoint: Endpoint) -> Any:
    return _class("langchain-cohere", "CohereEmbeddings")(
        model="loopback", base_url=endpoint.cohere_url, cohere_api_key=KEY
    )


def _fireworks_embeddings(endpoint: Endpoint) -> Any:
    embeddings = _class("langchain-fireworks", "FireworksEmbeddings")(api_key=KEY)
    # The class has the address in its source.
    embeddings.client.base_url = endpoint.openai_url
    return embeddings


def _hugging_face_embeddings(endpoint: Endpoint) -> Any:
    embeddings = _class("langchain-huggingface", "HuggingFaceEndpointEmbeddings")(
        model="loopback/model", provider="hf-inference", huggingfacehub_api_token=KEY
    )
    # The class takes the name of a model on the hub only, the client an address too.
    embeddings.async_client.model = endpoint.feature_extraction_url
    return embeddings


def _litellm_embeddings(endpoint: Endpoint) -> Any:
    return _class("langchain-litellm", "LiteLLMEmbeddings")(
        model="openai/loopback", api_base=endpoint.openai_url, api_key=KEY
    )


def _mistral_embeddings(endpoint: Endpoint) -> Any:
    tokenizers = import_module("tokenizers")
    words = tokenizers.models.WordLevel({"?": 0}, unk_token="?")
    return _class("langchain-mistralai", "MistralAIEmbeddings")(
        model="loopback",
        endpoint=endpoint.openai_url,
        api_key=KEY,
        # Otherwise it fetches one from the internet.
        tokenizer=tokenizers.Tokenizer(words),
    )


EMBEDDINGS: tuple[EmbeddingsCase, ...] = (
    _embeddings(
        *("langchain-openai", "OpenAIEmbeddings", lambda endpoint: endpoint.openai_url),
        # With the check it would fetch a table of tokens.
        options={
            "check_embedding_ctx_length": False,
            "model_kwargs": {"encoding_format": "float"},
        },
    ),
    _embeddings(
        "langchain-google-genai",
        "GoogleGenerativeAIEmbeddings",
        lambda endpoint: endpoint.google_url,
    ),
    EmbeddingsCase(
        *("langchain-aws", "BedrockEmbeddings", _bedrock_embeddings),
        closes_late=True,
        note="a silent server holds its thread, as with the chat model",
    ),
    EmbeddingsCase(
        "langchain-ollama",
        "OllamaEmbeddings",
        lambda endpoint: _class("langchain-ollama", "OllamaEmbeddings")(
            model="loopback", base_url=endpoint.ollama_url
        ),
    ),
    EmbeddingsCase("langchain-mistralai", "MistralAIEmbeddings", _mistral_embeddings),
    EmbeddingsCase("langchain-cohere", "CohereEmbeddings", _cohere_embeddings),
    _embeddings("langchain-together", "TogetherEmbeddings", lambda e: e.openai_url),
    EmbeddingsCase(
        *("langchain-fireworks", "FireworksEmbeddings", _fireworks_embeddings), closes_late=True
    ),
    EmbeddingsCase(
        "langchain-perplexity",
        "PerplexityEmbeddings",
        _perplexity("PerplexityEmbeddings", model="pplx-embed-v1-0.6b"),
    ),
    EmbeddingsCase(
        "langchain-huggingface", "HuggingFaceEndpointEmbeddings", _hugging_face_embeddings
    ),
    EmbeddingsCase(
        "langchain-litellm", "LiteLLMEmbeddings", _litellm_embeddings, needs_asyncio=True
    ),
    _embeddings(
        "langchain-nvidia-ai-endpoints",
        "NVIDIAEmbeddings",
        lambda e: e.openai_url,
        needs_asyncio=True,
    ),
)

PACKAGES = tuple(dict.fromkeys(case.package for case in (*CHAT, *EMBEDDINGS)))
