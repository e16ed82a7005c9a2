"""The accumulator beside `langchain_core`'s own stream, and what it adds to it."""

from __future__ import annotations

import copy
import gc
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.language_models.chat_model_stream import (
    ChatModelStream,
    SyncProjection,
    SyncTextProjection,
)
from langchain_core.messages import AIMessage
from langchain_core.version import VERSION

from event_strategies import Event, event_sequences, well_formed
from langchain_anyio._protocol.accumulator import Accumulator

# Ours is as the newest release, whichever is installed.
newest = pytest.mark.skipif(
    tuple(map(int, VERSION.split(".")[:2])) < (1, 7),
    reason=f"langchain-core {VERSION} differs from the newest",
)


class Original:
    """`langchain_core`'s stream, and the deltas of its projections in the order of arrival."""

    def __init__(self, message_id: str | None = None) -> None:
        self.stream = ChatModelStream(message_id=message_id)
        self.deltas: list[tuple[str, Any]] = []
        for name, kind in (
            ("text", SyncTextProjection),
            ("reasoning", SyncTextProjection),
            ("tool_calls", SyncProjection),
        ):
            setattr(self.stream, f"_{name}_proj", self._recording(name, kind))

    def _recording(self, name: str, kind: type[Any]) -> Any:
        deltas = self.deltas

        class Recording(kind):  # type: ignore[misc]
            def push(self, delta: Any) -> None:
                super().push(delta)
                deltas.append((name, delta))

        return Recording()

    def final(self, name: str) -> Any:
        """The final value of a projection, `None` where it has none."""
        return getattr(self.stream, f"_{name}_proj")._final_value


def exact(value: Any) -> Any:
    """The value in a form that compares types too: `1`, `True` and `1.0` are equal in Python."""
    if isinstance(value, dict):
        return {repr(key): exact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value).__name__, [exact(item) for item in value]
    return type(value).__name__, repr(value)


def outcome(call: Any, *args: Any) -> type[BaseException] | None:
    try:
        call(*args)
    except Exception as error:
        return type(error)
    return None


def vandalise(value: Any) -> None:
    """Change all that can be changed within a value."""
    if isinstance(value, dict):
        for item in value.values():
            vandalise(item)
        value.clear()
    elif isinstance(value, list):
        for item in value:
            vandalise(item)
        value[:] = ["vandalised"]


def check_snapshot(accumulator: Accumulator) -> None:
    snapshot = accumulator.snapshot()
    assert type(snapshot) is AIMessage
    assert exact(snapshot.__dict__) == exact(accumulator.snapshot().__dict__)
    if accumulator.message is not None:
        assert snapshot == accumulator.message
        assert exact(snapshot.__dict__) == exact(accumulator.message.__dict__)
    else:
        assert snapshot.response_metadata["partial"] is True
        assert snapshot.response_metadata["output_version"] == "v1"
        if "\ud83d" not in str(snapshot):
            # What `AIMessage` itself would accept, and leave as it is.
            assert AIMessage(**{key: value for key, value in snapshot if key != "type"}) == snapshot
    for value in snapshot.__dict__.values():
        vandalise(value)


def compare(events: list[Event], message_id: str | None = None, call_deltas: bool = True) -> None:
    """Feed both with copies of the events, up to the first terminal one, and compare after each."""
    # Copied as a whole, so that events which share an object go on sharing one.
    given_original, given_ours = copy.deepcopy(events), copy.deepcopy(events)
    original, ours = Original(message_id), Accumulator(message_id)
    deltas: list[Any] = []

    def feed(event: Event) -> None:
        if (delta := ours.feed(event)) is not None:
            deltas.append(delta)

    for theirs, mine in zip(given_original, given_ours, strict=True):
        raised = outcome(original.stream.dispatch, theirs)
        assert outcome(feed, mine) is raised
        shown = [
            [delta for delta in side if call_deltas or delta[0] != "tool_calls"]
            for side in (deltas, original.deltas)
        ]
        assert exact(shown[0]) == exact(shown[1])
        assert ours.done == original.stream.done
        assert exact(ours.message_id) == exact(original.stream.message_id)
        message = original.stream.output_message
        assert ours.message == message
        if message is not None:
            assert exact(ours.message.__dict__) == exact(message.__dict__)
        check_snapshot(ours)
        if original.stream.done:
            break
    # Some events are changed by the original, for those who read the raw events.
    assert exact(given_ours) == exact(given_original)
    error = original.stream._error
    assert (type(ours.error), str(ours.error)) == (type(error), str(error))
    for name in ("text", "reasoning", "tool_calls"):
        if (final := original.final(name)) is not None:
            assert exact(getattr(ours, name)) == exact(final)


