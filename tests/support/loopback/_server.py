"""The server: uvicorn in a thread, endpoints that answer by their scenario, and a record of what clients do."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import anyio.to_thread
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from ._wire import Embeddings, Format, Reply, Text
from .formats import EMBEDDINGS, FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from ._wire import JSON

Fault = Literal["reset", "end", "truncate", "stall", "error", "malformed"]


@dataclass(frozen=True)
class Scenario:
    """How an endpoint answers.

    Args:
        reply: What the model says.
        status: Another status than 200 answers with the provider's error instead.
        fault: What happens after `after` frames of the stream (and half of the next one, if `halfway`):
            the connection is reset, or ends; the response ends as if it were whole; nothing more
            comes until the client leaves; the provider's error event; a frame that isn't JSON.
            Of these, "stall" also holds for answers that are no streams: the headers come, and no
            body.
        after: The number of frames before the fault.
        halfway: Whether half of the next frame comes before the fault.
        gated: Whether each frame waits to be let through by `Exchange.release`.
        keepalive: Seconds between comments that are sent during a stall; none if zero.
        then: How it answers from the second request on, if otherwise.
    """

    reply: Reply = field(default_factory=lambda: Reply(Text("Hello", ", ", "world", ".")))
    status: int = 200
    fault: Fault | None = None
    after: int = 0
    halfway: bool = False
    gated: bool = False
    keepalive: float = 0
    then: Scenario | None = None


class _Signal:
    """An event set on the server's loop that a thread, or a task of another loop, waits for."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait_blocking(self, timeout: float = 30) -> bool:
        """Wait and hold up the caller's event loop, so that nothing can happen on it meanwhile."""
        return self._event.wait(timeout)

    async def wait(self, timeout: float = 30) -> bool:
        """Wait in a thread, and return whether it was set in time."""
        return await anyio.to_thread.run_sync(self._event.wait, timeout, abandon_on_cancel=True)


