"""Hypothesis strategies for sequences of protocol events, well formed and not.

Small alphabets are on purpose: indexes must collide, and texts must extend and contradict each other, to reach the rules for that.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import strategies as st

Event = dict[str, Any]

MISSING = object()

pieces = st.sampled_from(["a", "b", "ab", "ba", "aba", " ", "é", "\n", '{"a": 1}'])
texts = st.lists(pieces, max_size=4).map("".join)
arguments = st.one_of(
    st.dictionaries(pieces, st.integers(0, 9) | pieces, max_size=2).map(json.dumps),
    st.sampled_from(
        ["", "{", '{"a', '{"a": 1', "}", "[1, 2]", "1", "null", "nonsense", "1" * 5000]
    ),
)
ids = st.sampled_from(["call_1", "call_2", "call_3"])
names = st.sampled_from(["search", "add"])
odd_values: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        0,
        1,
        7,
        True,
        False,
        1.5,
        "",
        "a",
        "\ud83d",
        b"a",
        [],
        ["a"],
        [1],
        {},
        {"a": 1},
        ["provider"],
        [["a", 1]],
    ]
).map(lambda value: value.copy() if isinstance(value, list | dict) else value)
indexes: st.SearchStrategy[Any] = st.sampled_from([0, 0, 0, 1, 1, 2, 3])
odd_indexes: st.SearchStrategy[Any] = st.one_of(
    indexes, st.sampled_from([MISSING, MISSING, None, "x", "y", True, 1.0, -1, [0], {"a": 0}])
)
extras = st.fixed_dictionaries(
    {},
    optional={
        "id": ids,
        "extras": st.dictionaries(pieces, st.integers(), max_size=1),
        "annotations": st.just([{"type": "citation", "url": "https://example.com"}]),
        "index": st.sampled_from([0, 5, "lc_1"]),
    },
)
whole_blocks: st.SearchStrategy[Event] = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["image", "audio", "video", "file"])},
        optional={
            "url": st.just("https://example.com/a"),
            "base64": st.just("AAAA"),
            "index": indexes,
        },
    ),
    st.fixed_dictionaries({"type": st.just("non_standard"), "value": st.just({"a": 1})}),
    st.fixed_dictionaries(
        {"type": st.just("server_tool_result"), "tool_call_id": ids, "status": st.just("success")}
    ),
    st.fixed_dictionaries(
        {"type": st.just("server_tool_call"), "id": ids, "name": names, "args": st.just({"q": "a"})}
    ),
)
usages = st.one_of(
    st.just(MISSING),
    st.builds(
        lambda given, made, more: {
            "input_tokens": given,
            "output_tokens": made,
            "total_tokens": given + made,
            **more,
        },
        st.integers(0, 9),
        st.integers(0, 9),
        st.sampled_from(
            [
                {},
                {"input_token_details": {"cache_read": 1}},
                {"output_token_details": {"reasoning": 2}},
            ]
        ),
    ),
)
metadatas = st.one_of(
    st.just(MISSING),
    st.fixed_dictionaries(
        {},
        optional={
            "finish_reason": st.just("stop"),
            "stop_reason": st.just("end_turn"),
            "model_name": st.just("some-model"),
            "model_provider": st.just("openai"),
            "output_version": st.just("responses/v1"),
            "status": st.just("incomplete"),
            "incomplete_details": st.just({"reason": "max_output_tokens"}),
            "logprobs": st.just({"content": [{"token": "a"}]}),
        },
    ),
)


def present(**fields: Any) -> Event:
    return {key: value for key, value in fields.items() if value is not MISSING}


def slices(text: str, cuts: list[int]) -> list[str]:
    """The text cut at those places; empty slices are left out, as providers do."""
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(places) if a < b]


@st.composite
def well_formed_blocks(draw: st.DrawFn, index: Any, oldest: bool) -> list[Event]:
    """The events of one block; the first or last may be missing."""
    kind = draw(
        st.sampled_from(
            ["text", "text", "reasoning", "tool_call", "tool_call", "server_tool_call", "whole"]
        )
    )
    cuts = draw(st.lists(st.integers(0, 20), max_size=4))
    at = {} if index is MISSING else {"index": index}
    # Under their former names too.
    content = draw(st.sampled_from(["content", "content", "content", "content_block"]))
    former = draw(st.sampled_from([False, False, False, True]))
    start: Event
    if kind == "whole":
        block = draw(whole_blocks)
        start = {"type": block["type"]}
        deltas: list[Event] = [{"delta": {"type": "data-delta", "data": "AA"}}] * (len(cuts) % 2)
        finish = block
    elif kind in {"text", "reasoning"}:
        text = draw(texts)
        start = {"type": kind, kind: ""}
        deltas = [
            {"content_block": {"type": kind, kind: piece}}
            if former
            else {"delta": {"type": f"{kind}-delta", kind: piece}}
            for piece in slices(text, cuts)
        ]
        corrected = draw(st.sampled_from([text, text, "", text + "ab", "ba" + text]))
        finish = {**draw(extras), "type": kind, kind: corrected}
        if draw(st.integers(0, 9)) == 0:
            del finish[kind]
    else:
        server = kind == "server_tool_call"
        call = {"id": draw(ids), "name": draw(names)}
        args = draw(arguments)
        start = {
            "type": f"{kind}_chunk",
            **call,
            "args": "",
            **({} if server else {"index": draw(indexes)}),
        }
        chunk = {"type": f"{kind}_chunk"}
        parts = slices(args, cuts)
        style = draw(st.sampled_from(["snapshot", "former", *["delta"] * (2 - 2 * oldest)]))
        if style == "delta":
            deltas = [{"delta": {"type": "tool-call-delta", "args": piece}} for piece in parts]
        elif style == "snapshot":
            deltas = [
                {
                    "delta": {
                        "type": "block-delta",
                        "fields": {**chunk, **call, "args": "".join(parts[: n + 1])},
                    }
                }
                for n in range(len(parts))
            ]
        else:
            deltas = [{"content_block": {**chunk, **call, "args": piece}} for piece in parts]
        try:
            parsed = json.loads(args or "{}")
        except ValueError:
            finish = {"type": "invalid_tool_call", **call, "args": args, "error": "not JSON"}
        else:
            finish = {"type": kind, **call, "args": parsed if isinstance(parsed, dict) else {}}
    events = [
        {"event": "content-block-start", **at, content: start},
        *({"event": "content-block-delta", **at, **delta} for delta in deltas),
        {"event": "content-block-finish", **at, content: finish},
    ]
    ending = draw(
        st.sampled_from(["finished", "finished", "finished", "finished", "unfinished", "unstarted"])
    )
    if ending == "unfinished" and not oldest:
        return events[:-1]
    return events[1:] if ending == "unstarted" else events


@st.composite
def well_formed(draw: st.DrawFn, oldest: bool = False) -> list[Event]:
    """A message as a model streams it, its blocks one after another or interleaved.

    With `oldest`, all that the message has is found in it by the lowest supported release of langchain-core too.
    """
    count = draw(st.integers(0, 4))
    order = draw(st.permutations(range(count)))
    blocks = [draw(well_formed_blocks(index, oldest)) for index in order]
    events: list[Event] = []
    if draw(st.integers(0, 5)):
        events.append(
            present(
                event="message-start",
                role="ai",
                id=draw(st.sampled_from(["", "msg_1", "run-1"])),
                metadata=draw(
                    st.sampled_from([MISSING, {"provider": "openai", "model": "some-model"}])
                ),
            )
        )
    if draw(st.booleans()):
        events += [event for block in blocks for event in block]
    else:
        queues = [list(block) for block in blocks]
        while queues := [queue for queue in queues if queue]:
            events.append(queues[draw(st.integers(0, len(queues) - 1))].pop(0))
    ending = draw(st.sampled_from(["finish", "finish", "finish", "finish", "error", "none"]))
    if ending == "finish":
        events.append(
            present(
                event="message-finish",
                usage=draw(usages),
                metadata=draw(metadatas),
                additional_kwargs=MISSING
                if oldest
                else draw(st.sampled_from([MISSING, {"signatures": {"call_1": "xyz"}}])),
            )
        )
    elif ending == "error":
        events.append(
            present(event="error", message=draw(st.sampled_from([MISSING, "overloaded"])))
        )
    return events


def mostly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(usual, usual, usual, usual, usual, odd_values, st.just(MISSING))


any_arguments = st.one_of(
    arguments, arguments, st.just({"a": 1}), st.just({1: 2}), odd_values, st.just(MISSING)
)
rarely_odd = st.one_of(*[st.just(MISSING)] * 3, odd_values)
chunks = st.builds(
    present,
    type=st.sampled_from(["tool_call_chunk", "tool_call_chunk", "server_tool_call_chunk"]),
    id=mostly(ids),
    name=mostly(names),
    args=any_arguments,
    index=odd_indexes,
    extras=rarely_odd,
)
any_blocks = st.one_of(
    *[
        st.builds(
            present,
            type=st.just(kind),
            index=odd_indexes,
            id=rarely_odd,
            data=rarely_odd,
            **{kind: mostly(texts)},
        )
        for kind in ("text", "text", "reasoning")
    ],
    st.builds(
        present,
        type=st.sampled_from(["tool_call", "tool_call", "invalid_tool_call", "server_tool_call"]),
        id=mostly(ids),
        name=mostly(names),
        args=any_arguments,
        error=rarely_odd,
        extras=rarely_odd,
        index=odd_indexes,
    ),
    st.builds(
        present,
        type=mostly(
            st.sampled_from(
                ["server_tool_result", "image", "non_standard", "unknown", "tool_call_chunk"]
            )
        ),
        data=rarely_odd,
        index=odd_indexes,
    ),
)
any_deltas = st.one_of(
    st.builds(present, type=st.just("text-delta"), text=mostly(texts)),
    st.builds(present, type=st.just("text-delta"), text=mostly(texts)),
    st.builds(present, type=st.just("reasoning-delta"), reasoning=mostly(texts)),
    st.builds(present, type=st.just("tool-call-delta"), args=mostly(arguments)),
    st.builds(
        present,
        type=st.sampled_from(["block-delta", "legacy-block-delta"]),
        fields=mostly(st.one_of(chunks, chunks, any_blocks)),
    ),
    st.builds(
        present, type=mostly(st.sampled_from(["data-delta", "unknown-delta"])), data=odd_values
    ),
)
block_events = st.one_of(
    st.builds(
        present,
        event=st.just("content-block-start"),
        index=odd_indexes,
        content=st.one_of(chunks, chunks, any_blocks, st.just(MISSING), odd_values),
        content_block=st.one_of(st.just(MISSING), chunks),
    ),
    *[
        st.builds(
            present,
            event=st.just("content-block-delta"),
            index=odd_indexes,
            delta=st.one_of(any_deltas, any_deltas, st.just(MISSING), odd_values),
            content_block=st.one_of(st.just(MISSING), any_blocks, chunks, odd_values),
        )
    ]
    * 3,
    st.builds(
        present,
        event=st.just("content-block-finish"),
        index=odd_indexes,
        content=st.one_of(any_blocks, any_blocks, any_blocks, st.just(MISSING), odd_values),
        content_block=st.one_of(st.just(MISSING), st.just(MISSING), any_blocks, odd_values),
    ),
)
start_events = st.builds(
    present,
    event=st.just("message-start"),
    id=mostly(st.sampled_from(["msg_1", "msg_2"])),
    metadata=mostly(st.just({"provider": "openai", "model": "some-model"})),
)
finish_events = st.builds(
    present,
    event=st.just("message-finish"),
    usage=st.one_of(usages, usages, usages, odd_values),
    metadata=st.one_of(metadatas, metadatas, metadatas, odd_values),
    additional_kwargs=st.one_of(
        st.just(MISSING),
        st.just(MISSING),
        odd_values,
        st.just({"tool_calls": [{"id": "call_9", "function": {"name": "add", "arguments": "{}"}}]}),
    ),
)
other_events = st.one_of(
    st.builds(present, event=odd_values, index=indexes),
    st.builds(
        present, event=st.sampled_from(["ping", "error"]), message=mostly(st.just("overloaded"))
    ),
)
any_events: st.SearchStrategy[Event] = st.one_of(
    *[block_events] * 7, start_events, finish_events, other_events
)


@st.composite
def disturbed(draw: st.DrawFn) -> list[Event]:
    """A well-formed message with events put in, left out, repeated and moved."""
    events = draw(well_formed())
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(events)))
        change = draw(st.sampled_from(["insert", "insert", "drop", "repeat", "move", "reindex"]))
        if change == "insert" or not events:
            events.insert(place, draw(any_events))
            continue
        picked = draw(st.integers(0, len(events) - 1))
        if change == "drop":
            del events[picked]
        elif change == "repeat":
            # The very same object: the original changes some of the events it is given.
            events.insert(place, events[picked])
        elif change == "move":
            events.insert(place, events.pop(picked))
        else:
            # Shares what it holds with the event that it is made of.
            event = {key: value for key, value in events[picked].items() if key != "index"}
            events.insert(place, {**event, **present(index=draw(odd_indexes))})
    return events


malformed: st.SearchStrategy[list[Event]] = st.builds(
    lambda first, more, finish: [*first, *more, *finish],
    st.lists(start_events, max_size=1),
    st.lists(st.one_of(*[block_events] * 9, any_events), min_size=2, max_size=14),
    st.lists(finish_events, max_size=1),
)

event_sequences: st.SearchStrategy[list[Event]] = st.one_of(
    well_formed(), disturbed(), disturbed(), malformed, malformed
)