@newest
@given(event_sequences, st.sampled_from([None, "run-1"]))
def test_any_sequence_of_events_gives_what_langchain_core_gives(
    events: list[Event], message_id: str | None
) -> None:
    compare(events, message_id)


@newest
@given(well_formed(), st.sampled_from([None, "run-1"]))
def test_well_formed_messages_are_those_of_langchain_core(
    events: list[Event], message_id: str | None
) -> None:
    compare(events, message_id)


@given(well_formed(oldest=True), st.sampled_from([None, "run-1"]))
def test_well_formed_messages_are_those_of_the_lowest_release_too(
    events: list[Event], message_id: str | None
) -> None:
    # Of a tool call that comes in snapshots older releases give each snapshot, the newest what it adds.
    compare(events, message_id, call_deltas=False)


def start(index: Any, /, **block: Any) -> Event:
    return {"event": "content-block-start", "index": index, "content": block}


def delta(index: Any, kind: str, /, **fields: Any) -> Event:
    return {"event": "content-block-delta", "index": index, "delta": {"type": kind, **fields}}


def finish(index: Any, /, **block: Any) -> Event:
    return {"event": "content-block-finish", "index": index, "content": block}


def without_index(event: Event) -> Event:
    return {key: value for key, value in event.items() if key != "index"}


END: Event = {"event": "message-finish"}
CHUNK = {"type": "tool_call_chunk"}
SHARED: Event = {"type": "image", "url": "https://example.com/a"}

