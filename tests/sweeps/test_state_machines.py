"""The primitives and the handler beside simple models of them, step by step, with cancellations among the steps."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cancelling import Victim, settle, ticks, ways_to_cancel
from langchain_anyio import AsyncIteratorCallbackHandler, AsyncProjection, Event, Queue
from tally import tried

# A loop that runs for each example takes its time; the long form has more of them.
EXAMPLES = max(10, settings().max_examples // 6)

HOW = st.sampled_from(["scope", "deadline", "native", "native twice"])


class Machine(RuleBasedStateMachine):
    """Tasks on an event loop in a thread of its own, which runs between the steps for as long as a step says."""

    backend: tuple[str, Any]

    def __init__(self) -> None:
        super().__init__()
        name, options = self.backend
        self._context = start_blocking_portal(name, options)
        self.portal = self._context.__enter__()
        self.victims: list[Victim] = []

    def call(self, func: Callable[..., Any], *args: Any) -> Any:
        """Call `func` on the loop, in one go."""
        return self.portal.call(func, *args)

    def spawn(self, func: Callable[[], Awaitable[Any]]) -> Victim:
        victim: Victim = self.call(Victim, self.portal._task_group, func)
        self.victims.append(victim)
        return victim

    def settle(self) -> None:
        self.call(settle)
        for victim in self.victims:
            assert victim.outcome != "raised" or victim.expected(victim.value), victim.value  # type: ignore[attr-defined]

    @rule(number=st.integers(1, 4))
    def tick(self, number: int) -> None:
        self.call(ticks, number)

    @precondition(lambda self: self.victims)
    @rule(which=st.integers(0, 20), how=HOW)
    def cancel(self, which: int, how: str) -> None:
        how = how if how in ways_to_cancel(self.backend) else "scope"
        self.call(self.victims[which % len(self.victims)].cancel, how)

    def teardown(self) -> None:
        try:
            for victim in self.victims:
                self.call(victim.cancel, "scope")
            self.call(settle)
            assert all(victim.outcome != "running" for victim in self.victims)
            tried(f"State machines: {type(self).__name__}")
        finally:
            self._context.__exit__(None, None, None)


def check(machine: type[Machine], backend: tuple[str, Any]) -> None:
    machine = type(machine.__name__, (machine,), {"backend": backend})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=EXAMPLES, stateful_step_count=25)
    )


class QueueMachine(Machine):
    """`Queue` beside two lists."""

    @initialize(size=st.sampled_from([0, 1, 2, math.inf]))
    def make(self, size: float) -> None:
        self.queue = Queue[int](size)
        self.put: list[int] = []
        self.got: list[int] = []
        self.number = 0
        self.closed = False

    def _next(self) -> int:
        self.number += 1
        return self.number

    @rule()
    def put_nowait(self) -> None:
        def put() -> None:
            number = self._next()
            room = not self.queue.full()
            try:
                self.queue.put_nowait(number)
                assert room
                self.put.append(number)
            except anyio.WouldBlock:
                assert not room
                assert not self.closed
            except anyio.ClosedResourceError:
                assert self.closed

        self.call(put)

    @rule()
    def get_nowait(self) -> None:
        def get() -> None:
            there = self.put[len(self.got) :]
            try:
                item = self.queue.get_nowait()
                assert item == there[0]
                self.got.append(item)
            except anyio.WouldBlock:
                assert not there
                assert not self.closed
            except anyio.EndOfStream:
                assert not there
                assert self.closed

        self.call(get)

    @rule()
    def begin_to_put(self) -> None:
        async def put(number: int) -> None:
            await self.queue.put(number)
            self.put.append(number)

        victim = self.spawn(partial(put, self._next()))
        victim.expected = lambda error: isinstance(error, anyio.ClosedResourceError)  # type: ignore[attr-defined]

    @rule()
    def begin_to_get(self) -> None:
        async def get() -> None:
            self.got.append(await self.queue.get())

        victim = self.spawn(get)
        victim.expected = lambda error: isinstance(error, anyio.EndOfStream)  # type: ignore[attr-defined]

    @rule()
    def close(self) -> None:
        self.call(self.queue.close)
        self.closed = True

    @rule()
    def nobody_waits_for_what_is_there(self) -> None:
        self.settle()
        waiting = self.queue.statistics()
        assert not (waiting.tasks_waiting_get and not self.queue.empty())
        assert not (waiting.tasks_waiting_put and not self.queue.full())
        running = sum(victim.outcome == "running" for victim in self.victims)
        assert running == waiting.tasks_waiting_get + waiting.tasks_waiting_put
        assert not (self.closed and running)

    @invariant()
    def nothing_is_lost(self) -> None:
        if self.number:
            assert self.got == self.put[: len(self.got)]
            assert self.queue.qsize() == len(self.put) - len(self.got)


class EventMachine(Machine):
    """`Event` beside a flag, and a note for each waiter of whether it is to have been woken."""

    @initialize()
    def make(self) -> None:
        self.event = Event()
        self.flag = False
        self.woken: dict[Victim, bool] = {}

    @rule()
    def wait(self) -> None:
        self.settle()
        victim = self.spawn(self.event.wait)
        self.settle()
        self.woken[victim] = self.flag

    @rule(clear=st.booleans())
    def set(self, clear: bool) -> None:
        def set_it() -> None:
            self.event.set()
            if clear:
                self.event.clear()

        self.settle()
        waiting = [victim for victim in self.victims if victim.outcome == "running"]
        self.call(set_it)
        self.flag = not clear
        self.woken.update(dict.fromkeys(waiting, True))

    @rule()
    def clear(self) -> None:
        self.call(self.event.clear)
        self.flag = False

    @rule()
    def who_was_woken_has_returned(self) -> None:
        self.settle()
        assert self.event.is_set() == self.flag
        for victim, woken in self.woken.items():
            expected = {"returned", "cancelled"} if woken else {"running", "cancelled"}
            assert victim.outcome in expected


class BrokenError(Exception):
    pass


class ProjectionMachine(Machine):
    """`AsyncProjection` beside a list; a cursor whose task was cancelled goes on in another task."""

    @initialize()
    def make(self) -> None:
        self.projection = AsyncProjection[int, str]()
        self.deltas: list[int] = []
        self.end: str | None = None
        # Each cursor, what it gave, and the task that reads from it.
        self.cursors: list[tuple[Any, list[int]]] = []
        self.readers: dict[int, Victim] = {}
        self.awaiters: list[Victim] = []

    def _is_the_error(self, error: BaseException) -> bool:
        return self.end == "failed" and isinstance(error, BrokenError)

    @rule(number=st.integers(1, 70))
    def push(self, number: int) -> None:
        def push() -> None:
            for _ in range(number):
                try:
                    self.projection.push(len(self.deltas))
                    assert self.end is None
                    self.deltas.append(len(self.deltas))
                except anyio.ClosedResourceError:
                    assert self.end is not None

        self.call(push)

    @rule(end=st.sampled_from(["complete", "failed"]))
    def finish(self, end: str) -> None:
        if end == "complete":
            self.call(self.projection.complete, "final")
        else:
            self.call(self.projection.fail, BrokenError())
        self.end = self.end or end

    @rule(which=st.integers(0, 3))
    def read(self, which: int) -> None:
        self.settle()
        if which >= len(self.cursors):
            which = len(self.cursors)
            self.cursors.append((aiter(self.projection), []))
        if which in self.readers and self.readers[which].outcome == "running":
            return
        cursor, got = self.cursors[which]

        async def read() -> None:
            async for delta in cursor:
                got.append(delta)

        self.readers[which] = self.spawn(read)
        self.readers[which].expected = self._is_the_error  # type: ignore[attr-defined]

    @rule()
    def wait(self) -> None:
        victim = self.spawn(self.projection._wait)
        victim.expected = self._is_the_error  # type: ignore[attr-defined]
        self.awaiters.append(victim)

    @rule()
    def everybody_has_everything(self) -> None:
        self.settle()
        ended = {None: "running", "complete": "returned", "failed": "raised"}[self.end]
        for which, (_, got) in enumerate(self.cursors):
            assert got == self.deltas[: len(got)]
            if self.readers[which].outcome != "cancelled":
                assert got == self.deltas
                assert self.readers[which].outcome == ended
        for victim in self.awaiters:
            assert victim.outcome in {ended, "cancelled"}
            assert victim.outcome != "returned" or victim.value == "final"


class HandlerMachine(Machine):
    """`AsyncIteratorCallbackHandler` beside a list of spans: what is told while any outermost run goes on."""

    @initialize()
    def make(self) -> None:
        self.handler = AsyncIteratorCallbackHandler()
        self.spans: list[dict[str, Any]] = [{"tokens": [], "ended": False, "error": False}]
        self.open: dict[UUID, UUID | None] = {}
        self.read: list[str] = []
        self.span = 0  # that the next iteration reads
        self.reader: Victim | None = None
        self.number = 0

    def _note_the_end(self) -> None:
        """Have the reader's outcome move the model on."""
        self.settle()
        reader, span = self.reader, self.spans[self.span]
        told = [token for span in self.spans[: self.span] for token in span["tokens"]]
        assert self.read[: len(told)] == told
        rest = self.read[len(told) :]
        assert rest == span["tokens"][: len(rest)]
        if reader is not None and reader.outcome != "cancelled":
            assert rest == span["tokens"]
            if span["ended"]:
                assert reader.outcome == ("raised" if span["error"] else "returned")
                self.span += 1
            else:
                assert reader.outcome == "running"
                return
        self.reader = None

    @rule()
    def iterate(self) -> None:
        self._note_the_end()
        if self.reader is None:

            async def read() -> None:
                async for token in self.handler:
                    self.read.append(token)

            self.reader = self.spawn(read)
            self.reader.expected = lambda error: isinstance(error, BrokenError)  # type: ignore[attr-defined]
            self._note_the_end()

    @precondition(lambda self: len(self.open) < 4)
    @rule(part=st.integers(-1, 3))
    def start(self, part: int) -> None:
        self._note_the_end()
        run_id = uuid4()
        parent = [*self.open][part] if 0 <= part < len(self.open) else None
        start = partial(self.handler.on_llm_start, {}, [], run_id=run_id, parent_run_id=parent)
        self.call(start)
        self.open[run_id] = parent
        self._note_the_end()

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 3))
    def tell(self, which: int) -> None:
        run_id = [*self.open][which % len(self.open)]
        self.number += 1
        token = str(self.number)
        self.call(partial(self.handler.on_llm_new_token, token, run_id=run_id))
        self.spans[-1]["tokens"].append(token)

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 3), error=st.booleans())
    def end(self, which: int, error: bool) -> None:
        self._note_the_end()
        run_id = [*self.open][which % len(self.open)]
        if error:
            self.call(partial(self.handler.on_llm_error, BrokenError(), run_id=run_id))
        else:
            self.call(partial(self.handler.on_llm_end, None, run_id=run_id))
        outermost = self.open.pop(run_id) is None
        if outermost:
            self.spans[-1]["error"] |= error
            within = {run_id}
            for inner, parent in list(self.open.items()):
                if parent in within:
                    within.add(inner)
                    del self.open[inner]
        if outermost and not any(parent is None for parent in self.open.values()):
            self.spans[-1]["ended"] = True
            self.spans.append({"tokens": [], "ended": False, "error": False})
        self._note_the_end()


@pytest.mark.hypothesis
@pytest.mark.parametrize("machine", (QueueMachine, EventMachine, ProjectionMachine, HandlerMachine))
def test_equals_its_model(machine: type[Machine], anyio_backend: tuple[str, Any]) -> None:
    check(machine, anyio_backend)
