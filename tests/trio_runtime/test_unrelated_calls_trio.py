"""Unrelated calls, one of them in a group that an async generator holds open across its yields.

On asyncio langchain-core takes each step of a generator in a task of its own, so none can hold a task group.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import anyio
import pytest
from langchain_core.runnables import RunnableGenerator

from tally import tried
from test_unrelated_calls import Call, Gate, cells_of, check, named, sample
from test_unrelated_calls import pytestmark as marks

pytestmark = [
    pytest.mark.trio,
    pytest.mark.usefixtures("enabled"),
    pytest.mark.skipif(
        sys.version_info < (3, 11), reason="langchain-core takes each step in a task, as on asyncio"
    ),
    *(mark for mark in marks if mark.name == "filterwarnings"),
]


async def beside_a_step_of_a_generator(first: Call, second: Call, gate: Gate) -> None:
    """An async generator holds the group in which the second runs open across its yields."""

    async def words(inputs: AsyncIterator[Any]) -> AsyncIterator[str]:
        async for _ in inputs:
            pass
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(second)
            yield "a"
            await gate.reached.wait()
            await first()
            gate.opened.set()
            yield "b"

    async with aclosing(RunnableGenerator(words).astream("x")) as stream:
        assert [word async for word in stream] == ["a", "b"]


CELLS = cells_of(beside_a_step_of_a_generator)


@pytest.mark.parametrize("cell", sample(CELLS.copy()), ids=named)
async def test_what_ends_a_call_changes_nothing_for_another(cell: Any) -> None:
    await check(cell)


@pytest.mark.long
async def test_every_cell() -> None:
    for cell in CELLS:
        await check(cell)
        tried("Unrelated calls: one ends in some way while the other goes on")