CASES: dict[str, list[Event]] = {
    "text is joined in the order of the indexes": [
        delta(1, "text-delta", text="b"),
        delta(0, "text-delta", text="a"),
        delta(1, "text-delta", text="c"),
        END,
    ],
    "the finish extends the deltas": [
        delta(0, "text-delta", text="a"),
        finish(0, type="text", text="ab"),
        END,
    ],
    "the finish contradicts the deltas": [
        delta(0, "text-delta", text="a"),
        finish(0, type="text", text="b"),
        delta(1, "text-delta", text="c"),
        END,
    ],
    "the finish has all of the text": [finish(0, type="text", text="ab"), END],
    "the finish has none of the text": [
        delta(0, "text-delta", text="a"),
        finish(0, type="text"),
        finish(0, type="reasoning"),
        END,
    ],
    "a block finishes twice": [
        finish(0, type="text", text="a"),
        finish(0, type="text", text="ab"),
        finish(0, type="text", text="a"),
        END,
    ],
    "text without an index": [
        without_index(delta(0, "text-delta", text="a")),
        without_index(finish(0, type="text", text="ab")),
        without_index(delta(0, "text-delta", text="c")),
        END,
    ],
    "a finish without an index that has none of the text": [
        without_index(delta(0, "text-delta", text="a")),
        without_index(finish(0, type="text", text="")),
        without_index(finish(0, type="text")),
        END,
    ],
    "text with and without an index": [
        delta(0, "text-delta", text="a"),
        without_index(delta(0, "text-delta", text="b")),
        END,
    ],
    "unfinished blocks of text are left out beside finished ones": [
        delta(0, "text-delta", text="a"),
        finish(1, **SHARED),
        END,
    ],
    "indexes that do not compare": [
        delta(0, "text-delta", text="a"),
        delta("x", "text-delta", text="b"),
        END,
    ],
    "finished blocks whose indexes do not compare": [
        finish(0, **SHARED),
        finish("x", **SHARED),
        END,
    ],
    "an index that cannot be one, after the text was taken": [
        delta([0], "text-delta", text="a"),
        delta([0], "reasoning-delta", reasoning="a"),
        END,
    ],
    "a tool call with an index that cannot be one stays": [
        finish([0], type="tool_call", id="1", name="add", args={}),
        finish([0], type="invalid_tool_call", id="2", name="add", args="{"),
        END,
    ],
    "text that is none": [
        delta(0, "text-delta", text=5),
        delta(0, "text-delta", text=["a"]),
        finish(0, type="text", text=7),
        delta(0, "text-delta", text="a"),
        finish(0, type="text", text=7),
        END,
    ],
    "a list instead of the text, which then grows as lists do": [
        without_index(finish(0, type="text", text=["a"])),
        delta(0, "text-delta", text="bc"),
        delta(0, "text-delta", text=["d"]),
        finish(0, type="text", text="bcd"),
        finish(1, type="text", text=["d"]),
        END,
    ],
    "a list instead of all text": [
        without_index(finish(0, type="reasoning", reasoning=["a"])),
        END,
    ],
    "a number instead of all text": [
        without_index(finish(0, type="text", text=5)),
        without_index(delta(0, "text-delta", text=5)),
        without_index(delta(0, "text-delta", text="a")),
        END,
    ],
    "a tool call that no event finishes": [
        start(0, **CHUNK, id="1", name="add", args="", index=4, extras={"a": 1}),
        delta(0, "tool-call-delta", args='{"a"'),
        delta(0, "tool-call-delta", args=": 1}"),
        END,
    ],
    "parallel tool calls, interleaved and out of order": [
        start(1, **CHUNK, id="2", name="sub", args=""),
        start(0, **CHUNK, id="1", name="add", args=""),
        delta(1, "tool-call-delta", args="{}"),
        delta(0, "tool-call-delta", args="{}"),
        finish(1, type="tool_call", id="2", name="sub", args={}),
        END,
    ],
    "a server's tool calls": [
        start(0, type="server_tool_call_chunk", id="1", name="search", args="{"),
        delta(0, "tool-call-delta", args="}"),
        start(1, type="server_tool_call_chunk", id="2", name="search", args="{"),
        start(2, type="server_tool_call_chunk", id="3", name="search", args="{"),
        finish(2, type="server_tool_call", id="3", name="search", args={}),
        start(3, type="server_tool_call_chunk", id="4", name="search", args="{"),
        finish(3, type="invalid_tool_call", id="4", name="search", args="{"),
        END,
    ],
    "deltas of a tool call that was not started": [
        delta(0, "tool-call-delta", args="{}"),
        delta(None, "tool-call-delta", args="{}"),
        END,
    ],
    "deltas of a tool call that are none": [
        start(0, **CHUNK, id="1", name="add", args=""),
        delta(0, "tool-call-delta", args=5),
        delta(0, "tool-call-delta"),
        END,
    ],
    "a start that has arguments": [
        start(0, **CHUNK, id="1", name="add", args='{"a"'),
        start(0, **CHUNK, id="2", name=None, args='{"b"'),
        delta(0, "tool-call-delta", args=": 1}"),
        END,
    ],
    "arguments that are no text": [
        start(0, **CHUNK, id="1", name="add", args=5),
        delta(0, "tool-call-delta", args="{}"),
        delta(0, "block-delta", fields={**CHUNK, "args": "{}"}),
        delta(0, "legacy-block-delta", fields={**CHUNK, "id": "2", "args": [1]}),
        start(1, **CHUNK, args=[1]),
        delta(1, "legacy-block-delta", fields={**CHUNK, "id": "2", "args": [2]}),
        delta(1, "legacy-block-delta", fields={**CHUNK, "name": "add", "args": "a"}),
        delta(2, "legacy-block-delta", fields={**CHUNK, "id": "3", "args": [2]}),
        END,
    ],
    "snapshots that extend one another": [
        delta(0, "block-delta", fields={**CHUNK, "id": "1", "name": "add", "args": "{"}),
        delta(0, "block-delta", fields={**CHUNK, "id": "1", "name": "add", "args": "{}"}),
        delta(0, "block-delta", fields={**CHUNK, "id": "1", "name": None, "args": "{}"}),
        END,
    ],
    "a snapshot that contradicts the one before": [
        delta(0, "block-delta", fields={**CHUNK, "id": "1", "args": "{"}),
        delta(0, "block-delta", fields={**CHUNK, "id": "1", "args": "}"}),
        delta(0, "tool-call-delta", args="a"),
        delta(0, "legacy-block-delta", fields={**CHUNK, "args": "b"}),
        delta(1, "tool-call-delta", args="a"),
        END,
    ],
    "snapshots without an index": [
        delta(None, "block-delta", fields={**CHUNK, "id": "1", "args": "{}"}),
        delta(None, "block-delta", fields={**CHUNK, "id": "2", "args": "{}", "index": 7}),
        delta(None, "block-delta", fields={**CHUNK, "id": "3", "args": "{}", "index": None}),
        delta(None, "block-delta", fields={"type": "server_tool_call_chunk", "id": "4"}),
        delta(None, "block-delta", fields={"type": "server_tool_call_chunk", "id": "5"}),
        delta(None, "block-delta", fields="nothing"),
        END,
    ],
    "a server's snapshots without an index": [
        delta(None, "block-delta", fields={"type": "server_tool_call_chunk", "id": "1"}),
        delta(None, "block-delta", fields={"type": "server_tool_call_chunk", "id": "2"}),
        END,
    ],
    "starts without an index": [
        without_index(start(0, **CHUNK, id="1", name="add", args="{}")),
        without_index(start(0, type="server_tool_call_chunk", id="2", name="search")),
        END,
    ],
    "a block of another type at the index of a server's call": [
        start(0, type="server_tool_call_chunk", id="1", name="search", args="{}"),
        finish(0, **SHARED),
        END,
    ],
    "former deltas": [
        {
            "event": "content-block-delta",
            "index": 0,
            "content_block": {"type": "text", "text": "a"},
        },
        {
            "event": "content-block-delta",
            "index": 1,
            "content_block": {"type": "reasoning", "reasoning": "a"},
        },
        {
            "event": "content-block-delta",
            "index": 2,
            "content_block": {**CHUNK, "id": "1", "args": "{", "index": 3},
        },
        {
            "event": "content-block-delta",
            "index": 2,
            "content_block": {**CHUNK, "id": "2", "args": "}", "index": 3},
        },
        {
            "event": "content-block-delta",
            "content_block": {**CHUNK, "id": "3", "args": "{}", "index": 3},
        },
        {"event": "content-block-delta", "content_block": {**CHUNK, "id": "4", "args": "{}"}},
        {
            "event": "content-block-delta",
            "content_block": {"type": "server_tool_call_chunk", "id": "5", "args": "{}"},
        },
        {
            "event": "content-block-delta",
            "content_block": {"type": "server_tool_call_chunk", "id": "6", "args": "{}"},
        },
        {"event": "content-block-delta", "index": 9, "content_block": {**CHUNK, "data": "AA"}},
        {"event": "content-block-delta", "index": 9, "content_block": {"type": "image"}},
        END,
    ],
    "an unknown delta beside a former one": [
        {**delta(0, "unknown"), "content_block": {**CHUNK, "id": "1", "args": "{}"}},
        {
            **delta(1, "unknown"),
            "content_block": {"type": "server_tool_call_chunk", "id": "2", "args": "{}"},
        },
        {**delta(2, "data-delta"), "content_block": {**CHUNK, "id": "3", "args": "{}"}},
        END,
    ],
    "a call of each kind at one index": [
        start(0, **CHUNK, id="1", name="add", args="{}"),
        start(0, type="server_tool_call_chunk", id="2", name="search", args="{}"),
        delta(0, "tool-call-delta", args=" "),
        END,
    ],
    "one block in several events": [
        finish(1, **SHARED) | {"content": SHARED},
        finish(0, **SHARED) | {"content": SHARED},
        END,
    ],
    "blocks of types that cannot be one": [
        finish(0, type=["text"]),
        finish(0, type="unknown"),
        start(0, type=["text"]),
        delta(0, "block-delta", fields={"type": ["text"]}),
        END,
    ],
    "a finished call loses its index and keeps the rest": [
        start(0, **CHUNK, id="1", name="add", args="{}"),
        finish(0, type="tool_call", id="1", name="add", args={}, index=3, extras={"a": 1}),
        finish(1, type="tool_call"),
        finish(2, type="invalid_tool_call", index=3, id="", args="", name=""),
        END,
    ],
    "a finished call that `AIMessage` refuses": [
        finish(0, type="tool_call", id="1", name="add", args=[1]),
        END,
    ],
    "usage that `AIMessage` refuses": [END | {"usage": {"input_tokens": 1}}],
    "odd metadata": [
        {"event": "message-start", "id": "", "metadata": ["provider"]},
        END,
    ],
    "the last start counts": [
        {"event": "message-start", "id": "msg_1", "metadata": {"provider": "a", "model": "b"}},
        {"event": "message-start", "id": "msg_2", "metadata": {"model": "c"}},
        {"event": "message-start", "id": "", "metadata": {"model": "d"}},
        END
        | {"metadata": {"model_name": "e", "output_version": "v0"}, "additional_kwargs": {"a": 1}},
    ],
    "metadata as pairs": [END | {"metadata": [["a", 1]], "additional_kwargs": [["a", 1]]}],
    "additional_kwargs that are none": [END | {"additional_kwargs": "ab"}],
    "an error": [{"event": "error", "message": "overloaded"}],
    "an error without words": [{"event": "error"}],
    "no events of ours": [{"event": "ping"}, {}, {"event": ["error"]}],
}


