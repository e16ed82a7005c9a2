"""The examples of the documentation, run as they stand there, and its endpoint on real servers."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import uvicorn

from loopback import Reply, Scenario, Text, provider_server
from models import AStreamModel, chunk

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = (Path(__file__).parents[2] / "docs" / "examples.md").read_text(encoding="utf-8")
EXAMPLES = dict(
    zip(
        ("stream", "article", "handler", "page", "two models", "stop", "timeout", "endpoint"),
        re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL),
        strict=True,
    )
)
WORDS = ("Bubbles ", "rise ", "and ", "disappear.")
ANSWER = "".join(WORDS)

# The SDK does not close the generators that it nests; on trio each one says so when it is collected.
SDK_GENERATORS = pytest.mark.filterwarnings(
    "ignore:Async generator '(openai|httpx|httpcore|langchain_openai)\\.:ResourceWarning"
)


def names_of(example: str) -> dict[str, Any]:
    """What an example defines; run under another name than `__main__`, it does not start by itself."""
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(EXAMPLES[example], f"examples.md: {example}", "exec"), names)
    return names


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Scenario], Any]]:
    with provider_server() as server:

        def serve(scenario: Scenario) -> Any:
            endpoint = server.serve(scenario)
            monkeypatch.setenv("OPENAI_API_KEY", "unused")
            monkeypatch.setenv("OPENAI_BASE_URL", endpoint.openai_url)
            return endpoint

        yield serve


WHOLE = Scenario(Reply(Text(*WORDS)))


@SDK_GENERATORS
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("example", "printed"),
    (
        ("stream", ANSWER),
        ("handler", ANSWER),
        ("page", ANSWER),
        ("two models", f"{ANSWER} | {ANSWER}\n"),
    ),
)
async def test_an_example_prints_the_answer(
    example: str, printed: str, serve: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(WHOLE)
    await names_of(example)["main"]()
    assert capsys.readouterr().out == printed


@SDK_GENERATORS
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("example", "printed"),
    (
        ("stop", "Bubbles  [stopped]\nso far: Bubbles \n"),
        ("timeout", "Bubbles  [out of time] so far: Bubbles \n"),
    ),
)
async def test_an_example_that_stops_the_model(
    example: str, printed: str, serve: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    # After the first word the server is silent, until the client leaves.
    endpoint = serve(Scenario(Reply(Text(*WORDS)), fault="stall", after=2))
    await names_of(example)["main"]()
    assert capsys.readouterr().out == printed
    assert await (await endpoint.exchange()).closed.wait()


def test_the_article_prints_the_answer() -> None:
    """The example is a program: it starts an asyncio task, so it runs on asyncio alone."""
    assert EXAMPLES["article"].count("langchain_anyio") == 1
    assert "langchain_anyio.callbacks import AsyncIteratorCallbackHandler" in EXAMPLES["article"]
    with provider_server() as server:
        endpoint = server.serve(WHOLE)
        env = {**os.environ, "OPENAI_API_KEY": "unused", "OPENAI_BASE_URL": endpoint.openai_url}
        done = subprocess.run(
            [sys.executable, "-c", EXAMPLES["article"]],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, ANSWER, "")


def test_the_article_was_changed_in_its_imports_alone() -> None:
    """Beside them: names of LangChain's packages that have moved since, and a bracket that was missing."""
    for line in (
        "async def async_chat(message) -> AsyncIterable[str]:",
        "    callback = AsyncIteratorCallbackHandler()",
        "    chat = ChatOpenAI(streaming=True, callbacks=[callback], temperature=0)",
        "    async def wrap_done(fn: Awaitable, event: asyncio.Event):",
        "            event.set()",
        "        wrap_done(chat.agenerate(messages=[[HumanMessage(content=message)]]), callback.done)",
        "    async for token in callback.aiter():",
        '        yield f"{token}"',
        "    await task",
    ):
        assert f"{line}\n" in EXAMPLES["article"]


# The endpoint: the model is ours, so that it can be seen to stop; servers, sockets and responses are real