class Connection:
    """One TCP connection that the server accepted.

    Attributes:
        closed: Set when it is closed.
        opened_at: When it was opened, by `time.monotonic`.
        closed_at: When it was closed, likewise; `None` if it is open.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self.opened_at = time.monotonic()
        self.closed_at: float | None = None
        self.transport = transport
        self.closed = _Signal()
        self.lost = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def drop(self) -> None:
        """Close it, for any thread."""
        with contextlib.suppress(RuntimeError):  # the server has ended
            self._loop.call_soon_threadsafe(self.transport.abort)

    def reset(self) -> None:
        """Close with a reset, as a crashed peer or a firewall does."""
        linger = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, linger
        )
        self.transport.abort()


class Exchange:
    """One request and its answer, as the server sees it.

    Attributes:
        frames: Makes the frames of its stream, if nothing goes wrong.
        headers: The request's headers, names in lower case.
        body: The request's body.
        connection: The connection it came on.
        frames_written: How many frames of the stream have been written.
        closed: Set when the connection is closed.
        finished: Set when the answer is whole, or has been given up.
    """

    def __init__(
        self,
        frames: Callable[[], Iterator[bytes]],
        headers: dict[str, str],
        body: dict[str, Any],
        connection: Connection,
    ) -> None:
        self.frames = frames
        self.headers = headers
        self.body = body
        self.connection = connection
        self.frames_written = 0
        self.finished = _Signal()
        self._loop = asyncio.get_running_loop()
        self._gate = asyncio.Semaphore(0)

    @property
    def closed(self) -> _Signal:
        return self.connection.closed

    def release(self, frames: int = 1) -> None:
        """Let the next frames of a gated stream through; for any thread."""

        def let_through() -> None:
            for _ in range(frames):
                self._gate.release()

        self._loop.call_soon_threadsafe(let_through)

    def release_through(self, text: bytes) -> None:
        """Let the frames through that come before the first with `text`, and that one."""
        self.release(next(n for n, frame in enumerate(self.frames(), 1) if text in frame))

    async def _gate_opens(self) -> None:
        lost = asyncio.ensure_future(self.connection.lost.wait())
        passed = asyncio.ensure_future(self._gate.acquire())
        await asyncio.wait({lost, passed}, return_when=asyncio.FIRST_COMPLETED)
        lost.cancel()
        passed.cancel()


class Endpoint:
    """Where one scenario is served.

    Attributes:
        openai_url: The `base_url` for OpenAI's clients.
        azure_url: The `azure_endpoint` for Azure's.
        anthropic_url: The `base_url` for Anthropic's.
        ollama_url, cohere_url, google_url, bedrock_url, groq_url, perplexity_url: Those for the
            others.
        mistral_url: The one for Mistral, version and all.
        reasoning_url, reasoning_content_url: Those for OpenAI's chat completions with a field for
            reasoning, of that name.
        feature_extraction_url: The one for the embeddings of Hugging Face.
        exchanges: The requests that came, in order.
    """

    def __init__(self, url: str, scenario: Scenario) -> None:
        self.scenario = scenario
        self.openai_url = f"{url}/v1"
        self.azure_url = self.anthropic_url = url
        self.ollama_url = self.cohere_url = self.google_url = self.bedrock_url = url
        self.groq_url = url
        self.perplexity_url = f"{url}/perplexity"
        self.mistral_url = f"{url}/mistral/v1"
        self.reasoning_url = f"{url}/reasoning/v1"
        self.reasoning_content_url = f"{url}/reasoning_content/v1"
        self.feature_extraction_url = f"{url}/feature-extraction"
        self.exchanges: list[Exchange] = []
        self._arrived = threading.Condition()

    @property
    def connections(self) -> list[Connection]:
        """The connections that requests came on, in order."""
        return list(dict.fromkeys(exchange.connection for exchange in self.exchanges))

    @property
    def open_connections(self) -> int:
        """How many of them are open now."""
        return sum(connection.closed_at is None for connection in self.connections)

    def _add(self, exchange: Exchange) -> None:
        with self._arrived:
            self.exchanges.append(exchange)
            self._arrived.notify_all()

    async def exchange(self, number: int = 0, timeout: float = 30) -> Exchange:
        """The request of that number, waited for."""

        def wait() -> bool:
            with self._arrived:
                return self._arrived.wait_for(lambda: len(self.exchanges) > number, timeout)

        if not await anyio.to_thread.run_sync(wait, abandon_on_cancel=True):
            raise TimeoutError(f"no request of number {number} within {timeout} s")
        return self.exchanges[number]


class _Stream:
    """The streamed answer to one request, an ASGI application."""

    def __init__(self, scenario: Scenario, wire: Format, exchange: Exchange) -> None:
        self._scenario = scenario
        self._wire = wire
        self._exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", self._wire.framing.content_type.encode()),
            (b"x-request-id", b"req_loopback"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            whole = await self._frames(send)
        finally:
            self._exchange.finished.set()
        if whole:
            await send({"type": "http.response.body", "body": b""})

    async def _frames(self, send: Send) -> bool:
        scenario = self._scenario
        lost = self._exchange.connection.lost

        async def write(frame: bytes) -> None:
            await send({"type": "http.response.body", "body": frame, "more_body": True})

        for number, frame in enumerate(self._exchange.frames()):
            if scenario.fault is not None and number == scenario.after:
                if scenario.halfway:
                    await write(frame[: len(frame) // 2])
                return await self._fault(write)
            if scenario.gated:
                await self._exchange._gate_opens()
            if lost.is_set():
                return False
            await write(frame)
            self._exchange.frames_written += 1
            # Without back-pressure `send` does not yield, and one long stream would hold up all others.
            if number % 64 == 63:
                await asyncio.sleep(0)
        return True

    async def _fault(self, write: Any) -> bool:
        connection = self._exchange.connection
        match self._scenario.fault:
            case "reset":
                connection.reset()
            case "end":
                connection.transport.close()
            case "stall":
                while not connection.lost.is_set():
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(
                            connection.lost.wait(), self._scenario.keepalive or None
                        )
                    await write(self._wire.framing.keepalive)
            case "error":
                await write(self._wire.framing.encode(self._wire.stream_error("Overloaded")))
                return True
            case "malformed":
                await write(self._wire.framing.malformed)
                return True
            case "truncate":
                return True
        return False


class _Silence:
    """Headers, and no body until the client leaves; an ASGI application."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        # uvicorn sends the headers with the first part of the body, if only an empty one.
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await self._exchange.connection.lost.wait()
        self._exchange.finished.set()


