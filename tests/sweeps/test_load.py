"""Many models, streams, deltas and consumers at once, and the memory that is left after them."""

from __future__ import annotations

import gc
import random
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.outputs import ChatGenerationChunk

from langchain_anyio import StreamCancelledError, open_stream
from limits import HANGS
from loopback import ProviderServer, Scenario
from loopback._raw import Script, raw_server, transcript
from loopback.models import anthropic_messages, chat_completions
from models import AStreamModel, GenerateModel, Model, StreamModel, chunk
from tally import tried

pytest_plugins = ["loopback.fixtures"]
pytestmark = [pytest.mark.slow, pytest.mark.anyio]


def sizes(short: int, long: int) -> Any:
    """How many of something: few each time, as many as the contract names in the long form."""
    return pytest.mark.parametrize(
        "count",
        (pytest.param(short, id="some"), pytest.param(long, marks=pytest.mark.long, id="all")),
    )


# Threads


class Meeting:
    """Where threads wait until so many are there at once."""

    def __init__(self, parties: int) -> None:
        self._barrier = threading.Barrier(parties, timeout=120)

    def __call__(self, number: int = 0) -> None:
        if number == 0:
            self._barrier.wait()


class Slow(BaseCallbackHandler):
    """A sync handler, which runs in a worker thread, and counts."""

    def __init__(self) -> None:
        self.told: Counter[str] = Counter()
        self._lock = threading.Lock()

    def _count(self, name: str) -> None:
        with self._lock:
            self.told[name] += 1

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self._count("start")

    def on_stream_event(self, *args: Any, **kwargs: Any) -> None:
        self._count("event")

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        self._count("end")

    def on_llm_error(self, *args: Any, **kwargs: Any) -> None:
        self._count("error")


@sizes(40, 200)
async def test_models_and_handlers_in_threads_at_once(count: int) -> None:
    """All of the models hold their threads at once, the application's own are taken, and handlers need some too."""
    meetings = Meeting(count), Meeting(count)
    free = threading.Event()
    handler = Slow()

    async def stream(model: Model) -> None:
        async with open_stream(model, "hi", {"callbacks": [handler, Slow()]}) as stream:
            assert await stream.text == "one two three"
            await stream

    with anyio.fail_after(300):
        async with anyio.create_task_group() as blocked:
            for _ in range(int(anyio.to_thread.current_default_thread_limiter().total_tokens)):
                blocked.start_soon(anyio.to_thread.run_sync, free.wait)
            try:
                for meeting, make in zip(meetings, (StreamModel, GenerateModel), strict=True):
                    async with anyio.create_task_group() as group:
                        for _ in range(count):
                            group.start_soon(stream, make(before=meeting))
                            group.start_soon(stream, AStreamModel())
            finally:
                free.set()
    assert handler.told["start"] == handler.told["end"] == 4 * count
    assert handler.told["error"] == 0
    # A start and an end of the message and of its block, and what is between them.
    assert handler.told["event"] == count * (3 * 7 + 5)
    tried("Load: models and sync handlers in worker threads at once", 4 * count)


# Streams


class Counting(AsyncCallbackHandler):
    """Counts the starts and the ends of each run."""

    def __init__(self) -> None:
        self.runs: dict[Any, list[str]] = {}

    async def on_chat_model_start(self, *args: Any, run_id: Any, **kwargs: Any) -> None:
        self.runs.setdefault(run_id, []).append("start")

    async def on_llm_end(self, *args: Any, run_id: Any, **kwargs: Any) -> None:
        self.runs[run_id].append("end")

    async def on_llm_error(self, *args: Any, run_id: Any, **kwargs: Any) -> None:
        self.runs[run_id].append("error")


# How many streams of a crowd end at a time; which of those a task belongs to.
TOGETHER = 100
_turn: ContextVar[int] = ContextVar("turn")