@newest
@pytest.mark.parametrize("events", CASES.values(), ids=CASES.keys())
def test_case_gives_what_langchain_core_gives(events: list[Event]) -> None:
    compare(events)


@pytest.mark.parametrize(
    "ending",
    (END, {"event": "error", "message": "overloaded"}, END | {"usage": {"input_tokens": 1}}),
    ids=["finish", "error", "refused finish"],
)
def test_after_a_terminal_event_no_event_counts(ending: Event) -> None:
    accumulator = Accumulator()
    accumulator.feed(delta(0, "text-delta", text="a"))
    outcome(accumulator.feed, ending)
    assert accumulator.done
    message, error, before = accumulator.message, accumulator.error, accumulator.snapshot()

    for event in (
        {"event": "message-start", "id": "other"},
        delta(0, "text-delta", text="b"),
        delta([], "text-delta", text=5),
        finish(0, type="text", text="ab"),
        {"event": "error"},
        END,
    ):
        assert accumulator.feed(event) is None
    assert accumulator.snapshot() == before
    assert (accumulator.message, accumulator.error) == (message, error)
    assert accumulator.message_id is None


def test_the_first_failure_counts() -> None:
    accumulator, first = Accumulator(), ValueError("first")
    accumulator.feed(delta(0, "text-delta", text="a"))
    accumulator.fail(first)
    accumulator.fail(ValueError("second"))
    assert accumulator.feed(END) is None
    assert accumulator.error is first
    assert accumulator.message is None
    assert accumulator.done