class Watched(AStreamModel):
    """A model of the endpoint's, in the server's thread, which is watched from the test's."""

    times: int = 1

    def __init__(self, silent_after: int | None = None, **kwargs: Any) -> None:
        super().__init__(before=self._before, **kwargs)
        self._silent_after = silent_after
        self._silent = threading.Event()
        self._stopped = threading.Event()

    async def _before(self, number: int) -> None:
        try:
            await anyio.sleep(0)
            if number == self._silent_after:
                self._silent.set()
                await anyio.sleep_forever()
        except BaseException:
            self._stopped.set()
            raise

    async def _astream(self, *args: Any, **kwargs: Any) -> Any:
        try:
            async for piece in super()._astream(*args, **kwargs):
                yield chunk(piece.text * self.times)
        finally:
            self._stopped.set()

    def wait_until_held_back(self) -> int:
        """Wait until nothing was produced for half a second, and return how much has been."""
        produced, since = -1, time.monotonic()
        while time.monotonic() < since + 0.5:
            if len(self.trace) != produced:
                produced, since = len(self.trace), time.monotonic()
            time.sleep(0.02)
        return produced


@contextmanager
def on_uvicorn(app: Any) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, lifespan="off", log_config=None, log_level="critical", ws="none")
    )
    thread = threading.Thread(
        target=anyio.run, args=(server.serve, [listener]), kwargs={"backend": "asyncio"}
    )
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join(60)
        listener.close()
        assert not thread.is_alive()


@contextmanager
def on_hypercorn_trio(app: Any) -> Iterator[int]:
    import trio
    from hypercorn.config import Config
    from hypercorn.trio import serve

    listener = socket.create_server(("127.0.0.1", 0))
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.errorlog = config.accesslog = None
    config.graceful_timeout = 0.1
    stop = threading.Event()

    async def stopped() -> None:
        while not stop.is_set():
            await trio.sleep(0.02)

    thread = threading.Thread(
        target=lambda: trio.run(lambda: serve(app, config, shutdown_trigger=stopped))
    )
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        thread.join(60)
        listener.detach()  # hypercorn has closed it
        assert not thread.is_alive()


SERVERS = {"uvicorn": on_uvicorn, "hypercorn on trio": on_hypercorn_trio}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server" in metafunc.fixturenames:
        backends = str(metafunc.config.getoption("--backend")).split(",")
        names = [name for name in SERVERS if "trio" in backends or "trio" not in name]
        metafunc.parametrize("server", [SERVERS[name] for name in names], ids=names)


def ask(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=60)
    client.sendall(b"GET /chat?question=why HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
    return client


def read_until(client: socket.socket, wanted: bytes) -> bytes:
    got = b""
    while wanted not in got:
        piece = client.recv(65536)
        assert piece, f"the server left after {got!r}"
        got += piece
    return got


def events_in(response: bytes) -> list[str]:
    return [json.loads(data) for data in re.findall(rb"^data: (.*)$", response, re.MULTILINE)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the example of the endpoint defines; its model is replaced."""
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    return names_of("endpoint")


def test_the_endpoint_streams_events(server: Any, names: dict[str, Any]) -> None:
    names["model"] = Watched(words=list(WORDS))
    with server(names["app"]) as port, ask(port) as client:
        response = read_until(client, b"\r\n0\r\n\r\n")
    assert b"HTTP/1.1 200" in response
    assert b"content-type: text/event-stream" in response
    assert events_in(response) == list(WORDS)


def test_a_client_that_goes_away_stops_a_silent_model(server: Any, names: dict[str, Any]) -> None:
    model = names["model"] = Watched(silent_after=2, words=list(WORDS))
    with server(names["app"]) as port:
        with ask(port) as client:
            assert events_in(read_until(client, b'data: "rise "')) == ["Bubbles ", "rise "]
            assert model._silent.wait(60)
            assert not model._stopped.is_set()
        assert model._stopped.wait(60), "the model runs on though the client has left"


def test_a_stalled_client_holds_the_model_back(server: Any, names: dict[str, Any]) -> None:
    words = [f"{number:08}" for number in range(2000)]
    model = names["model"] = Watched(words=words, times=2048)  # 16 KiB each, 32 MiB in all
    with server(names["app"]) as port:
        with ask(port) as client:
            read_until(client, b"data: ")
            held_at = model.wait_until_held_back()
            assert held_at < 1500, "the model was not held back"
            assert not model._stopped.is_set()
            # It goes on as soon as the client does.
            while len(model.trace) < held_at + 100:
                assert client.recv(1 << 20)
        # And a stalled client that goes away stops it as well.
        assert model._stopped.wait(60), "the model runs on though the client has left"
    assert len(model.trace) < len(words)
