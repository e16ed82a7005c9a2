"""`batches()` of the projections of streams, and of `interleave()`."""

from __future__ import annotations

from functools import partial
from itertools import chain, groupby
from typing import Any

import anyio
import pytest
from hypothesis import given
from langchain_core.callbacks import AsyncCallbackHandler

from cancelling import Victim, settle, ways_to_cancel
from event_strategies import Event, event_sequences
from handlers import all_of, config_of
from langchain_anyio import AsyncChatModelStream, open_stream
from models import AStreamModel
from test_stream import FINISH, MIXED, START, delta, fed

pytestmark = pytest.mark.anyio

NEVER = 1e6


async def test_each_projection() -> None:
    stream = fed(*MIXED)
    assert await all_of(stream.text.batches()) == ["ab"]
    assert await all_of(stream.reasoning.batches(NEVER)) == ["hm!"]
    assert await all_of(stream.tool_calls.batches()) == [await all_of(stream.tool_calls)]
    assert await all_of(stream.events.batches()) == [MIXED]
    assert await all_of(stream.interleave().batches()) == [await all_of(stream.interleave())]
    assert await all_of(stream.output.batches()) == []


async def test_interleaved_while_it_comes() -> None:
    stream = AsyncChatModelStream()
    got: list[Any] = []

    async def consume() -> None:
        async for batch in stream.interleave("reasoning", "text").batches():
            got.append(batch)

    async with anyio.create_task_group() as group:
        group.start_soon(consume)
        await settle()
        for event in MIXED:
            stream.dispatch(event)
            if event in (MIXED[2], MIXED[5]):
                await settle()
    assert got == [
        [("reasoning", "hm"), ("text", "a")],
        [("text", "b")],
        [("reasoning", "!")],
    ]


async def test_interleaved_batches_go_on_where_the_iterator_stands() -> None:
    stream = fed(*MIXED)
    interleaved = stream.interleave("text", "reasoning")
    assert await anext(interleaved) == ("reasoning", "hm")
    rest = [("text", "a"), ("text", "b"), ("reasoning", "!")]
    assert await all_of(interleaved.batches(NEVER)) == [rest]
    assert await all_of(interleaved) == rest


@pytest.mark.parametrize("interval", (-1, None))
def test_bad_intervals(interval: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="interval must be a"):
        AsyncChatModelStream().interleave().batches(interval)


@given(events=event_sequences)
def test_batches_hold_what_iteration_gives(events: list[Event]) -> None:
    async def compare() -> None:
        stream = AsyncChatModelStream()
        for event in events:
            try:
                stream.dispatch(event)
            except Exception:
                continue
        if not stream.done:
            stream.fail(ValueError())
        names = ("text", "reasoning", "tool_calls", "events")
        for iterable in (*(getattr(stream, name) for name in names), stream.interleave()):
            # First, as the iterator of `interleave()` would be at its end.
            batches, deltas = await given_by(iterable.batches()), await given_by(aiter(iterable))
            whole: Any = "" if iterable in (stream.text, stream.reasoning) else []
            if whole == "":
                deltas = ["".join(deltas)] if deltas else []
                assert batches == deltas
            else:
                assert [*chain.from_iterable(batches)] == deltas

    anyio.run(compare)


async def given_by(iterator: Any) -> list[Any]:
    items = []
    try:
        async for item in iterator:
            items.append(item)
    except Exception:  # noqa: S110 - what came before the error counts
        pass
    return items


@pytest.mark.parametrize("replay", (True, False))
@pytest.mark.parametrize("interval", (0, 0.0001))
async def test_of_a_model_that_is_held_back(replay: bool, interval: float) -> None:
    words = [f"{number} " for number in range(500)]
    yielded = 0

    async def note(number: int) -> None:
        nonlocal yielded
        yielded = number

    model = AStreamModel(words=words, before=note)
    given_words, largest = 0, 0
    async with open_stream(model, "hi", max_buffer_size=10, replay=replay) as stream:
        async for text in stream.text.batches(interval):
            given_words += text.count(" ")
            largest = max(largest, text.count(" "))
            assert yielded <= given_words + 12
            await settle()
        assert (await stream).text == "".join(words)
    assert given_words == 500
    assert 1 < largest <= 12


async def test_cancelled_in_an_interval_the_run_goes_on(anyio_backend: tuple[str, Any]) -> None:
    for how in ways_to_cancel(anyio_backend):
        model = AStreamModel(words=list("abcdef"))
        async with open_stream(model, "hi") as stream:
            batches = stream.text.batches(NEVER)
            got = await anext(batches)
            async with anyio.create_task_group() as group:
                victim = Victim(group, partial(anext, batches))
                await settle()
                victim.cancel(how)
            got += "".join([text async for text in batches])
            assert got == "abcdef"


async def test_a_handler_that_waits_for_its_own_run() -> None:
    errors: list[Exception] = []

    class Waiting(AsyncCallbackHandler):
        run_inline = True

        async def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
            batches = stream.text.batches(0.001)
            try:
                while True:
                    await anext(batches)
            except RuntimeError as exc:
                errors.append(exc)

    model = AStreamModel(words=list("abc"), tell=True)
    async with open_stream(model, "hi", config_of(Waiting())) as stream:
        assert (await stream).text == "abc"
    assert len(errors) == 3


async def test_consecutive_deltas_of_a_batch_can_be_joined() -> None:
    stream = fed(
        START, *(delta("text", f"{n}", 0) for n in range(5)), delta("reasoning", "r", 1), FINISH
    )
    (batch,) = await all_of(stream.interleave().batches())
    joined = [(name, "".join(d for _, d in run)) for name, run in groupby(batch, lambda d: d[0])]
    assert joined == [("text", "01234"), ("reasoning", "r")]
