"""`AsyncChatModelStream` fed by hand."""

from __future__ import annotations

import gc
import traceback
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import example, given
from langchain_core.language_models.chat_model_stream import ChatModelStream

from event_strategies import Event, event_sequences
from langchain_anyio import AsyncChatModelStream, StreamCancelledError
from test_accumulator import newest

pytestmark = pytest.mark.anyio

START: Event = {"event": "message-start", "role": "ai", "id": "m", "metadata": {"provider": "p"}}
USAGE = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
FINISH: Event = {
    "event": "message-finish",
    "usage": USAGE,
    "metadata": {"finish_reason": "stop"},
}


def delta(kind: str, value: str, index: int) -> Event:
    names = {"text": "text", "reasoning": "reasoning", "tool-call": "args"}
    return {
        "event": "content-block-delta",
        "index": index,
        "delta": {"type": f"{kind}-delta", names[kind]: value},
    }


def call_start(index: int) -> Event:
    block = {"type": "tool_call_chunk", "id": f"c{index}", "name": "t", "args": ""}
    return {"event": "content-block-start", "index": index, "content": block}


def block_finish(index: int, block: Event) -> Event:
    return {"event": "content-block-finish", "index": index, "content": block}


MIXED = [
    START,
    delta("reasoning", "hm", 0),
    delta("text", "a", 1),
    call_start(2),
    delta("tool-call", '{"x"', 2),
    delta("text", "b", 1),
    delta("tool-call", ": 1}", 2),
    delta("reasoning", "!", 0),
    block_finish(0, {"type": "reasoning", "reasoning": "hm!"}),
    block_finish(1, {"type": "text", "text": "ab"}),
    FINISH,
]


def fed(*events: Event) -> AsyncChatModelStream:
    stream = AsyncChatModelStream()
    for event in events:
        stream.dispatch(event)
    return stream


async def collect(iterable: Any) -> list[Any]:
    return [item async for item in iterable]


async def outcome(awaitable: Any) -> Any:
    try:
        return await awaitable
    except Exception as exc:
        return exc


async def test_attributes_before_and_after() -> None:
    stream = AsyncChatModelStream(namespace=["a"], node="n", message_id="first")
    assert (stream.namespace, stream.node, stream.message_id) == (["a"], "n", "first")
    assert not stream.done
    assert not stream.has_events
    assert stream.output_message is None
    assert stream.finish_reason is None
    assert stream.text is stream.text
    assert repr(stream) == "<AsyncChatModelStream unfinished, 0 events>"
    for event in MIXED:
        stream.dispatch(event)
    assert stream.message_id == "m"
    assert stream.done
    assert stream.has_events
    assert stream.error is None
    assert stream.finish_reason == "stop"
    assert stream.output_message is await stream
    assert repr(stream) == f"<AsyncChatModelStream finished, {len(MIXED)} events>"
    how = "deltas; iterate over it or await it>"
    assert str(stream.text) == f"<AsyncTextProjection finished, 2 {how}"
    assert str(stream.events) == f"<AsyncProjection finished, {len(MIXED)} {how}"
    assert AsyncChatModelStream().namespace == []


async def test_projections() -> None:
    stream = fed(*MIXED)
    for _ in range(2):  # replayed as often as one likes
        assert await collect(stream.text) == ["a", "b"]
        assert await collect(stream.reasoning) == ["hm", "!"]
        assert [piece["args"] for piece in await collect(stream.tool_calls)] == ['{"x"', ": 1}"]
        assert await collect(stream) == MIXED
        assert await collect(stream.output) == []
    assert await stream.text == "ab"
    assert await stream.reasoning == "hm!"
    (call,) = await stream.tool_calls
    assert call["args"] == {"x": 1}
    assert await stream.usage == USAGE
    assert await stream.events == MIXED
    assert (await stream).text == "ab"
    assert await stream.output is await stream