class ProviderServer:
    """The server; made by `provider_server`.

    Attributes:
        url: Its address, which is also that of an HTTP proxy that answers for every host.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._names = itertools.count()
        self._endpoints: dict[str, Endpoint] = {}
        self._connections: dict[tuple[str, int], Connection] = {}
        self._connection_count = 0
        self._changed = threading.Condition()

    @property
    def connection_count(self) -> int:
        """How many connections the server has accepted so far."""
        return self._connection_count

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._connections)

    def serve(self, scenario: Scenario) -> Endpoint:
        """Serve a scenario at an address of its own; for any thread."""
        name = f"endpoint-{next(self._names)}"
        endpoint = self._endpoints[name] = Endpoint(f"{self.url}/{name}", scenario)
        return endpoint

    def wait_all_closed(self, timeout: float = 30) -> bool:
        """Wait, blocking, until no connection is open."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._connections, timeout)

    def _opened(self, connection: Connection) -> None:
        with self._changed:
            self._connection_count += 1
            self._connections[connection.transport.get_extra_info("peername")[:2]] = connection

    def _closed(self, connection: Connection) -> None:
        connection.closed_at = time.monotonic()
        connection.lost.set()
        connection.closed.set()
        with self._changed:
            self._connections = {
                peer: other for peer, other in self._connections.items() if other is not connection
            }
            self._changed.notify_all()

    def _application(self) -> ASGIApp:
        def begin(
            request: Request, body: JSON, frames: Callable[[], Iterator[bytes]]
        ) -> tuple[Scenario, Exchange]:
            endpoint = self._endpoints[request.path_params["name"]]
            scenario = endpoint.scenario
            if scenario.then is not None and endpoint.exchanges:
                scenario = scenario.then
            connection = self._connections[request.scope["client"]]
            exchange = Exchange(frames, dict(request.headers), body, connection)
            endpoint._add(exchange)
            return scenario, exchange

        async def read(request: Request) -> JSON:
            body = await request.json()
            if "model" in request.path_params:
                body.setdefault("model", request.path_params["model"])
            return body  # type: ignore[no-any-return]

        def routes_of(wire: Format) -> Iterator[Route]:
            async def answer(request: Request, streams: bool | None) -> Any:
                body = await read(request)
                scenario: Scenario
                scenario, exchange = begin(request, body, lambda: wire.frames(scenario.reply, body))
                if streams is None:
                    streams = body.get("stream", wire.streams)
                if scenario.status == 200 and streams:
                    return _Stream(scenario, wire, exchange)
                if scenario.status == 200 and scenario.fault == "stall":
                    return _Silence(exchange)
                exchange.finished.set()
                if scenario.status == 200:
                    return JSONResponse(wire.message(scenario.reply, body))
                return JSONResponse(
                    wire.status_error(scenario.status, f"answered with {scenario.status}"),
                    status_code=scenario.status,
                    headers={"x-request-id": "req_loopback"},
                )

            async def answer_by_body(request: Request) -> Any:
                return await answer(request, None)

            async def answer_whole(request: Request) -> Any:
                return await answer(request, False)

            async def answer_stream(request: Request) -> Any:
                return await answer(request, True)

            path = f"/{{name}}{wire.path}"
            if wire.stream_path is None:
                yield Route(path, answer_by_body, methods=["POST"])
            else:
                yield Route(path, answer_whole, methods=["POST"])
                yield Route(f"/{{name}}{wire.stream_path}", answer_stream, methods=["POST"])

        def route_of(wire: Embeddings) -> Route:
            async def answer(request: Request) -> Any:
                body = await read(request)
                scenario, exchange = begin(request, body, lambda: iter(()))
                if scenario.fault == "stall":
                    return _Silence(exchange)
                exchange.finished.set()
                return JSONResponse(wire.answer(body))

            return Route(f"/{{name}}{wire.path}", answer, methods=["POST"])

        routes = Starlette(
            routes=[
                *itertools.chain.from_iterable(map(routes_of, FORMATS)),
                *map(route_of, EMBEDDINGS),
            ]
        )

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            # A proxy is asked for whole addresses, and this one answers for every host.
            await routes({**scope, "path": urlsplit(scope["path"]).path}, receive, send)

        return application

    def _protocol(self) -> type[H11Protocol]:
        server = self

        class Protocol(H11Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:
                super().connection_made(transport)
                self.accepted = Connection(transport)
                server._opened(self.accepted)

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                server._closed(self.accepted)

        return Protocol


@contextlib.contextmanager
def provider_server() -> Iterator[ProviderServer]:
    """Run a server on a free port of 127.0.0.1, in a thread, until the block is left."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = ProviderServer(f"http://127.0.0.1:{listener.getsockname()[1]}")
    runner = uvicorn.Server(
        uvicorn.Config(
            server._application(),
            http=server._protocol(),
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            date_header=False,
            # Idle connections are the client's to close, so that what tests see is the client's doing.
            timeout_keep_alive=3600,
        )
    )
    thread = threading.Thread(
        target=lambda: asyncio.run(runner.serve(sockets=[listener])),
        name="provider-server",
        daemon=True,
    )
    thread.start()
    try:
        yield server
    finally:
        runner.should_exit = runner.force_exit = True
        # Answers to clients that nobody has closed would hold up the end.
        for connection in tuple(server._connections.values()):
            connection.drop()
        thread.join(60)
        listener.close()
        if thread.is_alive():
            raise RuntimeError("the provider server did not stop")
