"""Chains under `enable_trio()`, beside the same chains on asyncio and by trio-asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableGenerator

from benchmarks.case import Case, Side, times
from benchmarks.peers import by_trio_asyncio
from langchain_anyio import disable_trio, enable_trio

CHUNKS = 20


class Model(BaseChatModel):
    """Answers at once, in one piece or in `CHUNKS`."""

    @property
    def _llm_type(self) -> str:
        return "benchmark"

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
        message = AIMessage("word " * CHUNKS)
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        for _ in range(CHUNKS):
            yield ChatGenerationChunk(message=AIMessageChunk("word "))


async def _texts(chunks: AsyncIterator[AIMessageChunk]) -> AsyncIterator[str]:
    async for chunk in chunks:
        yield str(chunk.content)


PROMPT_AND_MODEL = ChatPromptTemplate.from_template("Write about {topic}.") | Model()
# Its parser runs in a worker thread, for each call and for each chunk.
CHAIN = PROMPT_AND_MODEL | StrOutputParser()
# The same without threads, to tell what is whose.
WITHOUT_THREADS = PROMPT_AND_MODEL | RunnableGenerator(_texts)
INPUT = {"topic": "water"}


async def ainvoke() -> int:
    count = times(200)
    for _ in range(count):
        assert await CHAIN.ainvoke(INPUT) == "word " * CHUNKS
    return count


def astream(chain: Any) -> Side:
    async def run() -> int:
        count = times(20)
        for _ in range(count):
            chunks = [chunk async for chunk in chain.astream(INPUT)]
            assert "".join(chunks) == "word " * CHUNKS
        return count * CHUNKS

    return run


async def abatch() -> int:
    for _ in range(times(3)):
        assert await CHAIN.abatch([INPUT] * 100) == ["word " * CHUNKS] * 100
    return times(3) * 100


def enabled(side: Callable[[], Awaitable[float]]) -> Side:
    async def run() -> float:
        enable_trio()
        return await side()

    return run


def not_enabled(side: Callable[[], Awaitable[float]]) -> Side:
    async def run() -> float:
        disable_trio()
        return await side()

    return run


CHAINS = {
    "ainvoke of prompt, model, parser": ainvoke,
    "astream of prompt, model, parser, per chunk": astream(CHAIN),
    "abatch(100) of prompt, model, parser, per input": abatch,
}

CASES = [
    *(
        Case(
            f"on trio: {title}",
            enabled(side),
            1.3,
            not_enabled(side),
            "itself on asyncio",
            backend="trio",
        )
        for title, side in CHAINS.items()
    ),
    Case(
        "on trio: astream of prompt, model, generator, per chunk",
        enabled(astream(WITHOUT_THREADS)),
        None,
        not_enabled(astream(WITHOUT_THREADS)),
        "itself on asyncio",
        backend="trio",
    ),
    *(
        Case(
            f"on trio, beside trio-asyncio: {title}",
            enabled(side),
            0.7,
            by_trio_asyncio(not_enabled(side)),
            "trio-asyncio",
            backend="trio",
            peer_backend="trio",
            alone=True,
        )
        for title, side in CHAINS.items()
    ),
    *(
        Case(
            f"on asyncio, enable_trio() called: {title}",
            enabled(side),
            1.02,
            not_enabled(side),
            "not called",
            values=15,
        )
        for title, side in CHAINS.items()
    ),
]