async def test_interleaved_in_the_order_of_arrival() -> None:
    stream = fed(*MIXED)
    pairs = await collect(stream.interleave("reasoning", "text", "tool_calls"))
    assert [
        (name, piece if isinstance(piece, str) else piece["args"]) for name, piece in pairs
    ] == [
        ("reasoning", "hm"),
        ("text", "a"),
        ("tool_calls", '{"x"'),
        ("text", "b"),
        ("tool_calls", ": 1}"),
        ("reasoning", "!"),
    ]
    assert await collect(stream.interleave("text")) == [("text", "a"), ("text", "b")]
    assert await collect(stream.interleave()) == pairs


async def test_interleaved_while_it_comes() -> None:
    stream = AsyncChatModelStream()
    seen: list[Any] = []

    async def consume() -> None:
        async for pair in stream.interleave("text", "reasoning"):
            seen.append(pair)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consume)
        for event in MIXED:
            await anyio.wait_all_tasks_blocked()
            stream.dispatch(event)
    assert seen == [("reasoning", "hm"), ("text", "a"), ("text", "b"), ("reasoning", "!")]


@pytest.mark.parametrize("channels", (("texts",), ("text", "text"), ("output",)))
async def test_interleave_refuses_what_it_does_not_know(channels: Any) -> None:
    with pytest.raises(ValueError, match="channels must be distinct and among"):
        AsyncChatModelStream().interleave(*channels)


async def test_an_error_comes_after_the_deltas() -> None:
    stream = fed(*MIXED[:4])
    error = OSError("broken")
    stream.fail(error)
    stream.fail(KeyError("later"))
    for iterable in (stream, stream.text, stream.interleave()):
        seen = []
        with pytest.raises(OSError, match="broken") as caught:
            async for item in iterable:
                seen.append(item)
        assert caught.value is error
        assert seen
    for awaitable in (stream, stream.text, stream.tool_calls, stream.usage, stream.output):
        assert await outcome(awaitable) is error
    assert stream.error is error
    assert stream.done
    assert repr(stream) == "<AsyncChatModelStream failed with OSError, 4 events>"


async def test_an_error_event() -> None:
    stream = fed(START, {"event": "error", "message": "overloaded"}, FINISH)
    assert repr(await outcome(stream)) == "RuntimeError('overloaded')"
    assert len(stream._state.events.deltas) == 3


@pytest.mark.parametrize(
    "event",
    (
        delta("text", "b", 2),
        delta("text", "b", 1.0),  # type: ignore[arg-type]
        delta("text", "b", True),
        delta("text", "", 1),
        {**delta("text", "b", 1), "namespace": ["graph"]},
        {**delta("text", "b", 1), "event": "content-block-Delta"},
        {**delta("text", "b", 1), "delta": {"type": "text-delta", "text": "b", "citations": []}},
        {**delta("text", "b", 1), "delta": {"type": "reasoning-delta", "text": "b"}},
        {
            "event": "content-block-delta",
            "index": 1,
            "content_block": {"type": "text", "text": "b"},
        },
    ),
)
async def test_events_are_read_as_they_were_dispatched(event: dict[str, Any]) -> None:
    stream = fed(START, delta("text", "a", 1), event, delta("text", "c", 1), FINISH)
    read = await collect(stream)
    assert (
        read
        == await stream.events
        == [START, delta("text", "a", 1), event, delta("text", "c", 1), FINISH]
    )
    assert [*map(repr, read[2:3])] == [repr(event)]  # `1.0` and `True` equal 1


async def test_after_the_end_events_are_recorded_and_change_nothing() -> None:
    stream = fed(*MIXED)
    before = await stream
    stream.dispatch(delta("text", "late", 1))
    stream.fail(OSError("late"))
    stream.dispatch(FINISH)
    assert await stream is before
    assert await stream.text == "ab"
    assert await collect(stream.text) == ["a", "b"]
    assert stream.error is None
    assert len(await collect(stream)) == len(MIXED) + 2
    assert await stream.events == await collect(stream)


