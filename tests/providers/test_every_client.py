"""How the models of each provider's package get the HTTP clients of a loop, beside what every provider does."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

import pytest

from langchain_anyio import open_stream
from langchain_anyio._providers.table import for_current_loop
from langchain_anyio._providers.views import is_view
from langchain_anyio._providers.within_runs import models_on_this_loop
from loopback import Scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loopback import Endpoint, ProviderServer

PACKAGES = (
    *("aws", "cohere", "fireworks", "google_genai", "groq", "huggingface", "litellm", "mistralai"),
    *("nvidia_ai_endpoints", "ollama", "openrouter", "perplexity", "together", "xai"),
)
MISSING = [name for name in PACKAGES if importlib.util.find_spec(f"langchain_{name}") is None]
KEY = "unused"

pytest_plugins = ["loopback.fixtures"]

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        bool(MISSING), reason="needs the providers' packages, as in the nox session 'providers'"
    ),
]


@pytest.fixture(autouse=True, scope="module")
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
        patch.setenv("FIREWORKS_API_KEY", KEY)
        patch.setenv("TOGETHER_API_KEY", KEY)
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        yield


def ollama(endpoint: Endpoint, **options: Any) -> Any:
    from langchain_ollama import ChatOllama

    return ChatOllama(model="m", base_url=endpoint.ollama_url, **options)


def ollama_llm(endpoint: Endpoint) -> Any:
    from langchain_ollama import OllamaLLM

    return OllamaLLM(model="m", base_url=endpoint.ollama_url)


def ollama_embeddings(endpoint: Endpoint) -> Any:
    from langchain_ollama import OllamaEmbeddings

    return OllamaEmbeddings(model="m", base_url=endpoint.ollama_url)


def google(endpoint: Endpoint) -> Any:
    from langchain_google_genai import ChatGoogleGenerativeAI

    return ChatGoogleGenerativeAI(model="m", api_key=KEY, base_url=endpoint.google_url)


def groq(endpoint: Endpoint, **options: Any) -> Any:
    from langchain_groq import ChatGroq

    return ChatGroq(model="m", api_key=KEY, base_url=endpoint.groq_url, **options)


def mistral(endpoint: Endpoint, **options: Any) -> Any:
    from langchain_mistralai import ChatMistralAI

    return ChatMistralAI(model="m", api_key=KEY, endpoint=endpoint.mistral_url, **options)


def xai(endpoint: Endpoint, **options: Any) -> Any:
    from langchain_xai import ChatXAI

    return ChatXAI(model="m", api_key=KEY, base_url=endpoint.openai_url, **options)


def together(endpoint: Endpoint) -> Any:
    from langchain_together import ChatTogether

    return ChatTogether(model="m", api_key=KEY, base_url=endpoint.openai_url)


def cohere(endpoint: Endpoint) -> Any:
    from langchain_cohere import ChatCohere

    return ChatCohere(model="m", cohere_api_key=KEY, base_url=endpoint.cohere_url)


def perplexity(endpoint: Endpoint) -> Any:
    from langchain_perplexity import ChatPerplexity

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERPLEXITY_BASE_URL", endpoint.perplexity_url)
        return ChatPerplexity(model="m", api_key=KEY)


def fireworks(endpoint: Endpoint) -> Any:
    from langchain_fireworks import ChatFireworks

    return ChatFireworks(model="m", api_key=KEY, base_url=endpoint.ollama_url)


def hugging_face(endpoint: Endpoint) -> Any:
    from langchain_huggingface import ChatHuggingFace

    return ChatHuggingFace(llm=hugging_face_llm(endpoint), model_id="m")


def hugging_face_llm(endpoint: Endpoint) -> Any:
    from langchain_huggingface import HuggingFaceEndpoint

    return HuggingFaceEndpoint(endpoint_url=endpoint.openai_url, huggingfacehub_api_token=KEY)


def openrouter(endpoint: Endpoint) -> Any:
    from langchain_openrouter import ChatOpenRouter

    return ChatOpenRouter(model="m", api_key=KEY, base_url=endpoint.openai_url)


def openai_llm(endpoint: Endpoint) -> Any:
    from langchain_openai import OpenAI

    return OpenAI(model="m", api_key=KEY, base_url=endpoint.openai_url)


def together_embeddings(endpoint: Endpoint) -> Any:
    from langchain_together import TogetherEmbeddings

    return TogetherEmbeddings(model="m", api_key=KEY, base_url=endpoint.openai_url)


# For each model, what leads from it to the HTTP client that it uses.
HTTP_CLIENTS: dict[Callable[..., Any], Callable[[Any], Any]] = {
    ollama: lambda model: model._async_client._client,
    ollama_llm: lambda model: model._async_client._client,
    ollama_embeddings: lambda model: model._async_client._client,
    google: lambda model: model.async_client._api_client._async_httpx_client,
    groq: lambda model: model.async_client._client._client,
    mistral: lambda model: model.async_client,
    xai: lambda model: model.async_client._client._client,
    together: lambda model: model.root_async_client._client,
    cohere: lambda model: model.async_client._client_wrapper.httpx_client.httpx_client,
    perplexity: lambda model: model.async_client._client,
    fireworks: lambda model: model.async_client._client._client,
    hugging_face: lambda model: model.llm.async_client._async_client,
    hugging_face_llm: lambda model: model.async_client._async_client,
    openrouter: lambda model: model.client.sdk_configuration.async_client,
    openai_llm: lambda model: model.async_client._client._client,
    together_embeddings: lambda model: model.async_client._client._client,
}
makers = pytest.mark.parametrize("make", HTTP_CLIENTS, ids=lambda make: make.__name__)


def connections_of(http: Any) -> Any:
    """What two clients have in common if they share connections."""
    return getattr(http._transport, "_transport", http._transport)._pool


@makers
async def test_a_view_has_a_client_of_its_loop(make: Any, server: ProviderServer) -> None:
    model, http = make(server.serve(Scenario())), HTTP_CLIENTS[make]
    theirs = http(model)
    view = for_current_loop(model)
    assert is_view(view)
    assert for_current_loop(view) is view
    assert http(view) is not theirs
    assert http(model) is theirs
    if theirs is not None:  # one has its own only when it is first used
        assert http(view).headers == theirs.headers
        assert http(view).base_url == theirs.base_url
        assert http(view).timeout == theirs.timeout


@makers
async def test_models_share_connections(make: Any, server: ProviderServer) -> None:
    """One is often made for each request, so the number of pools must not grow with them."""
    http = HTTP_CLIENTS[make]
    endpoint = server.serve(Scenario())
    one, other = (for_current_loop(make(endpoint)) for _ in range(2))
    assert connections_of(http(one)) is connections_of(http(other))


@makers
async def test_what_is_not_as_known_runs_as_it_is(
    make: Any, server: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a release that renames what is private."""
    model = make(server.serve(Scenario()))
    if make in {fireworks, hugging_face, hugging_face_llm}:
        # These do not depend on private names of httpx; Hugging Face's are its own.
        if make is fireworks:
            return
        inference = model.llm if make is hugging_face else model
        inference.async_client.__dict__.pop("exit_stack")
    elif make in {together, xai}:
        monkeypatch.delattr(type(model), "root_async_client", raising=False)
        model.__dict__.pop("root_async_client")
    else:
        http = HTTP_CLIENTS[make](model)
        transport = http.__dict__.pop("_transport")
        assert for_current_loop(model) is model
        http._transport = transport  # some close themselves when they are collected
        return
    assert for_current_loop(model) is model


