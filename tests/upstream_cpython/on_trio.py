"""Runs the interpreter's own tests of asyncio on one backend and writes down what becomes of each.

`python on_trio.py asyncio|trio RESULTS [MODULE ...]`. `enable_trio()` puts the namespace in the place of `asyncio` in
the modules of the tests, as in those of any library. On trio, each test runs in a greenlet within a trio task: what is
synchronous in it runs there, and where it has a loop run something to its end, the task awaits that.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import importlib
import inspect
import json
import random
import signal
import sys
import unittest
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from left_out import MODULES, is_run

# Far above what any of them takes, so that a test that hangs is a failure and not the end of the run.
SECONDS = 4.0


class Result(unittest.TestResult):
    """What became of each test."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: dict[str, str] = {}

    def _write_down(self, test: Any, outcome: str) -> None:
        self.outcomes[name_of(getattr(test, "test_case", test))] = outcome

    def addSuccess(self, test: Any) -> None:  # noqa: N802
        # A failed subtest is no success.
        self.outcomes.setdefault(name_of(test), "passed")

    def _failed(self, test: Any, err: Any) -> None:
        cause = err[1].__cause__
        of = f" ({cause!r})" if cause is not None else ""
        self._write_down(test, f"{err[0].__name__}: {err[1]}{of}".replace("\n", " ")[:300])

    addError = addFailure = _failed  # noqa: N815

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        if err is not None:
            self._failed(subtest, err)

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        self._write_down(test, f"skipped: {reason}")

    def addExpectedFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        self._write_down(test, "xfailed")

    def addUnexpectedSuccess(self, test: Any) -> None:  # noqa: N802
        self._write_down(test, "xpassed")


def name_of(test: unittest.TestCase) -> str:
    return test.id().removeprefix("test.test_asyncio.")


class TooSlow(BaseException):
    """A test has not come to its end."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Interrupt a test that keeps the processor to itself."""

    def interrupt(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1.5 * SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def in_order(number: float) -> Iterator[None]:
    """Have trio run what is ready in one of the two orders that it chooses from at random."""
    from trio._core import _run

    class Order(random.Random):
        def random(self) -> float:
            return number

    before, _run._r = _run._r, Order()  # type: ignore[assignment]
    try:
        yield
    finally:
        _run._r = before


# A test passes on trio if it does so in either order.
ORDERS: dict[str, list[Any]] = {
    "asyncio": [contextlib.nullcontext],
    "trio": [functools.partial(in_order, 0.9), functools.partial(in_order, 0.1)],
}


def tests_of(module: Any) -> Iterator[unittest.TestCase]:
    def flat(suite: Any) -> Iterator[unittest.TestCase]:
        for test in suite:
            if isinstance(test, unittest.TestSuite):
                yield from flat(test)
            else:
                yield test

    yield from flat(unittest.defaultTestLoader.loadTestsFromModule(module))


def main() -> None:
    backend, results, *names = sys.argv[1:]
    import langchain_anyio

    langchain_anyio.enable_trio("test.test_asyncio")
    if backend == "trio":
        adapt()
    # Some tests collect garbage often, and all of this is none.
    gc.freeze()
    result = Result()
    for name in names or MODULES:
        try:
            module = importlib.import_module(f"test.test_asyncio.{name}")
        except ModuleNotFoundError:
            continue  # of a later Python
        if backend == "trio":
            adapt_module(module)
        for test in tests_of(module):
            if is_run(name_of(test)):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    try:
                        for order in ORDERS[backend]:
                            with limited(), order():
                                test.run(result)
                            if result.outcomes.get(name_of(test)) != "passed":
                                break
                    except BaseException as exc:
                        result._failed(test, (type(exc), exc, None))
            else:
                result.outcomes[name_of(test)] = "not run"
    Path(results).write_text(json.dumps(result.outcomes, indent=1, sort_keys=True))


def until_blocked(*_: object) -> None:
    """Let everything run that can."""
    import greenlet
    import trio.testing

    parent: Any = greenlet.getcurrent().parent
    parent.switch(trio.testing.wait_all_tasks_blocked())


def adapt() -> None:
    """Have each test run on trio."""
    import greenlet
    import trio
    import trio.testing
    from test.test_asyncio import utils

    from langchain_anyio._trio_runtime.asyncio_api.futures import Future, Task
    from langchain_anyio._trio_runtime.asyncio_api.loop import TrioLoop, running_loop

    def until_complete(awaitable: Any) -> Any:
        if asyncio.isfuture(awaitable) and not isinstance(awaitable, Future):
            raise TypeError("a future of asyncio's own")
        if not isinstance(awaitable, (Future, Task)):
            awaitable = Task(awaitable)
        return greenlet.getcurrent().parent.switch(awaitable)

    def clock_is_mock() -> bool:
        return isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)

    def new_loop(clock: Any) -> TrioLoop:
        """Return the running loop with the methods of a loop that does not run."""
        loop: Any = running_loop()
        loop.run_until_complete = until_complete
        loop.advance_time = clock.jump
        # Each loop of a test begins at no time.
        begin = trio.current_time() if clock_is_mock() else 0.0
        loop.time = lambda: trio.current_time() - begin
        nothing = lambda *_, **__: None  # noqa: E731
        for name in (
            "close",
            "set_debug",
            "set_task_factory",
            "get_task_factory",
            "set_exception_handler",
            "_run_once",
            "shutdown_asyncgens",
        ):
            if name not in vars(TrioLoop):
                setattr(loop, name, nothing)
        loop._run_once = until_blocked
        return loop

    original = unittest.TestCase.run

    def run(self: unittest.TestCase, result: Any = None) -> Any:
        with_loop = isinstance(self, utils.TestCase)
        clock: Any = trio.testing.MockClock(autojump_threshold=0)
        real = not with_loop or "Threadsafe" in type(self).__name__

        async def drive() -> None:
            test = greenlet.greenlet(lambda: original(self, result))
            test.gr_context = contextvars.copy_context()
            self.new_test_loop = lambda gen=None: new_loop(clock)  # type: ignore[attr-defined]
            step = test.switch()
            while not test.dead:
                try:
                    with trio.fail_after(SECONDS if real else 1000):
                        value = await step
                except BaseException as exc:
                    step = test.throw(exc)
                else:
                    step = test.switch(value)

        NEW_LOOP.append(lambda: new_loop(clock))
        try:
            return trio.run(drive, **({} if real else {"clock": clock}))
        finally:
            NEW_LOOP.pop()

    unittest.TestCase.run = run  # type: ignore[method-assign]
    isolated: Any = unittest.IsolatedAsyncioTestCase
    for name in ("run", "debug", "__del__"):
        if name in vars(isolated):
            delattr(isolated, name)

    def call(self: Any, function: Any, *args: Any, **kwargs: Any) -> None:
        value = function(*args, **kwargs)
        if inspect.isawaitable(value):
            until_complete(value)

    isolated._callSetUp = lambda self: (self.setUp(), until_complete(self.asyncSetUp()))
    isolated._callTestMethod = call
    isolated._callTearDown = lambda self: (until_complete(self.asyncTearDown()), self.tearDown())
    isolated._callCleanup = call

    nothing = lambda *_, **__: None  # noqa: E731
    utils.TestCase.setUp = nothing
    utils.TestCase.tearDown = lambda self: self.doCleanups()
    utils.TestCase.set_event_loop = nothing
    utils.TestCase.close_loop = staticmethod(nothing)


