"""What nobody should do, done: it ends at once, in a clear error or none, and never in a hang."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from langchain_core.callbacks import StdOutCallbackHandler
from langchain_core.runnables import RunnableLambda

from cancelling import living, settle
from handlers import config_of
from langchain_anyio import (
    AsyncChatModelStream,
    AsyncIteratorCallbackHandler,
    AsyncProjection,
    Event,
    Queue,
    StreamCancelledError,
    open_stream,
)
from langchain_anyio._backends.current import backend
from limits import HANGS
from models import (
    AStreamModel,
    AsyncRecorder,
    Gate,
    Recorder,
    events_of,
)
from tally import tried

pytestmark = pytest.mark.anyio


def elsewhere(func: Callable[[], Awaitable[Any]], name: str) -> BaseException | Any:
    """Run `func` on an event loop of its own, in a thread; return its result or its error."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(anyio.run(func, backend=name))
        except BaseException as exc:
            results.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert results, "it hangs"
    return results[0]


# Handlers that raise


class Interrupt(BaseException):
    """Neither an exception nor an exit."""


ERRORS: tuple[type[BaseException], ...] = (
    KeyError,
    NotImplementedError,
    Interrupt,
    asyncio.CancelledError,
    GeneratorExit,
    StopIteration,
    StopAsyncIteration,
    anyio.EndOfStream,
    StreamCancelledError,
)
TOLD = ("on_chat_model_start", "on_stream_event", "on_llm_new_token", "on_llm_end", "on_llm_error")