async def test_clients_of_the_user_are_used(server: ProviderServer) -> None:
    import httpx
    import ollama as sdk

    endpoint = server.serve(Scenario())
    own: Any = httpx.AsyncClient()
    assert for_current_loop(model := groq(endpoint, http_async_client=own)) is model
    # Its view has the limit on each wait.
    assert HTTP_CLIENTS[xai](for_current_loop(xai(endpoint, http_async_client=own))) is own

    class Own(httpx.AsyncClient):
        pass

    assert for_current_loop(model := mistral(endpoint, async_client=Own())) is model
    transport = httpx.AsyncHTTPTransport(retries=1)
    limited = ollama(endpoint, async_client_kwargs={"transport": transport})
    assert connections_of(HTTP_CLIENTS[ollama](for_current_loop(limited)))._retries == 1

    class OwnTransport(httpx.AsyncHTTPTransport):
        pass

    model = ollama(endpoint, async_client_kwargs={"transport": OwnTransport()})
    assert for_current_loop(model) is model

    class OwnSDK(sdk.AsyncClient):
        pass

    model = ollama(endpoint)
    model._async_client = OwnSDK()
    assert for_current_loop(model) is model


async def test_certificates_of_the_user_are_not_shared(server: ProviderServer) -> None:
    endpoint = server.serve(Scenario())
    one, other, same = (
        HTTP_CLIENTS[ollama](for_current_loop(ollama(endpoint, client_kwargs={"verify": verify})))
        for verify in (True, False, False)
    )
    assert connections_of(one) is not connections_of(other)
    assert connections_of(other) is connections_of(same)


