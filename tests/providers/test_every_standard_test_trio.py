"""The asynchronous half of langchain-tests' standard suite on trio, for every provider.

On asyncio it would try the packages alone: `enable_trio()` has no effect there.
"""

from __future__ import annotations

import gc
import inspect
import json
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests

from langchain_anyio import disable_trio, enable_trio
from loopback import ProviderServer, Reply, Scenario, Text, ToolCall
from provider_cases import CHAT, EMBEDDINGS, ENVIRONMENT, PACKAGES, ChatCase, EmbeddingsCase

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["loopback.fixtures"]

# Models that are refused on trio have a test of that.
ON_TRIO = [case for case in CHAT if not case.needs_asyncio]
EMBEDDINGS_ON_TRIO = [case for case in EMBEDDINGS if not case.needs_asyncio]

JOKE = {"setup": "Why do cats sit still?", "punchline": "To be read."}

HELLO = Reply(Text("Hello", " there", "."))
# What each test of a chat model is answered.
ANSWERS = {
    "test_ainvoke": HELLO,
    "test_astream": HELLO,
    "test_astream_events_v3": HELLO,
    "test_abatch": HELLO,
    "test_tool_calling_async": Reply(
        ToolCall("magic_function", '{"input"', ": 3}", call_id="call_1")
    ),
}
OVERRIDES = ("test_ainvoke_with_model_override", "test_astream_with_model_override")
# A model that was given a tool for it answers with a call, others in JSON.
STRUCTURED = (
    Reply(ToolCall("Joke", json.dumps(JOKE), call_id="call_1")),
    Reply(Text(json.dumps(JOKE))),
)


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        for package in PACKAGES:
            import_module(package.replace("-", "_"))
        enable_trio()
        yield
        disable_trio()
    for _ in range(3):
        gc.collect()


def suite_of(case: ChatCase) -> Any:
    class Suite(ChatModelIntegrationTests):
        chat_model_class = object  # type: ignore[assignment]
        chat_model_params: dict[str, Any] = {}  # noqa: RUF012
        has_tool_calling = case.tools
        has_tool_choice = True
        has_structured_output = True
        structured_output_kwargs: dict[str, Any] = {}  # noqa: RUF012
        supports_model_override = True
        model_override_value = "other"

    return Suite()


def asynchronous(cls: type) -> set[str]:
    return {
        name
        for name, function in inspect.getmembers(cls, inspect.iscoroutinefunction)
        if name.startswith("test_")
    }


def test_no_asynchronous_test_is_left_out() -> None:
    assert asynchronous(ChatModelIntegrationTests) == {
        *ANSWERS,
        *OVERRIDES,
        "test_structured_output_async",
    }
    assert asynchronous(EmbeddingsIntegrationTests) == {
        "test_aembed_query",
        "test_aembed_documents",
    }


def outcome(backend: str, test: Any, *arguments: Any) -> tuple[type[BaseException], str] | None:
    """Run a test, and return its error if it fails."""
    try:
        anyio.run(test, *arguments, backend=backend)
    except Exception as error:
        # The endpoints have addresses of their own.
        return type(error), re.sub(r"http://\S+", "", str(error))
    return None


@pytest.mark.parametrize("case", ON_TRIO, ids=str)
@pytest.mark.parametrize("name", ANSWERS)
def test_standard(case: ChatCase, name: str, server: ProviderServer) -> None:
    if name == "test_tool_calling_async" and not case.tools:
        pytest.skip("its messages have none")
    model = case.make(server.serve(Scenario(ANSWERS[name])))
    trio.run(getattr(suite_of(case), name), model)


@pytest.mark.parametrize("case", ON_TRIO, ids=str)
@pytest.mark.parametrize("name", OVERRIDES)
def test_standard_model_override(case: ChatCase, name: str, server: ProviderServer) -> None:
    """Several packages take no other model for a call, and so fail on asyncio in the same way."""
    outcomes = []
    for backend in ("asyncio", "trio"):
        model = case.make(server.serve(Scenario(HELLO)))
        outcomes.append(outcome(backend, getattr(suite_of(case), name), model))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("case", ON_TRIO, ids=str)
@pytest.mark.parametrize("schema", ("pydantic", "typeddict", "json_schema"))
def test_standard_structured_output(case: ChatCase, schema: str, server: ProviderServer) -> None:
    """What a package cannot do with these answers on asyncio either fails in the same way."""
    for reply in STRUCTURED:
        outcomes = []
        for backend in ("asyncio", "trio"):
            model = case.make(server.serve(Scenario(reply)))
            test = suite_of(case).test_structured_output_async
            outcomes.append(outcome(backend, test, model, schema))
        assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("case", EMBEDDINGS_ON_TRIO, ids=str)
@pytest.mark.parametrize("name", ("test_aembed_query", "test_aembed_documents"))
def test_standard_embeddings(case: EmbeddingsCase, name: str, server: ProviderServer) -> None:
    class Suite(EmbeddingsIntegrationTests):
        embeddings_class = object  # type: ignore[assignment]

    suite: Any = Suite()
    trio.run(getattr(suite, name), case.make(server.serve(Scenario())))
