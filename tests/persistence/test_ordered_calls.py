"""Calls in worker threads: their order, their turns, and what a cancellation does to them."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from anyio import wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from langchain_anyio.langgraph._calls import OrderedCalls

SECONDS = 20


class Gate:
    """A blocking function that says when it has begun, and returns when it is let go."""

    def __init__(self, name: str, log: list[str] | None = None) -> None:
        self.name = name
        self.log = [] if log is None else log
        self.begun = threading.Event()
        self.go = threading.Event()
        self.ended = threading.Event()

    def __call__(self) -> str:
        self.log.append(f"{self.name} begins")
        self.begun.set()
        try:
            assert self.go.wait(SECONDS)
            return self.name
        finally:
            self.log.append(f"{self.name} ends")
            self.ended.set()


async def until(event: threading.Event) -> None:
    """Wait for an event of a thread."""
    assert await anyio.to_thread.run_sync(event.wait, SECONDS)


def write(calls: OrderedCalls, func: Callable[[], Any]) -> Any:
    return calls.run(func, label="write()", writes=True)


def read(calls: OrderedCalls, func: Callable[[], Any]) -> Any:
    return calls.run(func, label="read()", writes=False)


def threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == f"langchain_anyio {name}"]


pytestmark = pytest.mark.anyio


async def test_calls_are_made_in_the_order_in_which_they_were_asked_for_one_at_a_time() -> None:
    calls = OrderedCalls("ordered", 1)
    log: list[str] = []
    first = Gate("first", log)
    results: dict[int, int] = {}
    in_progress = 0

    def call(number: int) -> int:
        nonlocal in_progress
        in_progress += 1
        assert in_progress == 1
        log.append(str(number))
        in_progress -= 1
        return number

    async def ask(number: int) -> None:
        results[number] = await (write if number % 3 else read)(calls, partial(call, number))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write, calls, first)
        await until(first.begun)
        for number in range(20):
            tasks.start_soon(ask, number)
            await wait_all_tasks_blocked()
        assert len(threads("ordered")) == 1
        first.go.set()
    assert log == ["first begins", "first ends", *map(str, range(20))]
    assert results == {number: number for number in range(20)}


async def test_no_thread_is_left_when_there_are_no_calls() -> None:
    calls = OrderedCalls("idle", 1)
    assert await write(calls, lambda: "result") == "result"
    for thread in threads("idle"):
        await anyio.to_thread.run_sync(thread.join, SECONDS)
    assert threads("idle") == []


async def test_as_many_calls_overlap_as_there_are_turns_and_they_begin_in_order() -> None:
    calls = OrderedCalls("turns", 2)
    log: list[str] = []
    gates = [Gate(str(number), log) for number in range(3)]
    async with anyio.create_task_group() as tasks:
        for gate in gates:
            tasks.start_soon(write, calls, gate)
            await wait_all_tasks_blocked()
        await until(gates[0].begun)
        await until(gates[1].begun)
        assert not gates[2].begun.is_set()
        gates[1].go.set()
        await until(gates[2].begun)
        for gate in gates:
            gate.go.set()
    begun = [line for line in log if line.endswith("begins")]
    assert begun.index("2 begins") == 2


@pytest.mark.parametrize("ask", (write, read))
@pytest.mark.parametrize("turns", (1, 2))
async def test_a_call_that_has_not_begun_is_not_made_if_it_is_cancelled(
    ask: Callable[..., Any], turns: int
) -> None:
    calls = OrderedCalls("waiting", turns)
    gates = [Gate("first") for _ in range(turns)]
    made: list[str] = []
    async with anyio.create_task_group() as tasks:
        for gate in gates:
            tasks.start_soon(write, calls, gate)
            await until(gate.begun)
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(ask, calls, lambda: made.append("cancelled"))
            await wait_all_tasks_blocked()
            waiting.cancel_scope.cancel()
        for gate in gates:
            gate.go.set()
    await write(calls, lambda: made.append("next"))
    assert made == ["next"]


async def test_nothing_is_asked_for_in_a_cancelled_scope() -> None:
    calls = OrderedCalls("cancelled", 1)
    made: list[str] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await write(calls, lambda: made.append("never"))
    await write(calls, lambda: made.append("next"))
    assert made == ["next"]


async def test_a_cancelled_write_that_has_begun_is_waited_for() -> None:
    calls = OrderedCalls("write", 1)
    gate = Gate("write")
    after: list[bool] = []

    async def cancelled() -> None:
        try:
            await write(calls, gate)
            after.append(False)
        finally:
            after.append(gate.ended.is_set())

    async with anyio.create_task_group() as outer:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancelled)
            await until(gate.begun)
            tasks.cancel_scope.cancel()

            async def let_go() -> None:
                await wait_all_tasks_blocked()
                assert after == []
                gate.go.set()

            outer.start_soon(let_go)
    assert after == [True]
    assert await write(calls, lambda: "next") == "next"


async def test_a_cancelled_write_that_fails_raises_its_error() -> None:
    calls = OrderedCalls("failing", 1)
    gate = Gate("write")

    def fail() -> None:
        gate()
        raise OSError("disk full")

    errors: list[BaseException] = []

    async def cancelled() -> None:
        try:
            await write(calls, fail)
        except OSError as exc:
            errors.append(exc)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancelled)
        await until(gate.begun)
        tasks.cancel_scope.cancel()
        gate.go.set()
    assert [str(error) for error in errors] == ["disk full"]


async def test_a_cancelled_read_that_has_begun_is_abandoned_and_keeps_its_turn() -> None:
    calls = OrderedCalls("read", 1)
    log: list[str] = []
    gate = Gate("read", log)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read, calls, gate)
        await until(gate.begun)
        tasks.cancel_scope.cancel()
    assert not gate.ended.is_set()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write, calls, lambda: log.append("write"))
        await wait_all_tasks_blocked()
        assert log == ["read begins"]
        gate.go.set()
    assert log == ["read begins", "read ends", "write"]


async def test_a_write_that_does_not_end_is_left_to_its_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("langchain_anyio._backends.limits.CLEANUP_SECONDS", 0.01)
    calls = OrderedCalls("hanging", 1)
    gate = Gate("write")
    with pytest.MonkeyPatch.context() as patch:
        seen: list[str] = []
        patch.setattr(sys, "unraisablehook", lambda info: seen.append(str(info.exc_value)))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write, calls, gate)
            await until(gate.begun)
            tasks.cancel_scope.cancel()
        gc.collect()
    assert len(seen) == 1
    assert "write() was cancelled" in seen[0]
    assert "left to its thread" in seen[0]
    assert not gate.ended.is_set()
    gate.go.set()
    assert await write(calls, gate.ended.is_set)


async def test_errors_keep_their_type_and_do_not_stop_later_calls() -> None:
    calls = OrderedCalls("errors", 1)

    def fail(error: BaseException) -> None:
        raise error

    for error in (ValueError("no"), KeyboardInterrupt(), SystemExit(3)):
        with pytest.raises(type(error)) as caught:
            await write(calls, partial(fail, error))
        assert caught.value is error
    for error in (StopIteration(), GeneratorExit(), asyncio.CancelledError()):
        with pytest.raises(RuntimeError, match=type(error).__name__) as caught:
            await write(calls, partial(fail, error))
        assert caught.value.__cause__ is error
    assert await write(calls, lambda: "next") == "next"


async def test_a_call_has_a_copy_of_its_callers_context_and_no_event_loop() -> None:
    calls = OrderedCalls("context", 1)
    variable: ContextVar[str] = ContextVar("variable")
    variable.set("caller")

    def call() -> str:
        value = variable.get()
        variable.set("thread")
        # Any error will do: which one differs between the releases of anyio.
        with pytest.raises(Exception, match="async"):
            anyio.get_current_task()
        return value

    assert await write(calls, call) == "caller"
    assert variable.get() == "caller"


async def test_every_call_is_a_checkpoint() -> None:
    calls = OrderedCalls("checkpoint", 1)
    seen: list[str] = []

    async def other() -> None:
        seen.append("other")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        # Two, as trio resumes what is ready at the same time in any order.
        await write(calls, lambda: None)
        await write(calls, lambda: None)
        seen.append("calls")
    assert seen == ["other", "calls"]


async def test_a_synchronous_call_waits_for_its_turn_even_on_the_event_loop() -> None:
    calls = OrderedCalls("sync", 1)
    log: list[str] = []
    gate = Gate("first", log)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write, calls, gate)
        await until(gate.begun)
        tasks.start_soon(write, calls, lambda: log.append("second"))
        await wait_all_tasks_blocked()
        threading.Timer(0, gate.go.set).start()
        # The event loop is blocked until both calls before this one have ended.
        calls.run_here(lambda: log.append("here"))
        assert log == ["first begins", "first ends", "second", "here"]


async def test_a_call_may_call_the_object_synchronously() -> None:
    calls = OrderedCalls("nested", 1)
    nested = partial(calls.run_here, lambda: calls.run_here(lambda: "inner"))
    assert await write(calls, nested) == "inner"
    assert nested() == "inner"


async def test_closing_waits_for_all_calls_and_refuses_later_ones() -> None:
    calls = OrderedCalls("closing", 2)
    log: list[str] = []
    gates = [Gate("a", log), Gate("b", log)]
    async with anyio.create_task_group() as tasks:
        for gate in gates:
            tasks.start_soon(write, calls, gate)
            await until(gate.begun)
        tasks.start_soon(write, calls, lambda: log.append("waiting"))
        await wait_all_tasks_blocked()
        tasks.start_soon(partial(calls.close, lambda: log.append("closed"), label="close()"))
        await wait_all_tasks_blocked()
        for func in (write, read):
            with pytest.raises(anyio.ClosedResourceError):
                await func(calls, lambda: log.append("late"))
        with pytest.raises(anyio.ClosedResourceError):
            calls.run_here(lambda: log.append("late"))
        for gate in gates:
            gate.go.set()
    assert sorted(log[:-1]) == sorted(["a begins", "a ends", "b begins", "b ends", "waiting"])
    assert log[-1] == "closed"


async def test_closing_in_a_cancelled_scope_closes() -> None:
    calls = OrderedCalls("closing", 1)
    log: list[str] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await calls.close(lambda: log.append("closed"), label="close()")
    assert log == ["closed"]


async def test_a_thread_that_cannot_start_fails_its_call_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = OrderedCalls("unstarted", 1)

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr("langchain_anyio.langgraph._calls.threading.Thread.start", start)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await write(calls, lambda: None)
    assert await write(calls, lambda: "next") == "next"


async def test_a_burst_of_calls_cancelled_at_any_moment_loses_no_turn() -> None:
    calls = OrderedCalls("burst", 2)
    made: list[int] = []
    asked: list[int] = []

    async def ask(number: int) -> None:
        asked.append(number)
        await (write if number % 2 else read)(calls, partial(made.append, number))

    for after in range(12):
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(ask, number)
            for _ in range(after):
                await checkpoint()
            tasks.cancel_scope.cancel()
        assert await write(calls, lambda: "next") == "next"
    assert len(made) <= len(asked)
    # Closing needs all turns.
    with anyio.fail_after(SECONDS):
        assert await calls.close(lambda: "closed", label="close()") == "closed"


async def test_native_cancellation_waits_for_a_write(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has no native cancellation")
    calls = OrderedCalls("native", 1)
    gate = Gate("write")
    task = asyncio.ensure_future(write(calls, gate))
    await until(gate.begun)
    for _ in range(3):
        task.cancel()
        await wait_all_tasks_blocked()
        assert not task.done()
    gate.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gate.ended.is_set()


async def test_native_cancellation_abandons_a_read(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has no native cancellation")
    calls = OrderedCalls("native", 1)
    gate = Gate("read")
    task = asyncio.ensure_future(read(calls, gate))
    await until(gate.begun)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not gate.ended.is_set()
    gate.go.set()
    assert await write(calls, gate.ended.is_set)


async def test_one_object_serves_several_event_loops_at_the_same_time() -> None:
    calls = OrderedCalls("loops", 1)
    log: list[int] = []

    async def ask() -> None:
        for _ in range(50):
            await write(calls, partial(log.append, len(log)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        tasks.start_soon(partial(anyio.to_thread.run_sync, partial(anyio.run, ask)))
    assert len(log) == 100


PROGRAM = """
import sys, threading, time
import anyio
from langchain_anyio.langgraph._calls import OrderedCalls
begun = threading.Event()
def slow():
    begun.set()
    time.sleep({seconds})
    print("ended", flush=True)
async def main():
    calls = OrderedCalls("exit", 1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: calls.run(slow, label="slow()", writes={writes}))
        await anyio.to_thread.run_sync(begun.wait)
        tasks.cancel_scope.cancel()
from langchain_anyio._backends import limits
limits.CLEANUP_SECONDS = 0.01
import warnings
warnings.simplefilter("ignore")
anyio.run(main, backend={backend!r})
print("left", flush=True)
"""


@pytest.mark.parametrize(
    ("writes", "seconds", "printed"), ((True, 0.5, "left\nended\n"), (False, 30, "left\n"))
)
async def test_the_interpreter_exits_after_writes_and_without_abandoned_reads(
    writes: bool, seconds: float, printed: str, anyio_backend_name: str
) -> None:
    program = PROGRAM.format(writes=writes, seconds=seconds, backend=anyio_backend_name)
    done = await anyio.to_thread.run_sync(
        partial(
            subprocess.run,
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, printed, "")