# What makes the loop of the test that runs.
NEW_LOOP: list[Any] = []


def adapt_module(module: Any) -> None:
    """Have the tests of asyncio's classes test those of the namespace."""
    from langchain_anyio._trio_runtime.asyncio_api import current as _current
    from langchain_anyio._trio_runtime.asyncio_api import synchronization as _primitives
    from langchain_anyio._trio_runtime.asyncio_api.futures import Future, Task
    from langchain_anyio._trio_runtime.namespace import Namespace

    module.asyncio = namespace = Namespace(
        {
            "new_event_loop": lambda: NEW_LOOP[-1](),
            "set_event_loop": lambda *_: None,
            "set_event_loop_policy": lambda *_: None,
        }
    )
    if hasattr(module, "taskgroups"):
        module.taskgroups = namespace
    # What the module has bound as it was imported.
    for name in ("Queue", "LifoQueue", "PriorityQueue"):
        for cls in vars(module).values():
            if getattr(cls, "q_class", None) is getattr(asyncio, name):
                cls.q_class = getattr(_primitives, name)
    ported = {"Task": Task, "Future": Future, "cls": Future}
    for name in ("CTask_CFuture_Tests", "CFutureTests", "CFutureInheritanceTests"):
        if cls := getattr(module, name, None):
            for attribute, value in ported.items():
                if hasattr(cls, attribute):
                    setattr(cls, attribute, value)
    if module.__name__.endswith("test_futures2"):
        module.CFutureTests.cls = Task
    if cls := getattr(module, "CFutureDoneCallbackTests", None):
        cls._new_future = lambda self: Future(loop=self.loop)
    if cls := getattr(module, "CCurrentLoopTests", None):
        cls.current_task = staticmethod(_current.current_task)
        cls.new_task = lambda self, coro: Task(coro)
    if cls := getattr(module, "GatherTestsBase", None):
        cls._run_loop = until_blocked


if __name__ == "__main__":
    main()
