"""The floor: what one task switch costs."""

from __future__ import annotations

import anyio
import anyio.lowlevel

from benchmarks.case import times


async def switches() -> int:
    """Two tasks that do nothing but to give way to each other."""
    count = times(20_000)

    async def give_way() -> None:
        for _ in range(count):
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(give_way)
        tasks.start_soon(give_way)
    return 2 * count


BACKENDS = ("asyncio", "uvloop", "trio")
