"""Asynchronous handlers of a model that blocks.

langchain-core runs them on asyncio, in its thread.
"""

from __future__ import annotations

import io
from typing import Any

import anyio
import pytest
import trio
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from langchain_anyio import (
    AsyncIteratorCallbackHandler,
    AsyncStreamingStdOutCallbackHandler,
)
from models import GenerateModel

pytestmark = pytest.mark.usefixtures("enabled")

WORDS = ["a", "b", "c"]


class Model(GenerateModel):
    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Any:
        for word in WORDS:
            run_manager.on_llm_new_token(word)
        return ChatResult(generations=[ChatGeneration(message=AIMessage("".join(WORDS)))])


# anyio notes in the context which backend runs, and trio does not.
RUN = {"anyio": lambda main: anyio.run(main, backend="trio"), "trio": trio.run}


@pytest.mark.parametrize("run", RUN.values(), ids=RUN)
@pytest.mark.parametrize("size", (1, 10))
def test_every_token_is_read(run: Any, size: int) -> None:
    handler = AsyncIteratorCallbackHandler(size)
    read: list[str] = []

    async def consume() -> None:
        read.extend([token async for token in handler])

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume)
            await Model().ainvoke("x", {"callbacks": [handler]})

    run(main)
    assert read == WORDS


@pytest.mark.parametrize("run", RUN.values(), ids=RUN)
def test_every_token_is_written(run: Any) -> None:
    written = io.StringIO()
    handler = AsyncStreamingStdOutCallbackHandler(written)

    async def main() -> None:
        await Model().ainvoke("x", {"callbacks": [handler]})

    run(main)
    assert written.getvalue() == "abc"
