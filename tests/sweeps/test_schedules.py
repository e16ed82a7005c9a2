"""The concurrency tests under other schedules: asyncio's order of tasks shuffled, trio's drawn from a seed.

trio runs the tasks that are ready in an order that it draws, asyncio in that in which they became ready. A test that
fails names its seed, and `SCHEDULE_SEED=that` runs it alone.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import product
from types import ModuleType
from typing import Any

import anyio
import pytest

import test_event
import test_handler
import test_lifecycle
import test_lifecycle_corners
import test_projection
import test_queue
import test_stream
from limits import HANGS
from tally import tried

pytestmark = pytest.mark.slow

# They take long whatever the order, or look at the time.
LEFT_OUT = {"test_a_million_deltas_replayed", "test_cursors_collected_in_another_thread"}

Test = Callable[..., Awaitable[None]]


class ShuffledLoop(asyncio.SelectorEventLoop):
    """asyncio's own event loop, which runs what is ready in an order drawn from a seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._drawn = random.Random(seed)

    def _run_once(self) -> None:
        ready = list(self._ready)  # type: ignore[has-type]
        # Of what is no task's, asyncio's own callbacks count on the order.
        places = [n for n, handle in enumerate(ready) if _task_of(handle) is not None]
        shuffled = self._drawn.sample(places, len(places))
        handles = list(ready)
        for place, source in zip(places, shuffled, strict=True):
            handles[place] = ready[source]
        self._ready = deque(handles)
        super()._run_once()  # type: ignore[misc]


def _task_of(handle: Any) -> Any:
    task = getattr(handle._callback, "__self__", None)
    return task if isinstance(task, asyncio.Task) else None


def concurrency_tests(*modules: ModuleType) -> Iterator[Any]:
    """The asynchronous tests that need nothing but a backend, with each of their parameters' values."""
    for module in modules:
        for name, test in vars(module).items():
            if not name.startswith("test_") or not inspect.iscoroutinefunction(test):
                continue
            marks = getattr(test, "pytestmark", [])
            if name in LEFT_OUT or any(mark.name != "parametrize" for mark in marks):
                continue
            names = [mark.args[0] for mark in marks]
            if any(
                isinstance(value, type(pytest.param())) for mark in marks for value in mark.args[1]
            ):
                continue  # it has marks or ids of its own
            if set(inspect.signature(test).parameters) - {*names} <= {"anyio_backend"}:
                for numbered in product(*(enumerate(mark.args[1]) for mark in marks)):
                    given = dict(zip(names, (value for _, value in numbered), strict=True))
                    id = "-".join((f"{module.__name__}.{name}", *(str(n) for n, _ in numbered)))
                    yield pytest.param(partial(test, **given), id=id)


QUICK = [*concurrency_tests(test_event, test_queue, test_projection, test_stream, test_handler)]
SLOW = [*concurrency_tests(test_lifecycle, test_lifecycle_corners)]


def run(test: Test, backend: str, seed: int) -> None:
    options: dict[str, Any] = {}
    if backend == "asyncio":
        options["loop_factory"] = lambda: ShuffledLoop(seed)
    else:
        import trio

        trio._core._run._r.seed(seed)  # type: ignore[attr-defined]
    wants_backend = "anyio_backend" in inspect.signature(test).parameters
    kwargs = {"anyio_backend": (backend, {})} if wants_backend else {}

    async def main() -> None:
        with anyio.fail_after(HANGS):
            await test(**kwargs)

    print(f"SCHEDULE_SEED={seed}")
    anyio.run(main, backend=backend, backend_options=options)
    tried("Schedules: a concurrency test, under a seed", backend=backend)


def seeds(count: int) -> Iterator[int]:
    chosen = os.environ.get("SCHEDULE_SEED")
    yield from range(count) if chosen is None else [int(chosen)]


def skip_unless_shuffled(anyio_backend: tuple[str, Any]) -> str:
    if anyio_backend[1].get("use_uvloop"):
        pytest.skip("uvloop's queue of what is ready is its own")
    return anyio_backend[0]


def test_the_order_depends_on_the_seed() -> None:
    async def order() -> list[int]:
        ran: list[int] = []

        async def note(number: int) -> None:
            ran.append(number)

        await asyncio.gather(*map(note, range(10)))
        return ran

    orders = []
    for seed in (0, 0, 1):
        loop = ShuffledLoop(seed)
        orders.append(loop.run_until_complete(order()))
        loop.close()
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == [*range(10)]


@pytest.mark.parametrize("test", QUICK)
def test_under_a_seed(test: Test, anyio_backend: tuple[str, Any]) -> None:
    backend = skip_unless_shuffled(anyio_backend)
    for seed in seeds(1):
        run(test, backend, seed)


@pytest.mark.long
@pytest.mark.parametrize("test", (*QUICK, *SLOW))
def test_under_many_seeds(test: Test, anyio_backend: tuple[str, Any]) -> None:
    backend = skip_unless_shuffled(anyio_backend)
    for seed in seeds(30):
        run(test, backend, seed)