def test_a_failure_after_the_message_does_not_count() -> None:
    accumulator = Accumulator()
    accumulator.feed(END)
    accumulator.fail(ValueError())
    assert accumulator.error is None
    assert accumulator.message == AIMessage("", response_metadata={"output_version": "v1"})


def test_a_failure_counts_after_a_finish_that_raised() -> None:
    accumulator = Accumulator()
    with pytest.raises(ValueError) as raised:
        accumulator.feed(END | {"usage": {"input_tokens": 1}})
    assert accumulator.done
    assert accumulator.error is None
    accumulator.fail(raised.value)
    assert accumulator.error is raised.value


@pytest.mark.parametrize(
    ("metadata", "reason"),
    (
        ({"finish_reason": "stop", "model_provider": "openai"}, "stop"),
        ({"stop_reason": "end_turn", "stop_sequence": None}, "end_turn"),
        ({"stopReason": "tool_use"}, "tool_use"),
        ({"done": True, "done_reason": "length"}, "length"),
        ({"status": "completed", "object": "response"}, "completed"),
        (
            {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            "max_output_tokens",
        ),
        ({"status": "incomplete", "incomplete_details": None}, "incomplete"),
        ({"finish_reason": None, "stop_reason": ""}, None),
        ({"finish_reason": 1}, None),
        ({"model_name": "some-model"}, None),
        ({}, None),
        (None, None),
    ),
)
def test_finish_reason_has_many_names(metadata: Any, reason: str | None) -> None:
    accumulator = Accumulator()
    assert accumulator.finish_reason is None
    accumulator.feed(END | {"metadata": metadata})
    assert accumulator.finish_reason == reason


def test_usage_and_final_values() -> None:
    accumulator = Accumulator("run-1")
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    for event in (
        delta(0, "reasoning-delta", reasoning="hm"),
        delta(1, "text-delta", text="a"),
        start(2, **CHUNK, id="1", name="add", args="{}"),
        END | {"usage": usage},
    ):
        accumulator.feed(event)
    assert accumulator.usage == usage
    assert (accumulator.reasoning, accumulator.text) == ("hm", "a")
    assert accumulator.tool_calls == [{"type": "tool_call", "id": "1", "name": "add", "args": {}}]
    assert accumulator.message is not None
    assert accumulator.message.id == "run-1"


@newest
@given(well_formed())
def test_a_snapshot_is_what_finishing_every_block_now_would_give(events: list[Event]) -> None:
    original, ours = Original(), Accumulator()
    for event in events:
        outcome(original.stream.dispatch, copy.deepcopy(event))
        outcome(ours.feed, copy.deepcopy(event))
        if ours.done:
            return
        expected = copy.deepcopy(original.stream)
        for name, blocks in (
            ("text", expected._text_per_block),
            ("reasoning", expected._reasoning_per_block),
        ):
            for index in blocks:
                if index not in expected._blocks:
                    expected.dispatch(finish(index, type=name))
        for index, call in [
            *expected._tool_call_chunks.items(),
            *expected._server_tool_call_chunks.items(),
        ]:
            call = {
                "args": None,
                **call,
                "type": "invalid_tool_call",
                "error": "The tool call is unfinished",
            }
            expected.dispatch(
                finish(
                    index, **{key: call.get(key) for key in ("type", "id", "name", "args", "error")}
                )
            )
        expected.dispatch(END | {"metadata": {"partial": True}})
        snapshot = ours.snapshot()
        assert snapshot.content == expected.output.content
        assert snapshot.tool_calls == expected.output.tool_calls
        assert [
            {**call, "args": call["args"] or None} for call in snapshot.invalid_tool_calls
        ] == expected.output.invalid_tool_calls
        assert snapshot.response_metadata == expected.output.response_metadata
        assert snapshot.id == expected.output.id


def test_a_snapshot_of_unfinished_tool_calls() -> None:
    accumulator = Accumulator()
    for event in (
        start(0, **CHUNK, id="1", name="add", args=""),
        delta(0, "tool-call-delta", args="{}"),
        start(1, **CHUNK, id="2", name="add", args=""),
        delta(1, "tool-call-delta", args='{"a": '),
        finish(0, type="tool_call", id="1", name="add", args={}),
        start(2, type="server_tool_call_chunk", id="3", name="search"),
    ):
        accumulator.feed(event)
    accumulator.fail(ValueError())
    snapshot = accumulator.snapshot()
    assert [call["id"] for call in snapshot.tool_calls] == ["1"]
    assert [(call["id"], call["args"]) for call in snapshot.invalid_tool_calls] == [
        ("2", '{"a": '),
        ("3", None),
    ]
    assert all("unfinished" in (call["error"] or "") for call in snapshot.invalid_tool_calls)
    assert [(block["type"], block.get("id")) for block in snapshot.content_blocks] == [
        ("tool_call", "1"),
        ("invalid_tool_call", "2"),
        ("invalid_tool_call", "3"),
    ]


def test_a_snapshot_of_text_without_an_index() -> None:
    accumulator = Accumulator()
    assert accumulator.snapshot().content == ""
    accumulator.feed(without_index(delta(0, "text-delta", text="a")))
    assert accumulator.snapshot().content == "a"
    accumulator.feed(without_index(delta(0, "reasoning-delta", reasoning="hm")))
    accumulator.feed(finish(0, **SHARED))
    assert accumulator.snapshot().content == [
        {**SHARED, "index": 0},
        {"type": "reasoning", "reasoning": "hm"},
        {"type": "text", "text": "a"},
    ]


def test_a_snapshot_after_a_refused_finish_has_only_what_a_message_may_hold() -> None:
    accumulator = Accumulator()
    for event in (
        {"event": "message-start", "id": 5},
        finish(0, type="tool_call", id="1", name="add", args=[1]),
        finish(1, type="tool_call", id=2, name="add", args={}),
        finish(2, type="tool_call", id="3", name="add", args={}),
        finish("x", **SHARED),
    ):
        accumulator.feed(event)
    with pytest.raises(TypeError):
        accumulator.feed(END | {"usage": {"input_tokens": "many"}, "metadata": 5})
    snapshot = accumulator.snapshot()
    assert snapshot.id is None
    assert snapshot.usage_metadata is None
    assert [call["id"] for call in snapshot.tool_calls] == ["3"]
    assert [(call["id"], call["args"]) for call in snapshot.invalid_tool_calls] == [
        ("1", "[1]"),
        (None, "{}"),
    ]
    assert [block["type"] for block in snapshot.content_blocks] == [
        "invalid_tool_call",
        "invalid_tool_call",
        "tool_call",
        "image",
    ]


def test_a_snapshot_of_arguments_nested_deeper_than_calls_may_be() -> None:
    depth = 100_000
    deep: Any = []
    for _ in range(depth):
        deep = [deep]
    accumulator = Accumulator()
    accumulator.feed(finish(0, type="tool_call", id="1", name="add", args={"a": deep}))
    accumulator.feed(finish(1, type="tool_call", id="2", name="add", args=deep))
    accumulator.feed(finish(2, type="tool_call", id="3", name="add", args=10**5_000))
    snapshot = accumulator.snapshot()
    for _ in range(depth):
        (deep,) = deep
    assert [call["id"] for call in snapshot.tool_calls] == ["1"]
    assert [(call["id"], call["args"]) for call in snapshot.invalid_tool_calls] == [
        ("2", None),
        ("3", None),
    ]
    # Taken apart here, as what is nested as deep cannot be compared.
    copied = snapshot.tool_calls[0]["args"]["a"]
    for _ in range(depth):
        (copied,) = copied
    copied.append("vandalised")
    assert deep == []


@pytest.mark.parametrize(
    "event",
    (
        delta(0, "text-delta", text="token "),
        without_index(delta(0, "text-delta", text="token ")),
        delta(0, "reasoning-delta", reasoning="token "),
        delta(0, "tool-call-delta", args="token "),
        {"event": "content-block-delta", "index": 0, "content_block": {**CHUNK, "args": "token "}},
    ),
    ids=["text", "text without an index", "reasoning", "tool call", "former tool call"],
)
def test_cost_of_a_delta_does_not_grow(event: Event) -> None:
    def seconds_per_delta(count: int) -> float:
        accumulator = Accumulator()
        accumulator.feed(start(0, **CHUNK, id="1", name="add", args=""))
        begin = time.thread_time()
        for _ in range(count):
            accumulator.feed(event)
        outcome(accumulator.feed, END)
        return (time.thread_time() - begin) / count

    gc.disable()
    try:
        few = min(seconds_per_delta(2_000) for _ in range(10))
        many = min(seconds_per_delta(200_000) for _ in range(3))
    finally:
        gc.enable()
    # Concatenation, as in the original, comes out at 10 to 50.
    assert many / few < 3