async def test_a_cancellation_is_never_passed_on() -> None:
    cancelled = anyio.get_cancelled_exc_class()
    stream = fed(START)
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await checkpoint()
        except cancelled as exc:
            stream.fail(exc)
            raise
    for awaitable in (stream, stream.text):
        assert type(await outcome(awaitable)) is StreamCancelledError
    assert type(stream.error) is StreamCancelledError


async def test_snapshot_at_any_time() -> None:
    stream = AsyncChatModelStream()
    assert stream.snapshot().response_metadata["partial"] is True
    for event in MIXED[:5]:
        stream.dispatch(event)
    partial = stream.snapshot()
    assert partial.text == "a"
    assert partial.tool_calls == []
    assert partial.invalid_tool_calls[0]["args"] == '{"x"'
    for event in MIXED[5:]:
        stream.dispatch(event)
    assert stream.snapshot() == await stream
    assert "partial" not in stream.snapshot().response_metadata


async def test_closing_a_stream_that_is_fed_by_hand() -> None:
    async with fed(START) as stream:
        pass
    assert type(await outcome(stream)) is StreamCancelledError
    async with fed(*MIXED) as stream:
        pass
    assert (await stream).text == "ab"


async def test_lazy_start() -> None:
    for use in (
        lambda stream: outcome(stream),
        lambda stream: outcome(stream.text),
        lambda stream: outcome(stream.usage),
        lambda stream: collect(stream),
        lambda stream: collect(stream.reasoning),
        lambda stream: collect(stream.interleave()),
    ):
        stream = AsyncChatModelStream()
        started = 0

        async def start(stream: AsyncChatModelStream = stream) -> None:
            nonlocal started
            started += 1
            if started == 1:
                for event in MIXED:
                    stream.dispatch(event)

        stream.set_start(start)
        await anyio.wait_all_tasks_blocked()
        assert not started
        await use(stream)
        assert started
        stream.set_start(None)
        before = started
        await use(stream)
        assert started == before


@pytest.mark.parametrize("failing", (False, True))
@pytest.mark.parametrize("asked_after", range(len(MIXED) + 1))
async def test_a_projection_is_the_same_whenever_it_is_first_asked_for(
    asked_after: int, failing: bool
) -> None:
    names = ("text", "reasoning", "tool_calls", "output", "usage", "events")
    early, late = AsyncChatModelStream(), AsyncChatModelStream()
    for name in names:
        getattr(early, name)
    events = MIXED[:-1] if failing else MIXED
    for event in events[:asked_after]:
        early.dispatch(event)
        late.dispatch(event)
    if failing and asked_after > len(events):
        for stream in (early, late):
            stream.fail(ValueError("broken"))
            assert repr(await outcome(stream.text)) == "ValueError('broken')"
    for name in names:
        getattr(late, name)
    for stream in (early, late):
        for event in events[asked_after:]:
            stream.dispatch(event)
        if failing:
            stream.fail(ValueError("broken"))
    for name in names:
        ours, expected = getattr(late, name), getattr(early, name)
        assert ours is getattr(late, name)
        assert ours.done
        assert repr(ours.error) == repr(expected.error)
        assert repr(await outcome(ours)) == repr(await outcome(expected))
        if failing:
            assert depth(await outcome(ours)) == depth(await outcome(expected))
            with pytest.raises(ValueError, match="broken"):
                await collect(ours)
        else:
            assert await collect(ours) == await collect(expected)


def depth(error: BaseException) -> int:
    return len(traceback.extract_tb(error.__traceback__))


class Pump:
    """One source for several streams, as LangGraph's run is for the streams of its messages."""

    def __init__(self, script: list[tuple[AsyncChatModelStream, Event]]) -> None:
        self.script = iter(script)
        self.lock = anyio.Lock()
        self.steps = 0

    async def __call__(self) -> bool:
        async with self.lock:
            step = next(self.script, None)
            if step is None:
                return False
            self.steps += 1
            step[0].dispatch(step[1])
            return True


