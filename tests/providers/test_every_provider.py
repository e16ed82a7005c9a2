"""Every provider's package, with its default HTTP client and its own format on a real socket, on each backend.

What these tests show goes into the tables of docs/models.md.
"""

from __future__ import annotations

import gc
import itertools
import time
import warnings
from contextlib import aclosing, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from langchain_core.language_models import BaseChatModel

from langchain_anyio import disable_trio, enable_trio, open_stream
from loopback import ProviderServer, Reply, Scenario, Text, Thinking, ToolCall
from provider_cases import (
    CHAT,
    EMBEDDINGS,
    ENVIRONMENT,
    PACKAGES,
    ChatCase,
    EmbeddingsCase,
    overrides,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loopback import Endpoint

pytest_plugins = ["loopback.fixtures"]

ANSWER = Reply(Thinking("Hm, ", "yes."), Text("Hello", " there", "."))
TOOLS = Reply(
    Text("Let me ", "see."),
    ToolCall("search", '{"query": "wa', 'ter"}', call_id="call_1"),
    ToolCall("now", "{}", call_id="call_2"),
)
CALLS = [("search", {"query": "water"}), ("now", {})]
SILENT = Scenario(ANSWER, fault="stall")

# Seconds in which the server must have seen a connection close. It takes milliseconds; this is for busy machines.
CLOSED_WITHIN = 2.0
GIVEN_UP_AFTER = 6.0

chat = pytest.mark.parametrize("case", CHAT, ids=str)
embeddings = pytest.mark.parametrize("case", EMBEDDINGS, ids=str)
ways = pytest.mark.parametrize("way", ("ainvoke", "astream", "open_stream"))


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
    # What packages have left open is reported here, where that is no error, and not when pytest has ended.
    for _ in range(3):
        gc.collect()


@pytest.fixture
def disabled() -> Iterator[None]:
    """Without `enable_trio()`, which all other tests have."""
    disable_trio()
    yield
    enable_trio()


@pytest.fixture
def backend(anyio_backend: tuple[str, dict[str, Any]]) -> str:
    return anyio_backend[0]


@pytest.fixture(autouse=True)
def can_run(request: pytest.FixtureRequest) -> None:
    """Leave out what is refused on trio, which has a test of its own."""
    case = request.node.callspec.params.get("case")
    name, _ = request.node.callspec.params.get("anyio_backend", ("", {}))
    # Those without a backend of their own use both.
    if "refused" not in request.node.name and case.needs_asyncio and name != "asyncio":
        pytest.skip("refused on trio")


def as_the_package_does(way: str, backend: str) -> None:
    """Leave out what is not this project's: plain calls on asyncio are the package's own."""
    if backend == "asyncio" and way != "open_stream":
        pytest.skip("the package's own affair")


async def text_of(model: Any, way: str) -> str:
    """The text of an answer, whole only if all parts of the API that was asked say so."""
    if way == "ainvoke":
        return str((await model.ainvoke("Hi")).text)
    if way == "astream":
        return "".join([chunk.text async for chunk in model.astream("Hi")])
    async with open_stream(model, "Hi") as stream:
        text = "".join([delta async for delta in stream.text])
        assert (await stream).text == text
        return text


async def message_of(model: Any, way: str) -> Any:
    if way == "ainvoke":
        return await model.ainvoke("Hi")
    if way == "astream":
        whole: Any = None
        async for chunk in model.astream("Hi"):
            whole = chunk if whole is None else whole + chunk
        return whole
    return await open_stream(model, "Hi")


@chat
@pytest.mark.usefixtures("disabled")
def test_whole_answer_of_open_stream(
    case: ChatCase, run: Callable[..., Any], server: ProviderServer
) -> None:
    """The loop ends, and with it the connections."""
    endpoint = server.serve(Scenario(ANSWER))
    model = case.make(endpoint)

    async def main() -> None:
        for _ in range(2):
            assert await text_of(model, "open_stream") == "Hello there."

    run(main)
    assert len(endpoint.exchanges) == 2  # none was tried again
    if not case.keeps_its_client:
        for connection in endpoint.connections:
            assert connection.closed.wait_blocking(CLOSED_WITHIN)


@chat
def test_whole_answer(
    case: ChatCase, run: Callable[..., Any], server: ProviderServer, record_property: Any
) -> None:
    endpoint = server.serve(Scenario(ANSWER))
    model = case.make(endpoint)
    native = overrides(model, "_astream", BaseChatModel)
    record_property("runs", "native" if native else "thread")

    async def main() -> None:
        assert await text_of(model, "ainvoke") == "Hello there."
        assert await text_of(model, "astream") == "Hello there."

    run(main)
    assert len(endpoint.exchanges) == 2


def nameless(calls: list[Any]) -> list[Any]:
    """Tool calls without their ids, some of which are random."""
    return [(call["name"], call["args"]) for call in calls]


@chat
@ways
def test_tool_calls(
    case: ChatCase, way: str, run: Callable[..., Any], server: ProviderServer
) -> None:
    if not case.tools:
        pytest.skip("its messages have none")
    model = case.make(server.serve(Scenario(TOOLS)))

    async def main() -> None:
        message = await message_of(model, way)
        if way == "open_stream" and not case.as_events:
            original = await (await model.astream_events("Hi", version="v3")).output
            assert nameless(message.tool_calls) == nameless(original.tool_calls)
            return
        assert [(call["name"], call["args"]) for call in message.tool_calls] == CALLS
        assert not message.invalid_tool_calls

    run(main)


@chat
@ways
def test_reasoning(
    case: ChatCase, way: str, run: Callable[..., Any], server: ProviderServer
) -> None:
    if not case.reasoning:
        pytest.skip("its messages have none")
    model = case.make(server.serve(Scenario(ANSWER)))

    async def main() -> None:
        if way == "open_stream" and case.as_events:
            async with open_stream(model, "Hi") as stream:
                assert "".join([delta async for delta in stream.reasoning]) == "Hm, yes."
        message = await message_of(model, way)
        blocks = [block for block in message.content_blocks if block["type"] == "reasoning"]
        if way != "open_stream" or case.as_events:
            assert "Hm, yes." in str(blocks)
        assert message.text == "Hello there."

    run(main)


@contextmanager
def abandoned_threads_allowed(case: Any) -> Iterator[None]:
    with warnings.catch_warnings():
        if case.closes_late:
            warnings.filterwarnings("ignore", "the call of .* in a worker thread", ResourceWarning)
        yield


async def seconds_to_close(endpoint: Endpoint, since: float) -> float:
    """Wait until the server sees the first connection close, and return how long that took."""
    connection = endpoint.exchanges[0].connection
    try:
        if await connection.closed.wait(GIVEN_UP_AFTER) and connection.closed_at is not None:
            return max(connection.closed_at - since, 0)
        return float("inf")
    finally:
        # A thread that waits for an answer, or tries again, would hold up the end of the event loop.
        endpoint.scenario = Scenario(status=400)
        connection.drop()


@chat
@pytest.mark.parametrize("way", ("astream", "open_stream"))
def test_left_early(
    case: ChatCase,
    way: str,
    backend: str,
    run: Callable[..., Any],
    server: ProviderServer,
    record_property: Any,
) -> None:
    """The connection of an answer that is left after its first text is closed."""
    as_the_package_does(way, backend)
    endpoint = server.serve(Scenario(ANSWER, gated=True))
    model = case.make(endpoint)

    async def let_through() -> None:
        (await endpoint.exchange()).release_through(b" there")

    async def main() -> float:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(let_through)
            if way == "astream":
                async with aclosing(model.astream("Hi")) as chunks:
                    async for chunk in chunks:
                        if chunk.text:
                            break
                    left = time.monotonic()
            else:
                async with open_stream(model, "Hi") as stream:
                    async for _ in stream.text:
                        break
                    left = time.monotonic()
        return await seconds_to_close(endpoint, left)

    seconds = run(main)
    record_property("seconds", seconds)
    assert seconds < CLOSED_WITHIN or case.closes_late


@chat
@ways
def test_silent_server_cancelled(
    case: ChatCase,
    way: str,
    backend: str,
    run: Callable[..., Any],
    server: ProviderServer,
    record_property: Any,
) -> None:
    """A call that waits for a silent server is cancelled at once, and its connection is closed."""
    as_the_package_does(way, backend)
    endpoint = server.serve(SILENT)
    model = case.make(endpoint)

    async def main() -> tuple[float, float]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(text_of, model, way)
            await endpoint.exchange()
            await anyio.wait_all_tasks_blocked()
            cancelled = time.monotonic()
            tasks.cancel_scope.cancel()
        left = time.monotonic() - cancelled
        return left, await seconds_to_close(endpoint, cancelled)

    with abandoned_threads_allowed(case):
        left, seconds = run(main)
    record_property("seconds", max(left, seconds))
    assert left < (GIVEN_UP_AFTER if case.closes_late else CLOSED_WITHIN)
    assert seconds < CLOSED_WITHIN or case.closes_late
    assert len(endpoint.exchanges) == 1


# One event loop after another, and the calls that are made on each.
ORDERS = (
    (("asyncio", "asyncio", "trio", "trio", "asyncio"), ("ainvoke", "astream", "open_stream")),
    (("trio", "trio", "asyncio", "asyncio", "trio"), ("open_stream", "ainvoke", "astream")),
    (("asyncio", "trio", "asyncio", "trio", "asyncio"), ("astream", "open_stream", "ainvoke")),
    (("trio", "asyncio", "trio", "asyncio", "trio"), ("ainvoke", "open_stream", "astream")),
)


@chat
@pytest.mark.parametrize(
    ("order", "mixed"), ORDERS, ids=[f"{'-'.join(order)}-{mixed[0]}" for order, mixed in ORDERS]
)
def test_one_event_loop_after_another(
    case: ChatCase, order: tuple[str, ...], mixed: tuple[str, ...], server: ProviderServer
) -> None:
    """One model object on five event loops, and nothing is tried again.

    On asyncio plain calls are the package's own affair. Where its client breaks on a second loop,
    they are made on the first loop alone.
    """
    endpoint = server.serve(Scenario(ANSWER))
    model = case.make(endpoint)
    numbers = itertools.count(1)

    async def main(calls: tuple[str, ...]) -> None:
        for way in calls:
            assert await text_of(model, way) == "Hello there.", way
            assert len(endpoint.exchanges) == next(numbers), f"{way} was tried again"

    for position, name in enumerate(order):
        plain = name == "trio" or "asyncio" not in order[:position]
        anyio.run(main, mixed if plain else ("open_stream",) * 2, backend=name)


@chat
@ways
def test_refused_on_trio(
    case: ChatCase,
    way: str,
    backend: str,
    run: Callable[..., Any],
    server: ProviderServer,
    request: pytest.FixtureRequest,
) -> None:
    """What needs asyncio says so, with the way out, before anything is sent."""
    if not case.needs_asyncio or backend != "trio":
        pytest.skip("it runs there")
    if way == "open_stream":
        request.getfixturevalue("disabled")
    endpoint = server.serve(Scenario(ANSWER))
    model = case.make(endpoint)

    async def main() -> None:
        with pytest.raises(RuntimeError) as caught:
            await text_of(model, way)
        words = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
        assert case.package in words
        assert "asyncio" in words

    run(main)
    assert not endpoint.exchanges


TEXTS = ["water", "wow"]
VECTORS = [[5.0, 1.0], [3.0, 2.0]]


@embeddings
def test_embeddings(
    case: EmbeddingsCase, run: Callable[..., Any], server: ProviderServer, record_property: Any
) -> None:
    from langchain_core.embeddings import Embeddings

    model = case.make(server.serve(Scenario()))
    native = overrides(model, "aembed_documents", Embeddings)
    record_property("runs", "native" if native else "thread")

    async def main() -> None:
        assert await model.aembed_documents(TEXTS) == VECTORS
        assert await model.aembed_query("water") == VECTORS[0]

    run(main)


@embeddings
@pytest.mark.parametrize(
    "order", (("asyncio", "trio", "trio"), ("trio", "trio", "asyncio")), ids="-".join
)
def test_embeddings_on_one_event_loop_after_another(
    case: EmbeddingsCase, order: tuple[str, ...], server: ProviderServer
) -> None:
    """One object on several event loops; a second loop of asyncio is the package's own affair."""
    if case.needs_asyncio:
        pytest.skip("refused on trio")
    endpoint = server.serve(Scenario())
    model = case.make(endpoint)

    async def main() -> None:
        before = len(endpoint.exchanges)
        assert await model.aembed_query("water") == VECTORS[0]
        assert len(endpoint.exchanges) == before + 1  # it was not tried again

    for name in order:
        anyio.run(main, backend=name)


@embeddings
def test_embeddings_of_a_silent_server_cancelled(
    case: EmbeddingsCase,
    backend: str,
    run: Callable[..., Any],
    server: ProviderServer,
    record_property: Any,
) -> None:
    as_the_package_does("aembed_query", backend)
    endpoint = server.serve(SILENT)
    model = case.make(endpoint)

    async def main() -> tuple[float, float]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(model.aembed_query, "water")
            await endpoint.exchange()
            await anyio.wait_all_tasks_blocked()
            cancelled = time.monotonic()
            tasks.cancel_scope.cancel()
        left = time.monotonic() - cancelled
        return left, await seconds_to_close(endpoint, cancelled)

    with abandoned_threads_allowed(case):
        left, seconds = run(main)
    record_property("seconds", max(left, seconds))
    assert left < (GIVEN_UP_AFTER if case.closes_late else CLOSED_WITHIN)
    assert seconds < CLOSED_WITHIN or case.closes_late


@embeddings
def test_embeddings_refused_on_trio(
    case: EmbeddingsCase, backend: str, run: Callable[..., Any], server: ProviderServer
) -> None:
    if not case.needs_asyncio or backend != "trio":
        pytest.skip("they run there")
    endpoint = server.serve(Scenario())
    model = case.make(endpoint)

    async def main() -> None:
        with pytest.raises(RuntimeError) as caught:
            await model.aembed_query("water")
        words = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
        assert case.package in words
        assert "asyncio" in words

    run(main)
    assert not endpoint.exchanges
