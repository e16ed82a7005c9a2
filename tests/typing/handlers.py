"""What mypy and pyright must accept and refuse of handlers and projections."""

# mypy: disable-error-code="unused-awaitable"
# pyright: basic, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import sys
from typing import Any
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.outputs import LLMResult
from typing_extensions import assert_type, override

from langchain_anyio import (
    AsyncFinalIteratorCallbackHandler,
    AsyncIteratorCallbackHandler,
    AsyncProjection,
    AsyncStreamingStdOutCallbackHandler,
    AsyncTextProjection,
    Event,
    Queue,
)


class Shouting(AsyncIteratorCallbackHandler):
    """A subclass as people write it for langchain-classic's handler."""

    @property
    @override
    def always_verbose(self) -> bool:
        return True

    @override
    async def on_llm_new_token(
        self, token: str | list[str | dict[str, Any]], **kwargs: Any
    ) -> None:
        if isinstance(token, str):
            await super().on_llm_new_token(token.upper(), **kwargs)

    @override
    async def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        await super().on_llm_end(response, **kwargs)


class Final(AsyncFinalIteratorCallbackHandler):
    @override
    def append_to_last_tokens(self, token: str) -> None:
        super().append_to_last_tokens(token)


def handlers_are_langchains(run_id: UUID) -> None:
    known: list[BaseCallbackHandler] = [Shouting(), Final(), AsyncStreamingStdOutCallbackHandler()]
    handler: AsyncCallbackHandler = Shouting()
    del known, handler, run_id
    AsyncStreamingStdOutCallbackHandler(sys.stdout)
    AsyncStreamingStdOutCallbackHandler("out")  # type: ignore[arg-type]
    AsyncFinalIteratorCallbackHandler(answer_prefix_tokens=["Final", "Answer"])
    AsyncFinalIteratorCallbackHandler(answer_prefix_tokens=[1])  # type: ignore[list-item]


async def a_handlers_parts(handler: Shouting) -> None:
    assert_type(handler.queue, Queue[str])
    assert_type(handler.done, Event)
    async for token in handler:
        assert_type(token, str)
    async for token in handler.aiter():
        assert_type(token, str)


async def projections(numbers: AsyncProjection[int, list[int]], text: AsyncTextProjection) -> None:
    async for number in numbers:
        assert_type(number, int)
    assert_type(await numbers, list[int])
    async for batch in numbers.batches():
        assert_type(batch, list[int])
    async for delta in text:
        assert_type(delta, str)
    async for joined in text.batches(interval=0.05):
        assert_type(joined, str)
    assert_type(await text, str)
    for _ in numbers:  # type: ignore[attr-defined]
        pass
    numbers.batches(interval="1")  # type: ignore[arg-type]
    text.push(1)  # type: ignore[arg-type]


async def queues(queue: Queue[int]) -> None:
    assert_type(await queue.get(), int)
    assert_type(queue.get_nowait(), int)
    await queue.put("1")  # type: ignore[arg-type]