class Crowd:
    """Streams that are all open at once, and then end in different ways.

    Each model gives its first word, and goes on when `count` of them have done so and its turn to end has come: what
    takes longer than the 5 seconds of a cleanup because thousands are cleaned up at once is given up.
    """

    def __init__(self, count: int) -> None:
        self.handler = Counting()
        self._expected = count
        self._all_here = anyio.Event()
        self._turns = [anyio.Event() for _ in range(0, count, TOGETHER)]
        self._left = [min(TOGETHER, count - begun) for begun in range(0, count, TOGETHER)]

    async def end_in_turn(self, number: int) -> None:
        """Run the stream of that number, each in its way."""
        turn = number // TOGETHER
        _turn.set(turn)
        await self.ways[number % len(self.ways)]()
        self._left[turn] -= 1
        if not self._left[turn] and turn + 1 < len(self._turns):
            self._turns[turn + 1].set()

    async def _may_end(self) -> None:
        await self._all_here.wait()
        self._turns[0].set()
        await self._turns[_turn.get()].wait()

    async def _word(self, number: int) -> None:
        if number == 1:
            self._expected -= 1
            if not self._expected:
                self._all_here.set()
            await self._may_end()

    async def _failing_word(self, number: int) -> None:
        await self._word(number)
        if number == 1:
            raise ZeroDivisionError

    async def _stalling_word(self, number: int) -> None:
        await self._word(number)
        if number == 1:
            await anyio.sleep_forever()

    def _open(self, before: Any, **options: Any) -> Any:
        model = AStreamModel(before=before)
        return open_stream(model, "hi", {"callbacks": [self.handler]}, **options)

    async def read(self) -> None:
        async with self._open(self._word) as stream:
            assert [delta async for delta in stream.text] == ["one ", "two ", "three"]

    async def read_without_a_block(self) -> None:
        stream = self._open(self._word, replay=False)
        assert (await stream).text == "one two three"

    async def leave(self) -> None:
        async with self._open(self._stalling_word) as stream:
            async for _ in stream.text:
                break
            await self._may_end()

    async def raise_in_the_block(self) -> None:
        with pytest.raises(LookupError):
            async with self._open(self._stalling_word) as stream:
                async for _ in stream.text:
                    await self._may_end()
                    raise LookupError

    async def fail(self) -> None:
        async with self._open(self._failing_word) as stream:
            deltas = []
            with pytest.raises(ZeroDivisionError):
                async for delta in stream.text:
                    deltas.append(delta)
            assert deltas == ["one "]

    async def be_cancelled(self) -> None:
        with anyio.CancelScope() as scope:
            async with self._open(self._stalling_word) as stream:
                async for _ in stream.text:
                    await self._may_end()
                    scope.cancel()
        assert scope.cancelled_caught

    async def be_closed_elsewhere(self) -> None:
        stream = self._open(self._stalling_word)

        async def close() -> None:
            await self._may_end()
            await stream.aclose()

        async with anyio.create_task_group() as group:
            group.start_soon(close)
            with pytest.raises(StreamCancelledError):
                await stream

    async def be_left_in_a_generator(self) -> None:
        async def endpoint() -> AsyncIterator[str]:
            async with self._open(self._stalling_word) as stream:
                async for delta in stream.text:
                    yield delta

        deltas: Any = endpoint()
        assert await anext(deltas) == "one "
        await self._may_end()
        await deltas.aclose()

    @property
    def ways(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            self.read,
            self.read_without_a_block,
            self.leave,
            self.raise_in_the_block,
            self.fail,
            self.be_cancelled,
            self.be_closed_elsewhere,
            self.be_left_in_a_generator,
        ]


WHOLE = 2  # of the ways: those whose runs end well


async def crowd(count: int) -> None:
    streams = Crowd(count)
    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(streams.end_in_turn, number)
    runs = streams.handler.runs
    ends = Counter(tuple(told) for told in runs.values())
    well = sum(number % len(streams.ways) < WHOLE for number in range(count))
    assert ends == {("start", "end"): well, ("start", "error"): count - well}


@sizes(450, 9999)
async def test_streams_at_once_with_mixed_ends(count: int) -> None:
    with anyio.fail_after(600):
        async with nothing_left():
            await crowd(count)
    tried("Load: streams open at once on one thread, with mixed ends", count)


# Deltas


class Endless(Model):
    """Gives `count` deltas, each its own number and a space."""

    count: int

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for number in range(self.count):
            yield chunk(f"{number} ")


@pytest.mark.parametrize("replay", (True, False))
@sizes(20_000, 1_000_000)
async def test_deltas_of_one_stream(count: int, replay: bool) -> None:
    number = 0
    with anyio.fail_after(900):
        async with open_stream(Endless(count=count), "hi", replay=replay) as stream:
            async for delta in stream.text:
                assert delta == f"{number} "
                number += 1
            assert number == count
            text = (await stream).text
            again = [delta async for delta in stream.text] if replay else []
    assert text == "".join(f"{number} " for number in range(count))
    assert "".join(again) == (text if replay else "")
    tried("Load: deltas of one stream", count)


# Consumers


