"""The table of providers, and the model or embeddings to use on the current event loop.

A class is found by its name among the base classes of a model, so no provider is imported here: a
model of one exists only if its package has been imported already.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from .views import is_view, viewed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# By the class that holds the provider's clients, the function that adapts it, and the classes that
# derive from it. Its module is imported when there is such a model.
MODELS: Final[Mapping[str, str]] = {
    "langchain_anthropic.chat_models.ChatAnthropic": "anthropic.anthropic_for_current_loop",
    "langchain_aws.chat_models.bedrock_converse.ChatBedrockConverse": (
        "aws.bedrock_for_current_loop"
    ),
    "langchain_aws.llms.bedrock.BedrockBase": "aws.bedrock_for_current_loop",
    "langchain_cohere.llms.BaseCohere": "cohere.cohere_for_current_loop",
    "langchain_fireworks.chat_models.ChatFireworks": "stainless.fireworks_for_current_loop",
    "langchain_fireworks.llms.Fireworks": "needs_asyncio.refuse_on_trio",
    "langchain_google_genai.chat_models.ChatGoogleGenerativeAI": (
        "google_genai.google_for_current_loop"
    ),
    "langchain_groq.chat_models.ChatGroq": "stainless.groq_for_current_loop",
    "langchain_huggingface.chat_models.huggingface.ChatHuggingFace": (
        "huggingface.chat_for_current_loop"
    ),
    "langchain_huggingface.llms.huggingface_endpoint.HuggingFaceEndpoint": (
        "huggingface.endpoint_for_current_loop"
    ),
    "langchain_litellm.chat_models.litellm.ChatLiteLLM": "needs_asyncio.refuse_on_trio",
    "langchain_mistralai.chat_models.ChatMistralAI": "mistralai.mistralai_for_current_loop",
    "langchain_nvidia_ai_endpoints.chat_models.ChatNVIDIA": "needs_asyncio.refuse_on_trio",
    "langchain_nvidia_ai_endpoints.llm.NVIDIA": "needs_asyncio.refuse_on_trio",
    "langchain_ollama.chat_models.ChatOllama": "ollama.ollama_for_current_loop",
    "langchain_ollama.llms.OllamaLLM": "ollama.ollama_for_current_loop",
    "langchain_openai.chat_models.base.BaseChatOpenAI": "openai.openai_for_current_loop",
    "langchain_openai.llms.base.BaseOpenAI": "stainless.openai_llm_for_current_loop",
    "langchain_openrouter.chat_models.ChatOpenRouter": "openrouter.openrouter_for_current_loop",
    "langchain_perplexity.chat_models.ChatPerplexity": "stainless.perplexity_for_current_loop",
    "langchain_together.llms.Together": "needs_asyncio.refuse_on_trio",
}
EMBEDDINGS: Final[Mapping[str, str]] = {
    "langchain_cohere.embeddings.CohereEmbeddings": "cohere.cohere_for_current_loop",
    "langchain_google_genai.embeddings.GoogleGenerativeAIEmbeddings": (
        "google_genai.google_for_current_loop"
    ),
    "langchain_huggingface.embeddings.huggingface_endpoint.HuggingFaceEndpointEmbeddings": (
        "huggingface.endpoint_for_current_loop"
    ),
    "langchain_litellm.embeddings.litellm.LiteLLMEmbeddings": "needs_asyncio.refuse_on_trio",
    "langchain_mistralai.embeddings.MistralAIEmbeddings": "mistralai.mistralai_for_current_loop",
    "langchain_nvidia_ai_endpoints.embeddings.NVIDIAEmbeddings": "needs_asyncio.refuse_on_trio",
    "langchain_ollama.embeddings.OllamaEmbeddings": "ollama.ollama_for_current_loop",
    "langchain_openai.embeddings.base.OpenAIEmbeddings": (
        "openai.openai_embeddings_for_current_loop"
    ),
    "langchain_perplexity.embeddings.PerplexityEmbeddings": "stainless.perplexity_for_current_loop",
    "langchain_together.embeddings.TogetherEmbeddings": (
        "stainless.together_embeddings_for_current_loop"
    ),
}
_TABLE: Final = {**MODELS, **EMBEDDINGS}

_logger = logging.getLogger("langchain_anyio")

T = TypeVar("T")


def for_current_loop(model: T) -> T:
    """Return the model to run on the current event loop: the same object, or a view of it.

    A model or embeddings of a provider in the table that uses its default HTTP client runs in a
    view, which shares all of its state except the clients (see `views.view_of`). The view's SDK
    client has an HTTP client with the same address, timeout, proxy and socket options. All such
    models on this event loop share that HTTP client, or its connections, which are closed when the
    loop ends. A client that the user supplied is used as it is.
    `ChatOpenAI.stream_chunk_timeout` holds on every backend, even with a client that the user
    supplied; it closes the connection and raises `langchain_openai.StreamChunkTimeoutError`.

    Streams of OpenAI's and Anthropic's SDKs, also with a client that the user supplied, are decoded
    as `decoding` says, and raise `StreamTruncatedError` if they end without a mark of their end.

    Call this in a task of the event loop, once for each run, so that the clients have the model's
    settings of that time. It is not a checkpoint. Opening a client, when its settings are first
    used, takes about 20 milliseconds, nearly all of them for TLS certificates. Clients, one for
    each combination of settings, stay open until the loop ends, as the originals stay open until
    the process ends.

    Args:
        model: A chat model, an LLM or embeddings, of any package. Its clients are never changed.

    Raises:
        RuntimeError: The model's package needs asyncio, and the caller runs on trio.
    """
    if (adapt := _row(cast("Any", type(model)))) is None or is_view(model):
        return model
    original: Any = viewed(cast("Any", model))  # it may be a view made on another loop
    try:
        adapted: T = adapt(original)
    except AttributeError as exc:
        # A name in a provider's package is not as it was in the releases that are known.
        _logger.debug("%s keeps its own HTTP client: %s", type(model).__name__, exc)
        return cast("T", original)
    return adapted


# Bounded, so that temporary classes can be collected.
@lru_cache(maxsize=256)
def _row(cls: type) -> Callable[[Any], Any] | None:
    for base in cls.__mro__:
        path = _TABLE.get(f"{base.__module__}.{base.__qualname__}")
        if path is not None:
            module, _, name = path.partition(".")
            function = getattr(import_module(f".{module}", __package__), name)
            return cast("Callable[[Any], Any]", function)
    return None
