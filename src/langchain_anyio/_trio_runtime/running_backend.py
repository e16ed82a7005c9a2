"""Find out on which backend the caller runs: asyncio, trio, or none."""

from __future__ import annotations

import asyncio

from trio.lowlevel import current_task


def on_trio() -> bool:
    """Return whether the caller runs in a trio task, and in no asyncio task that runs inside it.

    Both can be current in one thread: synchronous code in a trio task may run an asyncio loop of
    its own, trio may be a guest of asyncio, and trio-asyncio runs asyncio on top of trio. In all of
    these, asyncio's running loop does not tell which one the caller is in; its current task does.
    """
    loop = asyncio._get_running_loop()
    if loop is not None and asyncio.current_task(loop) is not None:
        return False
    try:
        current_task()
    except RuntimeError:
        return False
    return True


def nothing_runs() -> bool:
    """Return whether the caller runs on no event loop, so that what it creates belongs to none."""
    return asyncio._get_running_loop() is None and not on_trio()