async def test_a_client_that_is_set_meanwhile_is_used(server: ProviderServer) -> None:
    endpoint = server.serve(Scenario())
    view, model = for_current_loop(first := ollama(endpoint)), ollama(endpoint)
    first._async_client = model._async_client
    assert view._async_client is model._async_client
    view = for_current_loop(first := mistral(endpoint))
    first.async_client = replaced = mistral(endpoint).async_client
    assert view.async_client is replaced


def test_one_that_is_collected_closes_nothing(
    run: Callable[..., Any], server: ProviderServer
) -> None:
    """Views' clients are copies of such that close themselves; the connections are others' too."""
    endpoint = server.serve(Scenario())

    async def main() -> None:
        for make in (google, groq):
            for _ in range(3):
                await open_stream(make(endpoint), "Hi")

    run(main)
    assert len(endpoint.connections) == 2


@pytest.mark.parametrize(
    "path",
    (
        "langchain_litellm.ChatLiteLLM",
        "langchain_litellm.LiteLLMEmbeddings",
        "langchain_nvidia_ai_endpoints.ChatNVIDIA",
        "langchain_nvidia_ai_endpoints.NVIDIAEmbeddings",
        "langchain_together.Together",
        "langchain_fireworks.Fireworks",
    ),
)
async def test_those_with_aiohttp_alone(path: str, anyio_backend_name: str) -> None:
    module, _, name = path.rpartition(".")
    cls = getattr(importlib.import_module(module), name)

    class Derived(cls):  # type: ignore[misc]
        pass

    for model in (cls.model_construct(), Derived.model_construct()):
        if anyio_backend_name != "trio":
            assert for_current_loop(model) is model
            continue
        with pytest.raises(RuntimeError, match="aiohttp, which needs asyncio") as caught:
            for_current_loop(model)
        message = str(caught.value)
        assert type(model).__name__ in message
        assert module.replace("_", "-") in message
        assert "or use " in message


async def test_embeddings_and_llms_bind_within_runs(server: ProviderServer) -> None:
    endpoint = server.serve(Scenario())
    embeddings, llm = ollama_embeddings(endpoint), ollama_llm(endpoint)
    with models_on_this_loop():
        assert is_view(embeddings.aembed_query.__self__)
        assert is_view(llm.agenerate.__self__)
    assert embeddings.aembed_query.__self__ is embeddings


async def test_a_name_of_each_class_in_the_table() -> None:
    """The table has the names of the modules that define the classes, which may move."""
    from langchain_anyio._providers.table import EMBEDDINGS, MODELS

    for path in (*MODELS, *EMBEDDINGS):
        module, _, name = path.rpartition(".")
        assert getattr(importlib.import_module(module), name).__module__ == module
