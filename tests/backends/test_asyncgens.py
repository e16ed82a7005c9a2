from __future__ import annotations

import gc
import logging
import sys
import threading
import weakref
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from cancelling import Victim, settle, ways_to_cancel
from langchain_anyio._backends import async_generators as _asyncgens
from langchain_anyio._backends.async_generators import AsyncGenerators

pytestmark = pytest.mark.anyio


class Nest:
    """Generators within each other, none of which closes what it reads, and what became of them."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.tasks: list[Any] = []

    async def leaf(self, name: str = "leaf", numbers: int = 10) -> AsyncGenerator[int, None]:
        try:
            for number in range(numbers):
                await checkpoint()
                yield number
        finally:
            self.tasks.append(anyio.get_current_task())
            await checkpoint()  # what closes a connection awaits
            self.closed.append(name)

    async def around(
        self, name: str, inner: AsyncGenerator[int, None]
    ) -> AsyncGenerator[int, None]:
        try:
            async for number in inner:
                yield number
        finally:
            self.tasks.append(anyio.get_current_task())
            await checkpoint()
            self.closed.append(name)

    def make(self) -> AsyncGenerator[int, None]:
        return self.around("outer", self.around("middle", self.leaf()))


LEAVING = ("break", "error", "a kept error", "cancel", "in a cycle")


class Holder:
    """Refers to a generator that refers to it, as the streams of the providers' clients do."""

    def __init__(self, generator: Any) -> None:
        self.generator = self._read(generator)

    async def _read(self, generator: Any) -> AsyncGenerator[int, None]:
        async for number in generator:
            yield number
            self.last = number


@pytest.mark.parametrize("leaving", LEAVING)
async def test_what_is_left_is_closed_outermost_first_in_the_same_task(leaving: str) -> None:
    nest, generators = Nest(), AsyncGenerators()
    errors: list[BaseException] = []
    hooks = sys.get_asyncgen_hooks()

    async def run() -> None:
        holder = Holder(nest.make()) if leaving == "in a cycle" else None
        generator = nest.make() if holder is None else holder.generator
        async for number in generator:
            if number == 2:
                if "error" in leaving:
                    raise ValueError
                if leaving == "cancel":
                    scope.cancel()
                    await checkpoint()
                break

    with anyio.CancelScope() as scope:
        try:
            await generators.watch(run())
        except ValueError as exc:
            assert "error" in leaving
            if leaving == "a kept error":
                errors.append(exc)
    assert scope.cancelled_caught == (leaving == "cancel")
    assert sys.get_asyncgen_hooks() == hooks
    if leaving == "a kept error":
        assert nest.closed == []
        assert generators.are_open()
    await generators.aclose(*errors)
    await generators.aclose(*errors)
    assert not generators.are_open()
    assert nest.closed == ["outer", "middle", "leaf"]
    assert nest.tasks == [anyio.get_current_task()] * 3
    await settle()


class Slotted:
    __slots__ = ("generator",)


HOLDERS: tuple[Any, ...] = (
    "list",
    "cycle",
    "frame",
    "task",
    "closure",
    "slot",
    "error too",
    "inner",
)


@pytest.mark.parametrize("holder", HOLDERS)
async def test_what_somebody_else_holds_stays_open(holder: str) -> None:
    nest, generators = Nest(), AsyncGenerators()
    held: Any = None
    leaf: Any = None
    errors: list[BaseException] = []
    go_on = anyio.Event()
    got: list[int] = []

    async def wait(generator: Any) -> None:
        await go_on.wait()
        got.append(await anext(generator))

    async def run() -> None:
        nonlocal held, leaf
        generator: Any = nest.leaf()
        leaf = weakref.ref(generator)
        if holder == "list":
            held = {"a": [(generator,)]}
        elif holder == "cycle":
            outer = Holder(generator)
            generator, held = outer.generator, outer
        elif holder in ("frame", "task"):
            held = wait(generator)
            if holder == "task":
                group.start_soon(wait, generator)
                await checkpoint()
        elif holder == "closure":
            held = lambda: generator  # noqa: E731
        elif holder == "slot":
            held = Slotted()
            held.generator = generator
        elif holder == "inner":
            # The outer one goes, what it reads does not.
            held = [generator]
            generator = nest.around("outer", generator)
        else:
            held = [generator]
        await anext(generator)
        if holder == "error too":
            raise ValueError

    async with anyio.create_task_group() as group:
        try:
            await generators.watch(run())
        except ValueError as exc:
            errors.append(exc)
        await generators.aclose(*errors)
        assert nest.closed == (["outer"] if holder == "inner" else [])
        assert generators.are_open()
        generators.release()
        assert not generators.are_open()
        go_on.set()
    # Whoever holds it goes on with it.
    assert leaf().ag_frame is not None
    if holder == "task":
        assert got == [1]
    else:
        assert await anext(leaf()) == 1
    await leaf().aclose()
    assert nest.closed[-1] == "leaf"
    if holder in ("frame", "task"):
        held.close()