async def test_consumers_drive_a_shared_pump() -> None:
    first, second = AsyncChatModelStream(), AsyncChatModelStream()
    script = [(stream, event) for event in MIXED for stream in (first, second)]
    pump = Pump(script)
    for stream in (first, second):
        stream.set_arequest_more(pump)
    cursor = first.text.__aiter__()
    assert await cursor.__anext__() == "a"
    assert pump.steps < len(script)
    results: dict[str, Any] = {}

    async def use(name: str, awaitable: Any) -> None:
        results[name] = await awaitable

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(use, "text", collect(second.text))
        tasks.start_soon(use, "pairs", collect(first.interleave("reasoning")))
        tasks.start_soon(use, "message", second._wait())
        tasks.start_soon(use, "calls", first.tool_calls._wait())
    assert results["text"] == ["a", "b"]
    assert results["pairs"] == [("reasoning", "hm"), ("reasoning", "!")]
    assert results["message"].text == "ab"
    assert results["calls"][0]["args"] == {"x": 1}
    assert await collect(cursor) == ["b"]


async def test_a_pump_that_runs_dry() -> None:
    stream = AsyncChatModelStream()
    stream.set_arequest_more(Pump([(stream, event) for event in MIXED[:3]]))
    assert await collect(stream.text) == ["a"]
    assert await collect(stream) == MIXED[:3]
    assert await collect(stream.interleave()) == [("reasoning", "hm"), ("text", "a")]
    assert await stream.text == ""
    assert await stream.tool_calls is None


async def test_a_pump_that_never_waits_is_a_checkpoint_all_the_same() -> None:
    stream = AsyncChatModelStream()
    stream.dispatch(START)

    async def pump() -> bool:
        stream.dispatch(delta("text", "x", 0))
        return True

    stream.set_arequest_more(pump)
    with anyio.CancelScope() as scope:
        scope.deadline = anyio.current_time() + 0.05
        async for _ in stream.text:
            pass
    assert scope.cancelled_caught


async def test_many_consumers_come_and_go() -> None:
    stream = AsyncChatModelStream()
    words = [str(number) for number in range(200)]
    whole = []

    async def consume() -> None:
        whole.append(await collect(stream.text))

    async with anyio.create_task_group() as tasks:
        for number, word in enumerate(words):
            if number % 10 == 0:
                tasks.start_soon(consume)
                doomed = stream.text.__aiter__()
                with anyio.move_on_after(0):
                    await doomed.__anext__()
            stream.dispatch(delta("text", word, 0))
            if number % 7 == 0:
                await checkpoint()
        stream.dispatch(FINISH)
    assert whole == [words] * 20


async def test_a_stream_is_freed_without_the_collector() -> None:
    import weakref

    gc.disable()
    try:
        stream = fed(*MIXED)
        await collect(stream.text)
        await stream
        alive = weakref.ref(stream)
        del stream
        assert alive() is None
    finally:
        gc.enable()


@newest
@given(events=event_sequences)
# Text deltas that lack a field which others have, and have one more: none is kept as its text.
@example(
    events=[
        {"event": "content-block-delta", "delta": {"type": "text-delta", "text": "a"}, "more": 0}
    ]
)
@example(
    events=[
        {"event": "content-block-delta", "index": 0, "delta": {"type": "text-delta", "more": 1}}
    ]
)
def test_beside_langchain_cores_stream(events: list[Event]) -> None:
    """The stream adds to the accumulator only what it records and how it ends."""
    ours, theirs = AsyncChatModelStream(), ChatModelStream()
    for event in events:
        raised = []
        for stream in (ours, theirs):
            try:
                stream.dispatch(event)
                raised.append(None)
            except Exception as exc:
                raised.append(type(exc))
        assert raised[0] is raised[1]
        if theirs.done:
            break
    assert ours.done == theirs.done
    assert ours.output_message == theirs.output_message
    if theirs._error is not None:
        assert repr(ours.error) == repr(theirs._error)
    assert ours._state.events.all() == theirs._events
    assert ours._state.text.deltas == theirs._text_proj._deltas
    assert ours._state.reasoning.deltas == theirs._reasoning_proj._deltas
    assert ours._state.tool_calls.deltas == theirs._tool_calls_proj._deltas
