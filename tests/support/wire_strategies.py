"""Streamed answers of OpenAI and Anthropic as bytes, with everything in them that servers and networks do to them."""

from __future__ import annotations

import copy
import json
import re
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator

Event = dict[str, Any]

# Text as models send it, and what is hard about text: other scripts, controls, separators of lines
# that are none in a stream of events, half a character.
TEXTS = st.one_of(
    st.sampled_from(["", " ", "word ", "[DONE]", "é", "😀", "a\nb", "\u2028", "\x85", "\ud83d"]),
    st.text(max_size=6),
)
NAMES = st.sampled_from(["a", "f", "get_weather"])
WEIRD = st.sampled_from(
    [None, True, False, -1, 0, 1.5, 2**70, "", "x", "\ud83d", [], {}, [None], [{}], {"x": None}]
)
FINISHES = st.sampled_from(["stop", "length", "tool_calls", "content_filter", "weird"])
USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 4,
    "total_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


@st.composite
def chat_chunks(draw: st.DrawFn) -> Event:
    """A chunk of a chat completion."""
    text = draw(TEXTS)
    function: Event = {"arguments": text}
    delta, choice, chunk = draw(
        st.sampled_from(
            [
                ({"content": text}, {}, {}),
                ({"content": text}, {"logprobs": None}, {"obfuscation": "abc"}),
                ({"role": "assistant", "content": "", "refusal": None}, {}, {"usage": None}),
                (
                    {"content": text, "role": draw(st.sampled_from(["user", "tool", "robot"]))},
                    {},
                    {},
                ),
                ({"reasoning_content": text, "content": None}, {}, {"provider": "p"}),
                ({"reasoning": text}, {"native_finish_reason": None, "text": ""}, {}),
                ({"refusal": text}, {}, {}),
                ({"function_call": {"name": "f", "arguments": text}}, {}, {}),
                ({"tool_calls": [{"index": 0, "function": function}]}, {"stop_reason": None}, {}),
                (
                    {
                        "tool_calls": [
                            {
                                "index": draw(st.integers(0, 2)),
                                "id": "call_1",
                                "type": draw(st.sampled_from(["function", "custom"])),
                                "function": {"name": draw(NAMES), **function},
                            },
                            {"index": 1, "function": function},
                        ]
                    },
                    {},
                    {},
                ),
                ({"tool_calls": []}, {}, {}),
                ({}, {"finish_reason": draw(FINISHES)}, {}),
                ({}, {"finish_reason": "stop"}, {"service_tier": "flex", "usage": USAGE}),
                (
                    {"content": text},
                    {
                        "logprobs": {
                            "content": [
                                {"token": text, "bytes": [1], "logprob": -1, "top_logprobs": []}
                            ],
                            "refusal": None,
                        }
                    },
                    {},
                ),
                ({"content": text}, {"content_filter_results": {"hate": {"filtered": False}}}, {}),
                ({"audio": {"id": "a", "transcript": text}}, {}, {}),
            ]
        )
    )
    head = {"id": "c_1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    whole = {"index": 0, "delta": delta, "finish_reason": None, **choice}
    choices = draw(st.sampled_from([[whole]] * 6 + [[], [whole, whole]]))
    tier = draw(st.sampled_from([{}, {"service_tier": "default", "system_fingerprint": "fp"}]))
    return {**head, **tier, "choices": choices, **chunk}


@st.composite
def response_events(draw: st.DrawFn) -> Event:
    """An event of the Responses API."""
    text = draw(TEXTS)
    place = {
        "item_id": draw(st.sampled_from(["i_0", "i_1"])),
        "output_index": draw(st.integers(0, 1)),
    }
    message = {
        "id": "i_0",
        "type": "message",
        "role": "assistant",
        "status": "in_progress",
        "content": [],
    }
    call = {"id": "i_1", "type": "function_call", "name": "f", "arguments": "", "call_id": "call_1"}
    reasoning = {"id": "i_1", "type": "reasoning", "summary": [], "encrypted_content": None}
    response = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "m",
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
    }
    done = {
        **response,
        "status": draw(st.sampled_from(["completed", "incomplete"])),
        "output": [
            {**message, "content": [{"type": "output_text", "text": text, "annotations": []}]}
        ],
        "usage": {
            "input_tokens": 1,
            "output_tokens": 2,
            "total_tokens": 3,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }
    delta = {**place, "delta": text}
    logprobs = draw(st.sampled_from([[], [{"token": "a", "logprob": -1, "top_logprobs": []}]]))
    padding = draw(st.sampled_from([{}, {"obfuscation": "abc"}]))
    event = draw(
        st.sampled_from(
            [
                {
                    "type": "response.output_text.delta",
                    **delta,
                    "content_index": 0,
                    "logprobs": logprobs,
                },
                {"type": "response.output_text.delta", **delta, "content_index": 1, "logprobs": []},
                {"type": "response.reasoning_summary_text.delta", **delta, "summary_index": 0},
                {"type": "response.reasoning_text.delta", **delta, "content_index": 0},
                {"type": "response.function_call_arguments.delta", **delta},
                {"type": "response.refusal.delta", **delta, "content_index": 0},
                {"type": "response.created", "response": response},
                {"type": "response.output_item.added", "output_index": 0, "item": message},
                {"type": "response.output_item.added", "output_index": 1, "item": call},
                {"type": "response.output_item.added", "output_index": 1, "item": reasoning},
                {"type": "response.output_text.done", **place, "content_index": 0, "text": text},
                {"type": "response.reasoning_summary_part.added", **place, "summary_index": 0},
                {"type": f"response.{done['status']}", "response": done},
                {"type": "response.failed", "response": {**response, "status": "failed"}},
                {"type": "response.surprise", **delta},
            ]
        )
    )
    return {**event, "sequence_number": draw(st.integers(0, 9)), **padding}


@st.composite
def message_events(draw: st.DrawFn) -> Event:
    """An event of Anthropic's messages."""
    text = draw(TEXTS)
    index = draw(st.integers(0, 2))
    usage = {"input_tokens": 1, "output_tokens": 2}
    message = {
        "id": "m_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    block = draw(
        st.sampled_from(
            [
                {"type": "text", "text": ""},
                {"type": "thinking", "thinking": "", "signature": ""},
                {"type": "tool_use", "id": "call_1", "name": "f", "input": {}},
                {"type": "redacted_thinking", "data": "x"},
            ]
        )
    )
    deltas = [
        {"type": "text_delta", "text": text},
        {"type": "thinking_delta", "thinking": text},
        {"type": "input_json_delta", "partial_json": text},
        {"type": "signature_delta", "signature": text},
        {"type": "citations_delta", "citation": {"type": "char_location", "cited_text": text}},
        {"type": "surprise_delta", "text": text},
    ]
    event: Event = draw(
        st.sampled_from(
            [
                *(
                    {"type": "content_block_delta", "index": index, "delta": delta}
                    for delta in deltas
                ),
                {"type": "content_block_delta", "index": index, "delta": deltas[0]},
                {"type": "message_start", "message": message},
                {"type": "content_block_start", "index": index, "content_block": block},
                {"type": "content_block_stop", "index": index},
                {"type": "ping"},
                {
                    "type": "message_delta",
                    "delta": {
                        "stop_reason": draw(st.sampled_from(["end_turn", "x", None])),
                        "stop_sequence": None,
                    },
                    "usage": usage,
                },
                {"type": "message_stop"},
            ]
        )
    )
    return event


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places in a value of JSON."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in items:
        yield (*path, key)
        yield from paths(item, (*path, key))


@st.composite
def spoilt(draw: st.DrawFn, events: st.SearchStrategy[Event]) -> Any:
    """An event with a field that is missing, of another kind or not known, more often with none."""
    event: Any = draw(events)
    for _ in range(draw(st.sampled_from([0] * 6 + [1, 1, 2]))):
        event = copy.deepcopy(event)
        places = list(paths(event))
        if not places:
            break
        *parents, last = draw(st.sampled_from(places))
        parent = event
        for key in parents:
            parent = parent[key]
        what = draw(st.sampled_from(["missing", "another", "added"]))
        if what == "missing":
            del parent[last]
        elif what == "another" or isinstance(parent, list):
            parent[last] = draw(WEIRD)
        else:
            name = st.sampled_from(
                ["surprise", "error", "id", "text", "reasoning", "type", "_fields_set"]
            )
            parent[draw(name)] = draw(WEIRD)
    return event


# Keys of the values in which the events of an answer differ.
DIFFERING = {
    *(
        "content",
        "reasoning",
        "reasoning_content",
        "refusal",
        "arguments",
        "obfuscation",
        "created",
    ),
    *("delta", "sequence_number", "text", "thinking", "partial_json", "item_id"),
}


@st.composite
def alike(draw: st.DrawFn, events: st.SearchStrategy[Event]) -> list[Any]:
    """Events that differ in their text, and seldom in something else."""
    first = draw(events)
    found: list[Any] = [first]
    for _ in range(draw(st.integers(1, 6))):
        event: Any = copy.deepcopy(first)
        for *parents, last in list(paths(event)):
            parent = event
            for key in parents:
                parent = parent[key]
            if last in DIFFERING and type(parent[last]) in (str, int):
                parent[last] = draw(TEXTS if isinstance(parent[last], str) else st.integers())
        if draw(st.sampled_from([False] * 5 + [True])):
            event = draw(spoilt(st.just(event)))
        found.append(event)
    return found


# In place of a string or a number.
LITERALS = st.sampled_from(
    [
        *(
            '"\\u0041"',
            '"\\ud83d\\ude00"',
            '"\\ud83d"',
            '"a\tb"',
            '"\\x"',
            '"',
            '""',
            '"a" ',
            ' "a"',
        ),
        *(
            "1.5",
            "1e3",
            "-0",
            "00",
            "NaN",
            "null",
            "true",
            "[]",
            "{}",
            "[" * 9,
            '"a", "content": "b"',
        ),
        *('"a"}', '"a", "delta": "b"', '"a", "text": "b"', "9" * 30, ""),
    ]
)
LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"|[0-9]+')


@st.composite
def frames(draw: st.DrawFn, event: Any, named: bool) -> bytes:
    """An event as lines, each ended by a line feed."""
    form = draw(
        st.sampled_from(
            ["plain"] * 10 + ["lines", "tight", "spoilt", "raw", "bytes", "latin", "literal"]
        )
    )
    ascii_only = draw(st.booleans())
    text = json.dumps(event, ensure_ascii=ascii_only, indent=1 if form == "lines" else None)
    if form == "tight":
        text = json.dumps(event, separators=(",", ":"))
    elif form == "spoilt":
        text = draw(
            st.sampled_from([text[:-1], text + text, f"[{text}]", "17", "null", "", "{'a': 1}"])
        )
    elif form == "literal" and (places := [*LITERAL.finditer(text)]):
        place = draw(st.sampled_from(places))
        text = text[: place.start()] + draw(LITERALS) + text[place.end() :]
    elif form == "raw":
        text = draw(st.text(alphabet='{}[]":, \tabén', max_size=8))
    begin = draw(st.sampled_from(["data: "] * 6 + ["data:", "data:  "]))
    lines = [begin + line for line in text.split("\n")]
    kind = event.get("type") if isinstance(event, dict) else None
    if named or draw(st.sampled_from([False] * 7 + [True])):
        name = draw(st.sampled_from([kind] * 8 + [None, "ping", "error", "surprise", "thread.x"]))
        if name is not None:
            lines.insert(0, f"event: {name}")
    for extra in draw(
        st.lists(
            st.sampled_from(
                [": comment", ":", "id: 1", "retry: 5", "retry: x", "other: 1", "data"]
            ),
            max_size=1,
        )
        if draw(st.sampled_from([False] * 4 + [True]))
        else st.just([])
    ):
        lines.insert(draw(st.integers(0, len(lines))), extra)
    codec, errors = ("latin-1", "replace") if form == "latin" else ("utf-8", "surrogatepass")
    data = "\n".join(lines).encode(codec, errors)
    if form == "bytes":
        at = draw(st.integers(0, len(data)))
        data = (
            data[:at]
            + draw(st.sampled_from([b"\xff", b"\xe2\x80", b"\x00", b"\xc2\x85"]))
            + data[at:]
        )
    return data + b"\n" * draw(st.sampled_from([2] * 8 + [1, 3, 4]))


ERRORS: list[Event] = [
    {"error": {"message": "Overloaded", "type": "server_error", "code": None}},
    {"error": "text"},
    {"error": {}},
    {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    {"type": "error", "code": "x", "message": "Overloaded", "param": None, "sequence_number": 1},
]


@st.composite
def bodies(draw: st.DrawFn, events: st.SearchStrategy[Event], *, named: bool) -> list[bytes]:
    """The body of a response, in the parts that it comes in.

    Args:
        draw: Draws.
        events: What is in it.
        named: Whether the servers of the format name their events.
    """
    several = st.one_of(st.lists(spoilt(events), max_size=6), alike(events))
    pieces = [draw(frames(event, named)) for event in draw(several)]
    if draw(st.sampled_from([False] * 5 + [True])):
        error = draw(st.sampled_from(ERRORS))
        pieces.insert(draw(st.integers(0, len(pieces))), draw(frames(error, named)))
    if draw(st.booleans()):
        pieces.append(
            draw(st.sampled_from([b"data: [DONE]\n\n", b"data: [DONE]\n\n", b"data: [DONE]"]))
        )
    data = draw(st.sampled_from([b""] * 6 + [b"\xef\xbb\xbf", b"\n", b": hello\n\n"])) + b"".join(
        pieces
    )
    ending = draw(st.sampled_from([b"\n"] * 5 + [b"\r\n", b"\r", b"mixed"]))
    if ending == b"mixed":
        lines = data.split(b"\n")
        data = b"".join(line + draw(st.sampled_from([b"\n", b"\r\n", b"\r"])) for line in lines)
    else:
        data = data.replace(b"\n", ending)
    if draw(st.sampled_from([False, False, True])):
        data = data[: draw(st.integers(0, len(data)))]
    if draw(st.sampled_from([False] * 5 + [True])):
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