async def test_what_is_left_to_the_loop_is_closed_at_its_end(
    anyio_backend: tuple[str, Any],
) -> None:
    nest = Nest()
    held: list[Any] = []

    async def run() -> None:
        held.append(nest.leaf())
        await anext(held[0])

    async def main() -> None:
        generators = AsyncGenerators()
        await generators.watch(run())
        await generators.aclose()
        generators.release()
        assert nest.tasks == []

    name, options = anyio_backend
    await anyio.to_thread.run_sync(lambda: anyio.run(main, backend=name, backend_options=options))
    assert len(nest.tasks) == 1
    assert held[0].ag_frame is None


async def test_what_is_left_by_code_within_watched_code_is_left_to_that() -> None:
    nest, outer, inner = Nest(), AsyncGenerators(), AsyncGenerators()
    held: list[Any] = []

    async def within() -> None:
        held.append(nest.leaf())
        await anext(held[0])

    async def run() -> None:
        await inner.watch(within())
        await inner.aclose()
        inner.release()

    await outer.watch(run())
    assert outer.are_open()
    await outer.aclose()
    assert nest.closed == []
    held.clear()
    await outer.aclose()
    assert nest.closed == ["leaf"]


async def test_not_everything_is_looked_at() -> None:
    nest, generators = Nest(), AsyncGenerators()

    class Knot:
        pass

    leaf: Any = None

    async def run() -> None:
        nonlocal leaf
        # More than is looked at refers to it, all of it dead: it is left alone, and not closed by a guess.
        knots = [Knot() for _ in range(2 * _asyncgens.OBJECTS_VISITED)]
        generator = nest.leaf()
        leaf = weakref.ref(generator)
        for knot, other in zip(knots, (*knots[1:], knots[0]), strict=True):
            vars(knot).update(generator=generator, other=other)
        await anext(generator)

    await generators.watch(run())
    await generators.aclose()
    assert nest.closed == []
    generators.release()
    await leaf().aclose()
    assert nest.closed == ["leaf"]


async def test_what_is_exhausted_needs_no_closing() -> None:
    nest, generators = Nest(), AsyncGenerators()
    held = []

    async def run() -> list[int]:
        held.append(nest.leaf())
        return [n async for n in held[0]]

    assert await generators.watch(run()) == [*range(10)]
    assert nest.closed == ["leaf"]
    assert not generators.are_open()
    await generators.aclose()
    assert nest.closed == ["leaf"]


async def test_cancelled_while_a_generator_runs(anyio_backend: tuple[str, Any]) -> None:
    for how in ways_to_cancel(anyio_backend):
        nest, generators = Nest(), AsyncGenerators()

        async def run(nest: Nest = nest, generators: AsyncGenerators = generators) -> None:
            async def drain() -> None:
                async for _ in nest.around("outer", nest.leaf(numbers=1_000_000)):
                    pass

            hooks = sys.get_asyncgen_hooks()
            try:
                await generators.watch(drain())
            finally:
                assert sys.get_asyncgen_hooks() == hooks
                with anyio.CancelScope(shield=True):
                    await generators.aclose()

        async with anyio.create_task_group() as group:
            victim = Victim(group, run)
            await settle()
            victim.cancel(how)
        assert victim.outcome == "cancelled"
        assert len(nest.tasks) == 2


async def test_others_keep_the_hooks_of_the_loop() -> None:
    nest, generators = Nest(), AsyncGenerators()
    begun = anyio.Event()
    elsewhere = nest.leaf("elsewhere")

    async def run() -> None:
        async with anyio.create_task_group() as group:
            # A task that the code starts is not the code.
            group.start_soon(child)
            await begun.wait()
            assert sys.get_asyncgen_hooks().firstiter == generators._first_iteration

    async def child() -> None:
        assert sys.get_asyncgen_hooks() == hooks
        assert await anext(elsewhere) == 0
        begun.set()

    hooks = sys.get_asyncgen_hooks()
    await generators.watch(run())
    before = nest.leaf("before")
    assert await anext(before) == 0
    await generators.aclose()
    assert nest.closed == []
    await elsewhere.aclose()
    await before.aclose()


async def test_watching_within_watching() -> None:
    nest, outer, inner = Nest(), AsyncGenerators(), AsyncGenerators()

    async def within() -> None:
        generator = nest.leaf("inner")
        await anext(generator)

    async def run() -> None:
        generator = nest.leaf("outer")
        await anext(generator)
        await inner.watch(within())
        assert sys.get_asyncgen_hooks().firstiter == outer._first_iteration
        await inner.aclose()
        assert nest.closed == ["inner"]

    await outer.watch(run())
    await outer.aclose()
    assert nest.closed == ["inner", "outer"]


