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
from benchmarks.table import Measured
from langchain_anyio import open_stream
from langchain_anyio._providers.decoding.streams import decoded
from langchain_anyio._providers.table import for_current_loop

TESTS = str(Path(__file__).parents[1] / "tests" / "support")
SERVER = """
import sys
sys.path.append(sys.argv[1])
from loopback import Reply, Scenario, Text, provider_server
with provider_server() as server:
    print(server.serve(Scenario(Reply(Text(*["word "] * int(sys.argv[2]))))).openai_url, flush=True)
    sys.stdin.read()
"""

# The number of stages on the way of a chunk.
WAY = 4
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
    """Return the stages: `WAY` of them each contain the one before it, the others are beside them."""
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

    async def decoded_here() -> int:
        async with AsyncOpenAI(base_url=address, api_key="unused", max_retries=0) as client:
            answer = decoded(await client.chat.completions.create(**body))
            return len([chunk async for chunk in answer])

    @asynccontextmanager
    async def model() -> AsyncIterator[ChatOpenAI]:
        async with httpx.AsyncClient(timeout=60) as client:
            yield ChatOpenAI(
                model="gpt-loopback",
                base_url=address,
                api_key="unused",  # type: ignore[arg-type]
                max_retries=0,
                http_async_client=client,
            )

    async def chunks() -> int:
        async with model() as chat:
            view: Any = for_current_loop(chat)
            return len([chunk async for chunk in view._astream([HumanMessage("hi")])])

    async def ours() -> int:
        async with model() as chat, open_stream(chat, "hi") as stream:
            return len([delta async for delta in stream.text])

    async def core() -> int:
        async with model() as chat:
            stream = await v3(chat)
            return len([delta async for delta in stream.text])

    found: list[Stage] = [
        ("httpx: lines of the response", lines),
        ("openai: its SDK's stream, decoded here", decoded_here),
        ("langchain-openai: chunks of the message", chunks),
        ("langchain-anyio: text of the stream", ours),
    ]
    assert len(found) == WAY
    found.append(("beside them: the SDK's stream with its own models", sdk))
    if backend == "asyncio":
        found.append(("beside them: langchain-core v3, all of it", core))
    return found


def measured(
    backend: str, count: int = times(2000), rounds: int = times(9)
) -> list[tuple[str, Measured]]:
    """Return each stage and the processor time of this process up to it, in seconds for a chunk."""

    async def run() -> list[tuple[str, Measured]]:
        taken: dict[str, list[float]] = {}
        # In turn, so that what the machine does meanwhile falls on all stages alike.
        for _ in range(rounds):
            for name, stage in stages(address, count, backend):
                began = time.process_time()
                read = await stage()
                taken.setdefault(name, []).append((time.process_time() - began) / count)
                assert read >= count, (name, read)
        return [(name, Measured.of(values)) for name, values in taken.items()]

    with served(count) as address:
        return anyio.run(run, backend=backend)