@sizes(100, 1000)
async def test_consumers_that_join_and_leave(count: int) -> None:
    """Each sees every delta from the first one to where it leaves, whoever joins and leaves meanwhile."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    words = [f"{number} " for number in range(1000)]
    reached = 0

    async def before(number: int) -> None:
        nonlocal reached
        reached = number
        for _ in range(3):
            await checkpoint()

    async def consume(join: int, leave: int, how: str) -> None:
        while reached < join:
            await checkpoint()
        if how == "awaits":
            assert await stream.text == "".join(words)
            return
        if how == "waits in vain":
            with anyio.move_on_after(chance.random() / 10):
                await stream
            return
        seen: list[str] = []
        with anyio.CancelScope() as scope:
            deltas: Any = stream.interleave("text") if how == "interleaves" else stream.text
            async for delta in deltas:
                seen.append(delta[1] if how == "interleaves" else delta)
                if len(seen) == leave:
                    if how == "breaks":
                        break
                    scope.cancel()
        assert seen == words[: len(seen)]
        assert len(seen) == min(leave, len(words))

    with anyio.fail_after(300):
        async with open_stream(AStreamModel(words=words, before=before), "hi") as stream:
            async with anyio.create_task_group() as group:
                # One that stays; without it the model would be held back while nobody is there.
                group.start_soon(consume, 0, len(words) + 1, "breaks")
                for _ in range(count):
                    group.start_soon(
                        consume,
                        chance.randrange(len(words)),
                        chance.choice((1, chance.randrange(1, len(words)), len(words) + 1)),
                        chance.choice(
                            ("breaks", "is cancelled", "interleaves", "awaits", "waits in vain")
                        ),
                    )
            assert (await stream).text == "".join(words)
    tried("Load: consumers of one stream that join and leave", count)


# Memory

# Blocks: caches that fill now and then. What a stream is made of is more than a hundred.
NOISE = 2000


async def in_processes_memory(work: Callable[[], Awaitable[None]], warm: int, rounds: int) -> int:
    """How many more blocks of memory are allocated after `rounds` of some work than after the first `warm`."""
    blocks = 0
    for number in range(warm + rounds):
        if number == warm:
            gc.collect()
            blocks = sys.getallocatedblocks()
        await work()
    gc.collect()
    return sys.getallocatedblocks() - blocks


@sizes(10, 300)
async def test_memory_stays_flat(count: int) -> None:
    streams = 40
    with anyio.fail_after(1800):
        async with nothing_left():
            grown = await in_processes_memory(partial(crowd, streams), 5, count)
    assert grown < NOISE
    tried("Load: streams one after another with flat memory", count * streams)


@sizes(10, 100)
@pytest.mark.parametrize("make", (chat_completions, anthropic_messages))
async def test_memory_of_providers_stays_flat(
    make: Any, count: int, server: ProviderServer
) -> None:
    """The same with streams that come over sockets, and are cut."""
    path = {chat_completions: "/v1/chat/completions", anthropic_messages: "/v1/messages"}[make]
    url = server.serve(Scenario()).anthropic_url + path
    data = transcript(server, url, {"model": "m", "messages": [], "stream": True}, "1.1")
    streams = 20

    with raw_server() as raw:
        raw.scripts["whole"] = Script([data])
        raw.scripts["cut"] = Script([data[: len(data) // 2]])
        raw.scripts["reset"] = Script([data[: len(data) // 2]], end="reset")
        raw.scripts["silent"] = Script([data[: len(data) // 2]], end="hold")
        model = make(raw)

        async def stream(name: str) -> None:
            async with open_stream(model.bind(model=name), "Tell me.") as stream:
                if name == "silent":
                    async for _ in stream:
                        break
                elif name == "whole":
                    assert await stream.text == "Hello, world."
                else:
                    with suppress(Exception):
                        await stream
                    assert stream.error is not None

        async def work() -> None:
            async with anyio.create_task_group() as group:
                for name in (*raw.scripts,) * (streams // 4):
                    group.start_soon(stream, name)

        with anyio.fail_after(900):
            await work()
            grown = await in_processes_memory(work, 5, count)
        assert await anyio.to_thread.run_sync(raw.wait_all_closed)
    assert grown < NOISE
    tried("Load: streams of providers one after another with flat memory", count * streams)


# What is left


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """As many tasks and threads after as before, once those that only watch have seen the end."""
    before = living()
    threads = threading.active_count()
    yield
    with anyio.fail_after(HANGS):
        while living() > before:
            await anyio.sleep(0)
    assert threading.active_count() <= threads


def living() -> int:
    if "trio" in sys.modules:
        import trio

        if trio.lowlevel.in_trio_run():
            return trio.lowlevel.current_statistics().tasks_living
    import asyncio

    return len(asyncio.all_tasks())