@pytest.mark.parametrize("how", ("in a thread", "in a task", "inline", "inline task"))
@pytest.mark.parametrize("error", ERRORS)
async def test_handlers_that_raise_anything_at_any_event(
    how: str, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    for event in TOLD:
        for raise_error in (False, True):

            def react(name: str) -> None:
                if name == event:  # noqa: B023
                    raise error

            async def before(number: int) -> None:
                if number == 2 and event == "on_llm_error":  # noqa: B023
                    raise OSError("broken")

            kind = AsyncRecorder if "task" in how else Recorder
            bad: Any = kind(react)
            others: list[Any] = [AsyncRecorder(), Recorder()]
            bad.run_inline = "inline" in how
            bad.raise_error = raise_error
            tasks = living()
            stream = open_stream(
                AStreamModel(before=before, tell=True), "hi", config_of(others[0], bad, others[1])
            )
            with anyio.fail_after(HANGS):
                async with stream:
                    try:
                        outcome: Any = await stream
                    except BaseException as exc:
                        outcome = exc
            context = f"{event}, raise_error={raise_error}: {outcome!r}"
            for recorder in (bad, *others):
                starts = recorder.names().count("on_chat_model_start")
                assert len(recorder.ends()) == starts, context
            # What a handler raises is its own affair, unless it says otherwise, or what it raises
            # is no Exception.
            if event == "on_llm_error":
                assert isinstance(outcome, OSError), context
            elif issubclass(error, Exception) and not raise_error:
                assert outcome.text == "one two three", context
            elif event == "on_llm_end":
                assert stream.output_message is not None, context
            for recorder in others:
                if not bad.run_inline and event != "on_llm_error" and stream.error is None:
                    assert recorder.names()[-1] == "on_llm_end", context
            with anyio.fail_after(HANGS):
                while living() > tasks:
                    await checkpoint()
            tried("Hostile input: a handler that raises something at one of its events")
    caplog.clear()


async def test_a_handler_that_is_cancelled_on_its_own_cuts_no_other_one_short() -> None:
    release, slow_over = anyio.Event(), []

    def cancelled(name: str) -> None:
        if name == "on_llm_end":
            raise asyncio.CancelledError

    async def wait() -> None:
        release.set()
        await settle()
        slow_over.append(True)

    bad = AsyncRecorder(cancelled)
    slow = AsyncRecorder(lambda name: wait() if name == "on_llm_end" else None)
    async with open_stream(AStreamModel(), "hi", config_of(slow, bad)) as stream:
        await stream.output
        await release.wait()
    assert slow_over == [True]
    assert slow.ends() == bad.ends() == ["on_llm_end"]


# Who waits for itself


@pytest.mark.parametrize("inline", (False, True))
@pytest.mark.parametrize("event", ("on_chat_model_start", "on_stream_event", "on_llm_end"))
async def test_a_handler_closes_its_own_run(event: str, inline: bool) -> None:
    returned: list[str] = []

    async def close() -> None:
        await stream.aclose()
        returned.append(event)

    handler = AsyncRecorder(lambda name: close() if name == event else None)
    handler.run_inline = inline
    stream = open_stream(AStreamModel(), "hi", config_of(handler))
    with anyio.fail_after(HANGS):  # a cleanup that is given up warns, which is an error
        async with stream:
            try:
                assert (await stream).text == "one two three"
                assert event == "on_llm_end"
            except StreamCancelledError:
                assert event != "on_llm_end"
    assert returned
    assert handler.ends() == ["on_llm_end" if event == "on_llm_end" else "on_llm_error"]


async def test_a_handler_in_a_thread_closes_its_own_run() -> None:
    def close(name: str) -> None:
        if name == "on_stream_event":
            anyio.from_thread.run(stream.aclose)

    handler = Recorder(close)
    stream = open_stream(AStreamModel(), "hi", config_of(handler))
    with anyio.fail_after(HANGS):
        async with stream:
            with pytest.raises(StreamCancelledError):
                await stream
    assert handler.ends() == ["on_llm_error"]


async def test_a_model_closes_its_own_run() -> None:
    async def before(number: int) -> None:
        if number == 1:
            await stream.aclose()

    model = AStreamModel(before=before)
    stream = open_stream(model, "hi")
    with anyio.fail_after(HANGS):
        with pytest.raises(StreamCancelledError):
            await stream
        await stream.aclose()
    assert model.trace[-1] == "closed"


async def test_a_handler_of_a_run_within_closes_the_outer_run() -> None:
    async def close() -> None:
        await outer.aclose()

    handler = AsyncRecorder(lambda name: close() if name == "on_llm_end" else None)

    async def before(number: int) -> None:
        if number == 1:
            await open_stream(AStreamModel(), "hi", config_of(handler))

    outer = open_stream(AStreamModel(before=before), "hi")
    with anyio.fail_after(HANGS):
        async with outer:
            with pytest.raises(StreamCancelledError):
                await outer
    assert handler.ends() == ["on_llm_end"]


@pytest.mark.parametrize("event", ("on_chat_model_start", "on_stream_event", "on_llm_end"))
async def test_a_handler_that_waits_for_its_own_run_is_refused(event: str) -> None:
    caught: list[BaseException] = []

    async def wait() -> None:
        try:
            await stream
        except RuntimeError as exc:
            caught.append(exc)

    handler = AsyncRecorder(lambda name: wait() if name == event else None)
    stream = open_stream(AStreamModel(), "hi", config_of(handler))
    with anyio.fail_after(20):
        assert (await stream).text == "one two three"
        assert "waits for the run that waits for it" in str(caught[0])
    assert handler.ends() == ["on_llm_end"]


WAITS: dict[str, Callable[[AsyncChatModelStream], Awaitable[Any]]] = {
    "text": lambda stream: stream.text._wait(),
    "output": lambda stream: stream.output._wait(),
    "events": lambda stream: stream.events._wait(),
    "deltas": lambda stream: consume(stream.text),
    "all events": lambda stream: consume(stream),
    "interleaved": lambda stream: consume(stream.interleave()),
}


async def consume(items: AsyncIterable[Any]) -> list[Any]:
    return [item async for item in items]


@pytest.mark.parametrize("kind", ("async", "inline", "thread"))
@pytest.mark.parametrize("event", ("on_chat_model_start", "on_stream_event", "on_llm_end"))
@pytest.mark.parametrize("way", WAITS)
async def test_a_handler_that_waits_for_more_of_its_own_run_is_refused(
    event: str, way: str, kind: str
) -> None:
    """What is there already it gets, and waits for nothing."""
    caught: list[BaseException] = []
    got: list[Any] = []

    async def wait() -> None:
        try:
            got.append(await WAITS[way](stream))
        except RuntimeError as exc:
            caught.append(exc)

    def react(name: str) -> Any:
        if name != event:
            return None
        return anyio.from_thread.run(wait) if kind == "thread" else wait()

    handler = (Recorder if kind == "thread" else AsyncRecorder)(react)
    handler.run_inline = kind == "inline"
    stream = open_stream(AStreamModel(), "hi", config_of(handler))
    with anyio.fail_after(HANGS):
        assert (await stream).text == "one two three"
        whole = await WAITS[way](stream)
    if event == "on_llm_end":
        assert got == [whole]
        assert not caught
    elif event == "on_chat_model_start":
        assert "waits for the run that waits for it" in str(caught[0])
        assert len(caught) == 1
        assert not got
    else:
        # Its last call comes after the last event.
        assert len(caught) == len(handler.told) - 3
        assert got == [whole]
    assert handler.ends() == ["on_llm_end"]


@pytest.mark.parametrize("way", WAITS)
async def test_a_model_that_waits_for_more_of_its_own_run_is_refused(way: str) -> None:
    async def before(number: int) -> None:
        if number == 1:
            await WAITS[way](stream)

    recorder = AsyncRecorder()
    stream = open_stream(AStreamModel(before=before), "hi", config_of(recorder))
    with anyio.fail_after(HANGS):
        async with stream:
            with pytest.raises(RuntimeError, match="waits for the run that waits for it"):
                await stream
    assert stream.snapshot().text == "one "
    assert recorder.ends() == ["on_llm_error"]


async def test_a_handler_reads_what_has_come_of_its_own_run() -> None:
    got: list[str] = []

    async def read() -> None:
        cursor = stream.text.__aiter__()
        while len(got) < len(stream.snapshot().text):
            got.extend(await cursor.__anext__())

    handler = AsyncRecorder(lambda name: read() if name == "on_llm_end" else None)
    stream = open_stream(AStreamModel(), "hi", config_of(handler))
    await stream
    assert "".join(got) == "one two three"


async def test_a_run_within_may_wait_for_the_outer_one_that_does_not_wait_for_it() -> None:
    """A handler begins it, in a task of its own, or returns before it waits."""
    texts: list[str] = []
    inner: list[AsyncChatModelStream] = []
    returned = anyio.Event()

    async def wait(number: int) -> None:
        if number == 1:
            await returned.wait()
            texts.append(await outer.text)

    async def react(in_a_task: bool) -> None:
        stream = open_stream(AStreamModel(before=wait), "hi")
        inner.append(stream)
        if in_a_task:
            tasks.start_soon(stream._wait)
        else:
            assert await stream.text.__aiter__().__anext__() == "one "

    async def before(number: int) -> None:
        if number == 1:
            returned.set()
            await settle()

    with anyio.fail_after(HANGS):
        async with anyio.create_task_group() as tasks:
            handlers = [
                AsyncRecorder(
                    lambda name, in_a_task=in_a_task: (
                        react(in_a_task) if name == "on_chat_model_start" else None
                    )
                )
                for in_a_task in (False, True)
            ]
            outer = open_stream(AStreamModel(before=before), "hi", config_of(*handlers))
            await outer
        for stream in inner:
            assert (await stream).text == "one two three"
    assert texts == ["one two three"] * 2


async def test_a_run_within_that_waits_for_the_outer_one_is_refused() -> None:
    async def wait(number: int) -> None:
        if number == 1:
            await outer.text

    async def before(number: int) -> None:
        if number == 1:
            await open_stream(AStreamModel(before=wait), "hi")

    outer = open_stream(AStreamModel(before=before), "hi")
    with anyio.fail_after(HANGS):
        with pytest.raises(RuntimeError, match="waits for the run that waits for it"):
            await outer


async def test_a_task_that_a_handler_has_started_may_wait_for_the_run() -> None:
    got: list[Any] = []

    async def wait() -> None:
        got.extend([await consume(stream.text), await consume(stream.interleave())])
        got.clear()
        got.append((await stream).text)
        await stream.aclose()
        got.append(handler.ends())

    def begin(name: str) -> None:
        if name == "on_chat_model_start":
            tasks.start_soon(wait)

    async with anyio.create_task_group() as tasks:
        handler = AsyncRecorder(begin)
        stream = open_stream(AStreamModel(), "hi", config_of(handler))
        assert (await stream.output).text == "one two three"
    assert got == ["one two three", ["on_llm_end"]]


# Cleanup that takes too long, and warnings


@pytest.mark.usefixtures("short_cleanup")
async def test_a_model_and_a_handler_that_both_shield_themselves() -> None:
    release, reached, tasks = anyio.Event(), anyio.Event(), living()

    async def shielded(*_: Any) -> None:
        with anyio.CancelScope(shield=True):
            reached.set()
            await release.wait()

    async def before(number: int) -> None:
        if number == 1:
            await shielded()

    handler = AsyncRecorder(lambda name: shielded() if name == "on_llm_error" else None)
    stream = open_stream(AStreamModel(before=before), "hi", config_of(handler))
    assert await anext(aiter(stream.text)) == "one "
    await reached.wait()
    with anyio.fail_after(HANGS):
        with pytest.warns(ResourceWarning, match=r"the model AStreamModel.*AsyncRecorder"):
            await stream.aclose()
    assert not release.is_set()
    release.set()
    with anyio.fail_after(HANGS):
        while living() > tasks:
            await checkpoint()


@pytest.mark.usefixtures("short_cleanup")
async def test_giving_up_does_not_end_the_loop_where_warnings_are_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", reported.append)
    release = anyio.Event()

    async def shielded() -> None:
        with anyio.CancelScope(shield=True):
            await release.wait()

    handler = AsyncRecorder(lambda name: shielded() if name == "on_llm_error" else None)
    stream = open_stream(AStreamModel(before=Gate(1)), "hi", config_of(handler))
    assert await anext(aiter(stream.text)) == "one "
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        with anyio.fail_after(HANGS):
            await stream.aclose()
    assert [type(args.exc_value) for args in reported] == [ResourceWarning]
    release.set()
    await settle()


# Every task of the loop cancelled natively, as debuggers and some shutdowns do


def cancel_all() -> None:
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


@pytest.mark.usefixtures("short_cleanup")
@pytest.mark.parametrize("shields", ("the handler", "the model", "both"))
def test_cleanup_is_bounded_though_every_task_is_cancelled_natively(shields: str) -> None:
    """Again and again: the task that bounds the cleanup is cancelled with the rest."""

    async def main() -> None:
        release, reached = anyio.Event(), anyio.Event()

        async def stubborn(*_: Any) -> None:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    pass

        async def before(number: int) -> None:
            if number == 1:
                reached.set()
                await (anyio.sleep_forever() if shields == "the handler" else stubborn())

        async def at_the_end(name: str) -> None:
            if name == "on_llm_error" and shields != "the model":
                await stubborn()

        handler, other = AsyncRecorder(at_the_end), AsyncRecorder()
        tasks = living()
        stream = open_stream(AStreamModel(before=before), "hi", config_of(handler, other))
        assert await anext(aiter(stream.text)) == "one "
        await reached.wait()
        closing = asyncio.ensure_future(stream.aclose())
        try:
            with anyio.fail_after(HANGS), pytest.warns(ResourceWarning, match="given up"):
                while not stream._run._ended.is_set():  # type: ignore[union-attr]
                    await asyncio.sleep(0.02)
                    cancel_all()
            assert handler.ends() == other.ends() == ["on_llm_error"]
            with pytest.raises(asyncio.CancelledError):
                await closing
        finally:
            release.set()
        with anyio.fail_after(HANGS):
            while living() > tasks:
                await asyncio.sleep(0)

    asyncio.run(main())


def test_handlers_are_told_of_the_end_at_whatever_tick_every_task_is_cancelled() -> None:
    """In one of them the tasks that call the handlers have been made and have not begun."""
    for tick in range(20):
        for times in (1, 2):

            async def main(tick: int, times: int) -> None:
                chain, other = AsyncRecorder(), AsyncRecorder()
                stream = open_stream(
                    RunnableLambda(lambda text: text) | AStreamModel(before=Gate(1)),
                    "hi",
                    config_of(chain, other),
                )
                assert await anext(aiter(stream.text)) == "one "
                stream._run.close()  # type: ignore[union-attr]
                for _ in range(tick):
                    await asyncio.sleep(0)
                for _ in range(times):
                    cancel_all()
                    await asyncio.sleep(0)
                with anyio.fail_after(HANGS):
                    while not stream._run._ended.is_set():  # type: ignore[union-attr]
                        await asyncio.sleep(0)
                for handler in (chain, other):
                    names = handler.names()
                    assert handler.ends() == ["on_llm_error"], (tick, times, names)
                    assert names.count("on_chain_error") == 1, (tick, times, names)

            asyncio.run(main(tick, times))
            tried("Cancellation: every task of the loop, while handlers are told of the end")


# Another event loop


def others_of(name: str) -> Iterator[str]:
    yield from ("asyncio", "trio") if name == "trio" or _has_trio() else ("asyncio",)


def _has_trio() -> bool:
    try:
        import trio
    except ImportError:
        return False
    return trio is not None


WAYS: dict[str, Callable[[AsyncChatModelStream], Awaitable[Any]]] = {
    "text": lambda stream: anext(aiter(stream.text)),
    "events": lambda stream: anext(aiter(stream)),
    "interleaved": lambda stream: anext(aiter(stream.interleave())),
    "final text": lambda stream: stream.text._wait(),
    "message": lambda stream: stream._wait(),
    "usage": lambda stream: stream.usage._wait(),
    "closing": lambda stream: stream.aclose(),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_stream_of_another_loop(way: str) -> None:
    async def use() -> None:
        if way in ("text", "events", "interleaved"):
            while True:
                await WAYS[way](stream)
        await WAYS[way](stream)

    cursors: dict[str, Any] = {}

    async def go_on() -> None:
        while True:
            await anext(cursors[way])

    for name in others_of(backend()):
        gate = Gate(1)
        async with open_stream(AStreamModel(before=gate), "hi") as stream:
            cursors = {
                "text": aiter(stream.text),
                "events": aiter(stream),
                "interleaved": aiter(stream.interleave()),
            }
            for cursor in cursors.values():
                await anext(cursor)
            await gate.reached.wait()
            if way in cursors:  # begun here
                error = await anyio.to_thread.run_sync(elsewhere, go_on, name)
                assert isinstance(error, RuntimeError), error
                assert "another event loop" in str(error)
                # A new one gets what is there, and is refused to wait.
                cursors[way] = {
                    "text": aiter(stream.text),
                    "events": aiter(stream),
                    "interleaved": aiter(stream.interleave()),
                }[way]
                error = await anyio.to_thread.run_sync(elsewhere, go_on, name)
            else:
                error = await anyio.to_thread.run_sync(elsewhere, use, name)
            assert isinstance(error, RuntimeError), error
            assert "another event loop" in str(error)
            gate.open.set()
            assert (await stream).text == "one two three"
        # What is there may be had anywhere.
        if way == "message":
            message = await anyio.to_thread.run_sync(elsewhere, stream._wait, name)
            assert message.text == "one two three"
        tried("Hostile input: one stream on two event loops, or on two backends")


@pytest.mark.parametrize("way", ("text", "events", "interleaved", "batches"))
async def test_an_iteration_that_begins_on_another_loop_gets_nothing(way: str) -> None:
    gate = Gate(1)
    async with open_stream(AStreamModel(before=gate), "hi") as stream:
        assert await anext(aiter(stream.text)) == "one "
        await gate.reached.wait()
        got: list[Any] = []

        async def read() -> None:
            items: Any = {
                "text": lambda: stream.text,
                "events": lambda: stream,
                "interleaved": stream.interleave,
                "batches": lambda: stream.text.batches(),
            }[way]()
            async for item in items:
                got.append(item)

        for name in others_of(backend()):
            error = await anyio.to_thread.run_sync(elsewhere, read, name)
            assert isinstance(error, RuntimeError), error
            assert "another event loop" in str(error)
            assert got == []
        gate.open.set()
        await stream
    for name in others_of(backend()):
        assert await anyio.to_thread.run_sync(elsewhere, read, name) is None
        assert got
        got.clear()


def test_a_stream_of_a_loop_that_has_ended() -> None:
    loop = asyncio.new_event_loop()
    kept: list[Any] = []

    async def begin() -> None:
        stream = open_stream(AStreamModel(before=Gate(1)), "hi")
        cursor = aiter(stream.text)
        kept.extend((stream, cursor))
        assert await anext(cursor) == "one "

    async def go_on() -> None:
        stream, cursor = kept
        for wait in (cursor.__anext__, stream._wait, stream.text._wait, stream.aclose):
            with pytest.raises(RuntimeError, match="another event loop"):
                await wait()

    loop.run_until_complete(begin())
    try:
        # It stands still, and in its thread others run.
        for name in others_of("asyncio"):
            anyio.run(go_on, backend=name)
    finally:
        loop.run_until_complete(kept[0].aclose())
        loop.close()
    with pytest.raises(StreamCancelledError):
        anyio.run(kept[0]._wait)


@pytest.mark.parametrize("kind", ("projection", "event", "queue", "handler", "done"))
async def test_primitives_of_another_loop(kind: str) -> None:
    """Whoever waits first has it; who comes from another thread is refused, or is woken as well."""
    projection, event, queue, handler = (
        AsyncProjection[int, int](),
        Event(),
        Queue[int](),
        AsyncIteratorCallbackHandler(),
    )
    await handler.on_llm_start({}, [])
    wait: Callable[[], Awaitable[Any]] = {
        "projection": projection._wait,
        "event": event.wait,
        "queue": queue.get,
        "handler": partial(anext, aiter(handler)),
        "done": handler.done.wait,
    }[kind]
    for name in others_of(backend()):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await settle()

                async def give_up() -> Any:
                    with anyio.move_on_after(0.02):
                        await wait()

                error = await anyio.to_thread.run_sync(elsewhere, give_up, name)
                if kind in ("projection", "event"):
                    assert "another thread" in str(error)
                elif kind == "handler":  # an iterator belongs to one loop, the handler to none
                    assert "another event loop" in str(error)
                else:
                    assert error is None, error
                scope.cancel()


async def test_feeding_a_stream_from_another_thread_where_somebody_waits() -> None:
    stream = AsyncChatModelStream()
    async with anyio.create_task_group() as tasks:
        got: list[Any] = []

        async def read() -> None:
            got.append((await stream).text)

        tasks.start_soon(read)
        await settle()
        events = list(events_of(["a"]))

        def feed() -> None:
            for event in events:
                stream.dispatch(event)

        with pytest.raises(RuntimeError, match="woken from the thread of its event loop"):
            await anyio.to_thread.run_sync(feed)
        await anyio.to_thread.run_sync(anyio.from_thread.run_sync, feed)
    assert got == ["a"]


# Re-entrance


async def test_dispatch_within_dispatch() -> None:
    """An event whose fields are had by code that feeds the same stream."""
    stream = AsyncChatModelStream()
    plain = AsyncChatModelStream()

    class Evil(dict):  # type: ignore[type-arg]
        fed = False

        def _feed(self) -> None:
            if not self.fed:
                self.fed = True
                stream.dispatch(inner)

        def __getitem__(self, key: str) -> Any:
            self._feed()
            return super().__getitem__(key)

        def get(self, key: str, default: Any = None) -> Any:
            self._feed()
            return super().get(key, default)

    events = list(events_of(["a", "b", "c"]))
    inner = events.pop(2)
    for number, event in enumerate(events):
        stream.dispatch(Evil(event) if number == 2 else event)
    for event in (*events[:2], inner, *events[2:]):
        plain.dispatch(event)
    with anyio.fail_after(HANGS):
        assert (await stream).content == (await plain).content
        deltas = [delta async for delta in stream.text]
        assert deltas == ["a", "b", "c"]
        assert len(await stream.events) == len(await plain.events)


async def test_a_handler_feeds_or_fails_the_stream_of_its_run() -> None:
    for feed in (
        lambda: stream.dispatch({"event": "error", "message": "mine"}),
        lambda: stream.fail(OSError("mine")),
        lambda: stream.dispatch({"event": "message-finish"}),
    ):

        def react(name: str) -> None:
            if name == "on_stream_event" and not stream.done:
                feed()  # noqa: B023

        handler = AsyncRecorder(react)
        model = AStreamModel()
        with anyio.fail_after(HANGS):
            async with open_stream(model, "hi", config_of(handler)) as stream:
                try:
                    await stream
                except Exception as exc:
                    assert "mine" in str(exc)  # noqa: PT017
        assert len(handler.ends()) == 1
        assert model.trace[-1] == "closed"


# Wrong arguments


@pytest.mark.parametrize(
    ("key", "value"),
    (
        ("callbacks", 5),
        ("callbacks", (Recorder(),)),
        ("callbacks", [object()]),
        ("callbacks", [Recorder]),
        ("callbacks", StdOutCallbackHandler()),
        ("tags", "abc"),
        ("tags", ("a",)),
        ("tags", [1]),
        ("metadata", [1]),
        ("metadata", 5),
        ("configurable", 5),
        ("run_name", 5),
        ("run_id", 5),
    ),
)
@pytest.mark.parametrize("target", (AStreamModel(), RunnableLambda(str) | AStreamModel()))
async def test_a_config_that_is_none_is_refused_at_the_call(
    key: str, value: Any, target: Any
) -> None:
    with pytest.raises(TypeError, match=rf'config\["{key}"\] must be'):
        open_stream(target, "hi", {key: value})  # type: ignore[arg-type,misc]
