"""Calls within calls on trio: how deep they go, and what each one owns."""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest
import trio
import trio.testing
from langchain_core.runnables import RunnableGenerator, RunnableLambda, RunnablePassthrough

from langchain_anyio._trio_runtime.asyncio_api import contexts as _contexts
from langchain_anyio._trio_runtime.namespace import NAMESPACE

pytestmark = [pytest.mark.trio, pytest.mark.usefixtures("enabled")]

# Earlier releases of langchain-core await the steps in place there, and later ones always in tasks.
steps_take_contexts = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="before Python 3.11 tasks take no context"
)
DEPTH = 300  # what asyncio reaches is limited by langchain-core alone
CONFIG: Any = {"recursion_limit": 10_000}
VARIABLE: ContextVar[int] = ContextVar("test_variable", default=0)


async def in_lambdas(n: int) -> int:
    return 1 + await RunnableLambda(in_lambdas).ainvoke(n - 1, CONFIG) if n else 0


async def in_sequences(n: int) -> int:
    chain = RunnablePassthrough() | RunnableLambda(in_sequences)
    return 1 + await chain.ainvoke(n - 1, CONFIG) if n else 0


async def in_streams(n: int) -> int:
    if not n:
        return 0
    chain = RunnablePassthrough() | RunnableLambda(in_streams)
    return 1 + sum([part async for part in chain.astream(n - 1, CONFIG)])


async def in_generators(n: int) -> int:
    async def count(inputs: AsyncIterator[int]) -> AsyncIterator[int]:
        async for m in inputs:
            yield await in_generators(m)

    if not n:
        return 0
    return 1 + sum([part async for part in RunnableGenerator(count).astream(n - 1, CONFIG)])


async def in_parallels(n: int) -> int:
    chain = RunnablePassthrough.assign(below=RunnableLambda(lambda state: state["n"] - 1))
    both = chain | {"n": lambda state: state["below"], "m": RunnableLambda(below_in_parallels)}
    return 1 + (await both.ainvoke({"n": n}, CONFIG))["m"] if n else 0


async def below_in_parallels(state: Any) -> int:
    return await in_parallels(state["below"])


async def by_returning(n: int) -> Any:
    # langchain-core calls what a lambda returns.
    return RunnableLambda(lambda _: n - 1) | RunnableLambda(by_returning) if n else 0


@steps_take_contexts
@pytest.mark.parametrize(
    "nest", (in_lambdas, in_sequences, in_streams, in_generators, in_parallels)
)
async def test_as_deep_as_on_asyncio(nest: Any) -> None:
    assert await RunnableLambda(nest).ainvoke(DEPTH, CONFIG) == DEPTH


@steps_take_contexts
async def test_runnables_that_return_runnables() -> None:
    assert await RunnableLambda(by_returning).ainvoke(DEPTH, CONFIG) == 0


def nested(innermost: Any, depth: int = 40) -> Any:
    """Return a runnable that calls `innermost` below so many others."""

    async def call(value: Any) -> Any:
        return await (
            innermost(value) if depth == 0 else nested(innermost, depth - 1).ainvoke(value)
        )

    return RunnableLambda(call)


async def test_an_error_comes_out_as_it_is() -> None:
    async def fail(value: Any) -> Any:
        raise ZeroDivisionError(value)

    with pytest.raises(ZeroDivisionError, match="x"):
        await nested(fail).ainvoke("x")


@pytest.mark.parametrize("error", (SystemExit, GeneratorExit, trio.TooSlowError))
async def test_a_base_exception_comes_out_bare(error: type[BaseException]) -> None:
    async def fail(value: Any) -> Any:
        raise error

    with pytest.raises(error):
        await nested(fail).ainvoke("x")


async def test_a_cancelled_scope_outside_ends_it_at_once(autojump_clock: Any) -> None:
    begun = trio.current_time()
    with trio.move_on_after(3) as scope:
        await nested(lambda _: trio.sleep_forever()).ainvoke("x")
    assert scope.cancelled_caught
    assert trio.current_time() - begun == 3


