"""The whole way of a chunk: `ChatOpenAI` over loopback, stage by stage."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
from langchain_core.messages import HumanMessage

from benchmarks.case import times
from benchmarks.peers import v3
from langchain_anyio import open_stream

TESTS = str(Path(__file__).parents[1] / "tests" / "support")
SERVER = """
import sys
sys.path.append(sys.argv[1])
from loopback import Reply, Scenario, Text, provider_server
with provider_server() as server:
    print(server.serve(Scenario(Reply(Text(*["word "] * int(sys.argv[2]))))).openai_url, flush=True)
    sys.stdin.read()
"""

Stage = tuple[str, Callable[[], Awaitable[int]]]


@contextmanager
def served(count: int) -> Iterator[str]:
    """Serve an answer of `count` chunks from another process; gives the address."""
    command = [sys.executable, "-c", SERVER, TESTS, str(count)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.stdin.close()


def stages(address: str, count: int, backend: str) -> list[Stage]:
    """Return the stages, each of which contains the one before it."""
    import httpx
    from langchain_openai import ChatOpenAI
    from openai import AsyncOpenAI

    body: dict[str, Any] = {
        "model": "gpt-loopback",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
    }

    async def lines() -> int:
        async with httpx.AsyncClient(timeout=60) as client:
            async with client.stream("POST", f"{address}/chat/completions", json=body) as response:
                return len(
                    [line async for line in response.aiter_lines() if line.startswith("data: {")]
                )

    async def sdk() -> int:
        async with AsyncOpenAI(base_url=address, api_key="unused", max_retries=0) as client:
            answer = await client.chat.completions.create(**body)
            return len([chunk async for chunk in answer])

    # Without it the model wraps each chunk in asyncio.wait_for, which needs asyncio.
    options: dict[str, Any] = {"stream_chunk_timeout": None} if backend == "trio" else {}

    @asynccontextmanager
    async def model() -> AsyncIterator[ChatOpenAI]:
        async with httpx.AsyncClient(timeout=60) as client:
            yield ChatOpenAI(
                model="gpt-loopback",
                base_url=address,
                api_key="unused",  # type: ignore[arg-type]
                max_retries=0,
                http_async_client=client,
                **options,
            )

    async def chunks() -> int:
        async with model() as chat:
            return len([chunk async for chunk in chat._astream([HumanMessage("hi")])])

    async def ours() -> int:
        async with model() as chat, open_stream(chat, "hi") as stream:
            return len([delta async for delta in stream.text])

    async def core() -> int:
        async with model() as chat:
            stream = await v3(chat)
            return len([delta async for delta in stream.text])

    found: list[Stage] = [
        ("httpx: lines of the response", lines),
        ("openai: its SDK's chunks", sdk),
        ("langchain-openai: chunks of the message", chunks),
        ("langchain-anyio: text of the stream", ours),
    ]
    if backend == "asyncio":
        found.append(("langchain-core v3 in place of the last", core))
    return found


def measured(
    backend: str, count: int = times(2000), rounds: int = times(5)
) -> list[tuple[str, float]]:
    """Return each stage and the least processor time of this process up to it, in seconds for a chunk."""

    async def run() -> list[tuple[str, float]]:
        found = []
        for name, stage in stages(address, count, backend):
            least = float("inf")
            for _ in range(rounds):
                began = time.process_time()
                read = await stage()
                least = min(least, time.process_time() - began)
                assert read >= count, (name, read)
            found.append((name, least / count))
        return found

    with served(count) as address:
        return anyio.run(run, backend=backend)
