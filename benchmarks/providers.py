"""A chunk of a real client: OpenAI's two APIs and Anthropic's, from a server in another process."""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import anyio
from langchain_core.messages import AIMessageChunk

from benchmarks.case import Case, Side, times
from benchmarks.loopback import TESTS
from benchmarks.peers import TEXT, V3, v3
from langchain_anyio import open_stream

COUNT = times(2000)
SERVER = """
import sys
sys.path.append(sys.argv[1])
from loopback import Reply, Scenario, Text, provider_server
with provider_server() as server:
    endpoint = server.serve(Scenario(Reply(Text(*["word "] * int(sys.argv[2])))))
    print(endpoint.openai_url, endpoint.anthropic_url, flush=True)
    sys.stdin.read()
"""


@cache
def addresses() -> tuple[str, str]:
    """Return the addresses for OpenAI's and Anthropic's clients, of a server that ends with this process."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, TESTS, str(COUNT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    @atexit.register
    def end() -> None:
        server.kill()
        server.communicate()

    assert server.stdout is not None
    openai_url, anthropic_url = server.stdout.readline().split()
    return openai_url, anthropic_url


def model_of(api: str, **options: Any) -> Any:
    openai_url, anthropic_url = addresses()
    options = {"api_key": "unused", "max_retries": 0, **options}
    if api == "Anthropic":
        from langchain_anthropic import ChatAnthropic

        return ChatAnthropic(model="claude-loopback", base_url=anthropic_url, **options)
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(
        model="gpt-loopback",
        base_url=openai_url,
        use_responses_api=api == "Responses",
        **options,
    )


@asynccontextmanager
async def model_with_client(api: str) -> AsyncIterator[Any]:
    """The model with an HTTP client of its own, which is closed: langchain-core's would outlive its loop."""
    if api == "Anthropic":
        import anthropic

        async with anthropic.DefaultAsyncHttpxClient(verify=False) as http:
            model = model_of(api)
            model.__dict__["_async_client"] = anthropic.AsyncAnthropic(
                base_url=addresses()[1], api_key="unused", max_retries=0, http_client=http
            )
            yield model
    else:
        import openai

        async with openai.DefaultAsyncHttpxClient(verify=False) as http:
            yield model_of(api, http_async_client=http)


def of_ours(api: str) -> Side:
    async def run() -> int:
        async with model_with_client(api) as model, open_stream(model, "hi") as stream:
            deltas = [delta async for delta in stream.text]
            message = await stream
        assert message.text == TEXT * COUNT == "".join(deltas)
        return COUNT

    return run


def of_core(api: str) -> Side:
    async def run() -> int:
        async with model_with_client(api) as model:
            stream = await v3(model)
            deltas = [delta async for delta in stream.text]
            message = await stream
        assert message.text == TEXT * COUNT == "".join(deltas)
        return COUNT

    return run


async def floor() -> int:
    """The bytes of an answer of chat completions from a socket, each chunk parsed and put into a message."""
    url = urlsplit(addresses()[0])
    body = json.dumps({"model": "m", "messages": [], "stream": True}).encode()
    head = (
        f"POST {url.path}/chat/completions HTTP/1.0\r\nHost: {url.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    count, pending = 0, b""
    async with await anyio.connect_tcp(str(url.hostname), int(url.port or 0)) as connection:
        await connection.send(head.encode() + body)
        async for data in connection:
            *events, pending = (pending + data).split(b"\n\n")
            for event in events:
                _, _, text = event.rpartition(b"data: ")
                if text != b"[DONE]":
                    [choice] = json.loads(text)["choices"]
                    count += bool(AIMessageChunk(content=choice["delta"].get("content") or "").text)
    assert count == COUNT
    return count


CASES = [
    *(
        Case(
            f"a chunk of {name}{', on trio' if backend == 'trio' else ''}",
            of_ours(api),
            target,
            of_core(api),
            V3,
            backend=backend,
            # Of chat completions' bytes; the other formats' are longer.
            least=floor,
        )
        for backend in ("asyncio", "trio")
        for name, api, target in (
            ("ChatOpenAI, chat completions", "chat completions", 0.25),
            ("ChatOpenAI, Responses API", "Responses", 0.35),
            ("ChatAnthropic", "Anthropic", 0.7),
        )
    ),
]