async def test_a_scope_inside_ends_what_is_in_it_alone(autojump_clock: Any) -> None:
    async def wait(value: Any) -> Any:
        with trio.move_on_after(3):
            await nested(lambda _: trio.sleep_forever()).ainvoke("x")
        return value

    assert await nested(wait).ainvoke("x") == "x"


@steps_take_contexts
@pytest.mark.parametrize("depth", range(0, 40, 3))
async def test_every_checkpoint_below_is_a_cancellation_point(depth: int) -> None:
    reached = []

    async def check(value: Any) -> Any:
        reached.append(value)
        await trio.lowlevel.checkpoint()
        reached.append("past the checkpoint")

    with trio.CancelScope() as scope:

        async def cancel(value: Any) -> Any:
            scope.cancel()
            await check(value)

        await nested(cancel, depth).ainvoke("x")
    assert scope.cancelled_caught
    assert reached == ["x"]


async def test_steps_one_after_the_other_need_no_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    async def numbers(inputs: AsyncIterator[int]) -> AsyncIterator[int]:
        async for count in inputs:
            for number in range(count):
                yield number

    monkeypatch.setattr(_contexts, "_in_own_task", pytest.fail)
    chain = RunnableGenerator(numbers) | RunnablePassthrough()
    assert [number async for number in chain.astream(100)] == list(range(100))


@steps_take_contexts
async def test_context_variables_go_down_and_not_up() -> None:
    seen = []

    async def look(value: Any) -> Any:
        seen.append(VARIABLE.get())
        VARIABLE.set(2)

    VARIABLE.set(1)
    await nested(look).ainvoke("x")
    assert seen == [1]
    assert VARIABLE.get() == 1


class Work:
    """Something that a call starts and leaves to itself."""

    def __init__(self) -> None:
        self.began = trio.Event()
        self.ended = False

    async def __call__(self) -> None:
        self.began.set()
        try:
            await trio.sleep_forever()
        finally:
            self.ended = True

    async def start(self, value: Any) -> Any:
        NAMESPACE.create_task(self())
        await self.began.wait()
        await trio.sleep_forever()


async def test_a_call_within_a_call_ends_its_own_tasks(autojump_clock: Any) -> None:
    inner, outer = Work(), Work()

    async def call(value: Any) -> Any:
        NAMESPACE.create_task(outer())
        with trio.move_on_after(1):
            await RunnableLambda(inner.start).ainvoke("x")
        assert inner.ended
        assert outer.began.is_set()
        assert not outer.ended
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await RunnableLambda(call).ainvoke("x")
    assert outer.ended


async def test_calls_in_one_nursery_of_a_call_own_what_they_start(autojump_clock: Any) -> None:
    works = [Work(), Work()]

    async def child(work: Work, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await RunnableLambda(work.start).ainvoke("x")
        assert work.ended

    async def call(value: Any) -> Any:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, works[0], 1)
            nursery.start_soon(child, works[1], 2)
            await trio.sleep(1.5)
            assert [work.ended for work in works] == [True, False]
        return value

    assert await RunnableLambda(call).ainvoke("x") == "x"


async def test_a_call_that_ends_waits_for_its_own_tasks_alone(autojump_clock: Any) -> None:
    async def sleep(seconds: float) -> None:
        await trio.sleep(seconds)

    async def leave_a_task(seconds: float) -> float:
        NAMESPACE.create_task(sleep(seconds))
        return seconds

    async def call(value: Any) -> Any:
        NAMESPACE.create_task(sleep(4))
        begun = trio.current_time()
        await RunnableLambda(leave_a_task).ainvoke(2)
        return trio.current_time() - begun

    begun = trio.current_time()
    assert await RunnableLambda(call).ainvoke("x") == 2
    assert trio.current_time() - begun == 4


async def test_a_generator_that_outlives_its_call_is_closed_by_trio(
    caplog: pytest.LogCaptureFixture,
) -> None:
    closed = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append("closed")

    async def begin(value: Any) -> Any:
        generator = numbers()
        assert await anext(generator) == 1
        return generator

    async def main() -> Any:
        generator = await RunnableLambda(begin).ainvoke("x")
        assert not closed
        return generator

    kept = await trio.to_thread.run_sync(trio.run, main)
    assert closed == ["closed"]
    del kept
    gc.collect()
    assert not caplog.records
