"""Real libraries on trio: a provider's client over a real socket in a chain, and the classic handler; the docs, executed."""

from __future__ import annotations

import asyncio
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.lowlevel
import openai
import pytest
import trio
import trio.testing
from langchain_classic.callbacks.streaming_aiter import AsyncIteratorCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_openai import OpenAIEmbeddings

from langchain_anyio import disable_trio, enable_trio
from langchain_anyio._providers.table import for_current_loop
from limits import HANGS
from loopback import ProviderServer, Reply, Scenario, Text
from loopback.models import anthropic_messages, chat_completions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest_plugins = ["loopback.fixtures"]

# The SDKs do not close the generators that they nest; what they leave outside of trio is asyncio's
# to collect.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:Async generator '(openai|anthropic|httpx2?|httpcore2?|langchain_openai|langchain_anthropic)\\.:ResourceWarning"
    ),
]

DOCS = (Path(__file__).parents[2] / "docs" / "trio-runtime.md").read_text(encoding="utf-8")
ANSWER = Scenario(Reply(Text("Bubbles rise", " and disappear.")))


@pytest.fixture(autouse=True)
def enabled() -> Iterator[None]:
    enable_trio("langchain_openai", "langchain_classic")
    yield
    disable_trio()


async def step(value: Any) -> Any:
    await anyio.lowlevel.checkpoint()
    return value


@pytest.mark.parametrize("make", (chat_completions, anthropic_messages))
def test_a_chain_runs_on_one_event_loop_after_another(
    make: Callable[..., Any], server: ProviderServer
) -> None:
    model = make(server.serve(ANSWER))
    chain = (
        RunnableLambda(step) | ChatPromptTemplate.from_template("{x}") | model | StrOutputParser()
    )

    async def main() -> tuple[str, list[str]]:
        whole = await chain.ainvoke({"x": 1})
        return whole, [chunk async for chunk in chain.astream({"x": 1})]

    # Those of asyncio leave their connection in the pool of the process.
    for run in (lambda: asyncio.run(main()), lambda: trio.run(main), lambda: trio.run(main)):
        whole, chunks = run()
        assert whole == "".join(chunks) == "Bubbles rise and disappear."
        assert len([chunk for chunk in chunks if chunk]) == 2


class Nearest(BaseRetriever):
    """Finds the text whose embedding is next to that of the query."""

    embeddings: Any
    texts: list[str]

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        raise NotImplementedError

    async def _aget_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        there = await self.embeddings.aembed_documents(self.texts)
        here = await self.embeddings.aembed_query(query)
        distances = [math.dist(here, vector) for vector in there]
        return [Document(self.texts[distances.index(min(distances))])]


@pytest.mark.parametrize("package", ("langchain_openai", "langchain_classic"))
def test_a_retriever_asks_for_embeddings_on_one_event_loop_after_another(
    server: ProviderServer, package: str
) -> None:
    disable_trio()
    enable_trio(package)  # the embeddings are covered, whether their package is or not
    base_url = server.serve(ANSWER).openai_url
    embeddings = OpenAIEmbeddings(
        base_url=base_url,
        api_key="unused",
        max_retries=0,
        check_embedding_ctx_length=False,  # for that it would fetch a table of tokens
        model_kwargs={"encoding_format": "float"},
    )
    chain = RunnableLambda(step) | Nearest(embeddings=embeddings, texts=["water", "www"])

    async def main() -> str:
        (document,) = await chain.ainvoke("ww")
        return str(document.page_content)

    client = embeddings.async_client
    for _ in range(2):
        assert trio.run(main) == "www"

    async def main_of_asyncio() -> str:
        try:
            return await main()
        finally:
            await client._client.close()  # as on asyncio nobody else does

    assert asyncio.run(main_of_asyncio()) == "www"
    assert trio.run(main) == "www"
    assert embeddings.async_client is client


def test_embeddings_with_a_client_of_the_users_keep_it(server: ProviderServer) -> None:
    async def main() -> None:
        async with openai.DefaultAsyncHttpxClient() as http:
            options: dict[str, Any] = {"api_key": "unused", "check_embedding_ctx_length": False}
            own = OpenAIEmbeddings(http_async_client=http, **options)
            assert for_current_loop(own) is own
        proxied = OpenAIEmbeddings(openai_proxy=server.url, **options)
        copy = for_current_loop(proxied)
        assert copy is not proxied
        assert for_current_loop(copy) is copy
        assert for_current_loop(proxied).async_client._client._client is (
            copy.async_client._client._client
        )
        assert for_current_loop("no embeddings") == "no embeddings"

    trio.run(main)


def test_a_cancelled_chain_has_closed_its_connection(server: ProviderServer) -> None:
    reply = Reply(Text("Bubbles rise", " and disappear."))
    endpoint = server.serve(Scenario(reply, fault="stall", after=2))
    chain = RunnableLambda(step) | chat_completions(endpoint) | StrOutputParser()

    async def main() -> None:
        with trio.fail_after(HANGS), trio.CancelScope() as scope:
            async for _ in chain.astream("x"):
                scope.cancel()
        assert scope.cancelled_caught
        (exchange,) = endpoint.exchanges
        # Nothing of ours runs from here on: the loop is held up until the server has seen it.
        assert exchange.closed.wait_blocking()

    trio.run(main)


def test_the_classic_handler_made_where_nothing_runs(capsys: pytest.CaptureFixture[str]) -> None:
    handler = AsyncIteratorCallbackHandler()

    async def main() -> list[str]:
        model = FakeListChatModel(responses=["abc"])
        tokens: list[str] = []

        async def read() -> None:
            tokens.extend([token async for token in handler.aiter()])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            async for _ in model.astream("x", {"callbacks": [handler]}):
                await trio.testing.wait_all_tasks_blocked()
        return tokens

    # The original loses the last one, when the run ends as it is being read.
    assert trio.run(main)[:2] == ["a", "b"]


def test_the_example_of_the_docs_prints_the_answer(server: ProviderServer) -> None:
    program = re.findall(r"^```python\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)[0]
    endpoint = server.serve(ANSWER)
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", program],
        env={**os.environ, "OPENAI_API_KEY": "unused", "OPENAI_BASE_URL": endpoint.openai_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "Bubbles rise and disappear.", "")
    (exchange,) = endpoint.exchanges
    assert "water is wet" in str(exchange.body)


@pytest.mark.filterwarnings("ignore:There is no current event loop:DeprecationWarning")
def test_the_docs_show_the_error_that_comes_without_it() -> None:
    disable_trio()
    with pytest.raises((RuntimeError, TypeError)) as raised:
        trio.run(RunnableLambda(step).ainvoke, 1)
    line = f"{type(raised.value).__name__}: {raised.value}"
    assert line.partition(" <")[0] in DOCS
    assert asyncio.run(RunnableLambda(lambda x: x).ainvoke(1)) == 1
