"""The names of asyncio that a library uses after `enable_trio()`: on trio they do what they do on asyncio."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

pytest.importorskip("trio")

from langchain_anyio._trio._namespace import NAMESPACE

pytestmark = pytest.mark.anyio


# Timeouts


@pytest.fixture
def timeouts(anyio_backend_name: str) -> None:
    if anyio_backend_name == "asyncio" and sys.version_info < (3, 11):
        pytest.skip("asyncio has no timeouts there")


def now() -> float:
    return float(NAMESPACE.get_running_loop().time())


@pytest.mark.usefixtures("timeouts")
@pytest.mark.parametrize("delay", (None, 60, 60.5))
async def test_a_block_that_ends_in_time_has_not_timed_out(delay: float | None) -> None:
    async def returned() -> int:
        async with NAMESPACE.timeout(delay):
            await checkpoint()
            return 1

    async with NAMESPACE.timeout(delay) as block:
        await checkpoint()
    assert not block.expired()
    assert await returned() == 1
    with pytest.raises(KeyError):
        async with NAMESPACE.timeout(delay) as block:
            raise KeyError
    assert not block.expired()
    for _ in range(2):
        async with NAMESPACE.timeout_at(None if delay is None else now() + delay) as block:
            break
    assert not block.expired()
    assert repr(block) == "<Timeout [finished]>"


@pytest.mark.usefixtures("timeouts")
@pytest.mark.parametrize("delay", (0, -1))
async def test_a_block_without_a_checkpoint_does_not_time_out(delay: float) -> None:
    async with NAMESPACE.timeout(delay) as block:
        pass
    assert not block.expired()
    # One that may be extended still.
    async with NAMESPACE.timeout(delay) as block:
        block.reschedule(now() + 60)
        await anyio.sleep(0)
    assert not block.expired()
    with pytest.raises(KeyError):
        async with NAMESPACE.timeout(delay) as block:
            raise KeyError
    assert not block.expired()


@pytest.mark.usefixtures("timeouts")
@pytest.mark.parametrize("delay", (0, -1, 0.001))
async def test_a_block_that_takes_too_long_raises(delay: float) -> None:
    before = now()
    with pytest.raises(TimeoutError) as raised:
        async with NAMESPACE.timeout(delay) as block:
            assert block.when() == pytest.approx(before + delay, abs=1)
            await anyio.sleep(60)
    assert block.expired()
    assert repr(block) == "<Timeout [expired]>"
    assert isinstance(raised.value.__cause__, anyio.get_cancelled_exc_class())
    with pytest.raises(RuntimeError, match="expired"):
        block.reschedule(None)
    # What follows is not cancelled.
    await checkpoint()


@pytest.mark.usefixtures("timeouts")
async def test_an_error_of_a_block_that_is_being_cancelled_goes_first() -> None:
    with pytest.raises(KeyError) as raised:
        async with NAMESPACE.timeout(0) as block:
            try:
                await anyio.sleep(60)
            finally:
                raise KeyError
    assert block.expired()
    if sys.version_info >= (3, 13) or anyio.get_cancelled_exc_class() is not asyncio.CancelledError:
        assert isinstance(raised.value.__context__, TimeoutError)


@pytest.mark.usefixtures("timeouts")
async def test_a_deadline_may_be_moved() -> None:
    unentered = NAMESPACE.timeout(60)
    with pytest.raises(RuntimeError, match="not been entered"):
        unentered.reschedule(1)
    async with NAMESPACE.timeout(60) as block:
        block.reschedule(None)
        assert block.when() is None
        assert repr(block) == "<Timeout [active] when=None>"
        block.reschedule(later := now() + 30)
        assert block.when() == later
    with pytest.raises(RuntimeError, match="finished"):
        block.reschedule(None)
    with pytest.raises(RuntimeError, match="already been entered"):
        await block.__aenter__()
    with pytest.raises(TimeoutError):
        async with NAMESPACE.timeout(None) as block:
            block.reschedule(now())
            await anyio.sleep(60)


@pytest.mark.usefixtures("timeouts")
async def test_the_block_whose_deadline_has_passed_raises_and_no_other() -> None:
    seen: list[Any] = []
    with pytest.raises(TimeoutError):
        async with NAMESPACE.timeout(0) as outer:
            try:
                async with NAMESPACE.timeout(60) as inner:
                    await anyio.sleep(60)
            except BaseException as exc:
                seen.append(type(exc))
                raise
    assert seen == [anyio.get_cancelled_exc_class()]
    assert outer.expired()
    assert not inner.expired()
    async with NAMESPACE.timeout(60) as outer:
        with pytest.raises(TimeoutError):
            async with NAMESPACE.timeout(0) as inner:
                await anyio.sleep(60)
        await checkpoint()
    assert inner.expired()
    assert not outer.expired()


@pytest.mark.usefixtures("timeouts")
async def test_a_scope_around_a_timeout_is_not_taken_for_it() -> None:
    with anyio.CancelScope() as scope:
        async with NAMESPACE.timeout(60) as block:
            scope.cancel()
            await anyio.sleep(60)
    assert scope.cancelled_caught
    assert not block.expired()


@pytest.mark.usefixtures("timeouts")
async def test_a_task_that_is_cancelled_in_a_block_is_cancelled_and_not_late() -> None:
    blocks: list[Any] = []

    async def work() -> None:
        async with NAMESPACE.timeout(60) as block:
            blocks.append(block)
            await anyio.sleep(60)

    task = NAMESPACE.create_task(work())
    await anyio.wait_all_tasks_blocked()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert not blocks[0].expired()