async def test_a_loop_within_the_watched_code() -> None:
    nest, generators = Nest(), AsyncGenerators()

    async def in_the_other_loop() -> int:
        async for number in nest.leaf("other loop", numbers=2):
            last = number
        return last

    async def run() -> None:
        thread_result: list[int] = []
        thread = threading.Thread(
            target=lambda: thread_result.append(anyio.run(in_the_other_loop, backend="asyncio"))
        )
        thread.start()
        thread.join()
        assert thread_result == [1]
        generator = nest.leaf("own")
        await anext(generator)

    await generators.watch(run())
    await generators.aclose()
    assert nest.closed == ["other loop", "own"]


async def test_what_fails_to_close_holds_up_nothing(caplog: pytest.LogCaptureFixture) -> None:
    closed: list[str] = []

    async def fail(name: str) -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            closed.append(name)
            raise ValueError(name)

    async def ignore() -> AsyncGenerator[int, None]:
        try:
            yield 1
        except GeneratorExit:
            yield 2

    async def run() -> None:
        for generator in (fail("first"), ignore(), fail("last")):
            await anext(generator)

    generators = AsyncGenerators()
    await generators.watch(run())
    with caplog.at_level(logging.WARNING, "langchain_anyio"):
        await generators.aclose()
    assert closed == ["first", "last"]
    assert len(caplog.records) == 3


async def test_what_another_task_is_running_is_left_to_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    generators = AsyncGenerators()
    go_on = anyio.Event()
    held = []
    got: list[int] = []

    async def wait() -> AsyncGenerator[int, None]:
        yield 1
        await go_on.wait()
        yield 2

    async def run() -> None:
        held.append(wait())
        await anext(held[0])

    async def another() -> None:
        got.append(await anext(held[0]))

    await generators.watch(run())
    async with anyio.create_task_group() as group:
        group.start_soon(another)
        await settle()
        await generators.aclose()
        go_on.set()
    assert got == [2]
    assert not caplog.records
    await held[0].aclose()


async def test_a_result_and_an_error_pass_through() -> None:
    async def succeed() -> str:
        await checkpoint()
        return "x"

    async def fail() -> None:
        await checkpoint()
        raise KeyError("x")

    generators = AsyncGenerators()
    assert await generators.watch(succeed()) == "x"
    with pytest.raises(KeyError):
        await generators.watch(fail())


async def test_a_watched_coroutine_that_is_dropped_is_closed() -> None:
    closed: list[bool] = []
    hooks = sys.get_asyncgen_hooks()

    class Pause:
        def __await__(self) -> Any:
            yield "paused"

    async def run() -> None:
        try:
            await Pause()
        finally:
            closed.append(True)

    async def outer() -> None:
        await AsyncGenerators().watch(run())

    coroutine = outer()
    assert coroutine.send(None) == "paused"
    assert sys.get_asyncgen_hooks() == hooks
    coroutine.close()
    assert closed == [True]
    assert sys.get_asyncgen_hooks() == hooks


async def test_short_lived_ones_leave_nothing_behind() -> None:
    nest, generators = Nest(), AsyncGenerators()

    async def run() -> None:
        for _ in range(1000):
            held.append(nest.leaf(numbers=1))
            assert [n async for n in held[-1]] == [0]

    held: list[Any] = []
    await generators.watch(run())
    assert len(generators._started) <= 64


async def test_collected_after_the_closing(anyio_backend: tuple[str, Any]) -> None:
    nest, generators = Nest(), AsyncGenerators()
    held: list[Any] = []

    async def run() -> None:
        held.append(nest.leaf())
        await anext(held[0])

    await generators.watch(run())
    generators.release()  # as where the closing was cut short by its deadline
    if anyio_backend[0] == "trio":
        with pytest.warns(ResourceWarning, match="garbage collected"):
            held.clear()
            gc.collect()
    else:
        held.clear()
        gc.collect()
    await settle()
    assert len(nest.tasks) == 1  # trio's own closing is cancelled, and so gets no further


async def test_the_closing_is_cut_short() -> None:
    nest, generators = Nest(), AsyncGenerators()

    async def stuck() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            nest.closed.append("begun")
            await anyio.sleep_forever()

    async def run() -> None:
        for generator in (stuck(), nest.leaf()):
            await anext(generator)

    await generators.watch(run())
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(generators.aclose)
            await settle()
            scope.cancel()
    assert scope.cancelled_caught
    # The other is closed as well, and gets to run what does not wait.
    assert nest.closed == ["begun"]
    assert len(nest.tasks) == 1
