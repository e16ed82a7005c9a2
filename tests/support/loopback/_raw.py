"""A server that answers with bytes, as they stand, and ends the connection in any way there is.

What a request is answered is its `Script`, chosen by the name of the model that the request is for, so that one
model of a provider, and with it one HTTP client, can be told anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from . import ProviderServer


@dataclass(frozen=True)
class Script:
    """What a connection carries.

    Args:
        parts: Written one after another; may be endless.
        end: Whether the connection then ends, is reset, or is left open until the client leaves.
        pause: Seconds between two parts, so that the client reads them one by one.
    """

    parts: Iterable[bytes]
    end: Literal["end", "reset", "hold"] = "end"
    pause: float = 0


class RawServer:
    """The server; made by `raw_server`.

    Attributes:
        openai_url: The `base_url` for OpenAI's clients.
        anthropic_url: The `base_url` for Anthropic's.
        scripts: By the names of models.
        answered: How many requests were answered.
        written: How many bytes of answers were written.
    """

    def __init__(self, port: int) -> None:
        self.anthropic_url = f"http://127.0.0.1:{port}"
        self.openai_url = f"{self.anthropic_url}/v1"
        self.scripts: dict[str, Script] = {}
        self.answered = 0
        self.written = 0
        self._open = 0
        self._changed = threading.Condition()

    def wait_all_closed(self, timeout: float = 30) -> bool:
        """Wait, blocking, until no connection is open."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, timeout)

    def _count(self, connections: int) -> None:
        with self._changed:
            self._open += connections
            self._changed.notify_all()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count(1)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.partition(b":")[2])
                for line in head.splitlines()
                if line.lower().startswith(b"content-length:")
            )
            script = self.scripts[json.loads(await reader.readexactly(length))["model"]]
            self.answered += 1
            left = asyncio.ensure_future(reader.read())
            left.add_done_callback(lambda left: left.cancelled() or left.exception())
            for part in script.parts:
                writer.write(part)
                self.written += len(part)
                await writer.drain()
                # Without back-pressure `drain` does not yield.
                await asyncio.sleep(script.pause)
                if left.done():
                    break
            if script.end == "hold":
                await left
            left.cancel()
            if script.end == "reset":
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has left
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self._count(-1)


@contextlib.contextmanager
def raw_server() -> Iterator[RawServer]:
    """Run a server on a free port of 127.0.0.1, in a thread, until the block is left."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = RawServer(listener.getsockname()[1])
    loop = asyncio.new_event_loop()

    async def serve(begun: threading.Event, over: asyncio.Event) -> None:
        async with await asyncio.start_server(server._answer, sock=listener):
            begun.set()
            await over.wait()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    begun, over = threading.Event(), asyncio.Event()
    thread = threading.Thread(
        target=lambda: loop.run_until_complete(serve(begun, over)), name="raw-server"
    )
    thread.start()
    begun.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


def transcript(server: ProviderServer, url: str, body: dict[str, Any], version: str) -> bytes:
    """All that a server answers a request, to the end of the connection; `version` is that of HTTP."""
    host, port = server.url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    path = url.removeprefix(server.url)
    head = (
        f"POST {path} HTTP/{version}\r\nHost: {host}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    answer = b""
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + data)
        while piece := connection.recv(65536):
            answer += piece
    return answer
