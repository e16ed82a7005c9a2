"""The bridge from chunks to events beside `langchain_core`'s own."""

from __future__ import annotations

import copy
import gc
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.language_models._compat_bridge import chunks_to_events
from langchain_core.language_models.chat_model_stream import ChatModelStream
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.block_translators import PROVIDER_TRANSLATORS, register_translator
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.version import VERSION

from langchain_anyio._langchain_core import message_to_events
from langchain_anyio._protocol.accumulator import Accumulator
from langchain_anyio._protocol.chunk_converter import ChunkBridge
from test_accumulator import exact, newest

if TYPE_CHECKING:
    from collections.abc import Iterator

Groups = list[list[Any]]


def original(
    chunks: list[ChatGenerationChunk], message_id: str | None, info: dict[str, Any] | None
) -> tuple[Groups, type[Exception] | None]:
    """The events that `langchain_core` makes of each chunk, and of the end."""
    groups: Groups = []

    def source() -> Iterator[ChatGenerationChunk]:
        for chunk in chunks:
            groups.append([])
            yield chunk
        groups.append([])

    events = chunks_to_events(source(), message_id=message_id, generation_info=info)
    try:
        for event in events:
            groups[-1].append(event)
    except Exception as error:
        # Ours gives nothing of a chunk that it cannot take.
        return groups[:-1], type(error)
    return groups, None


def ours(
    chunks: list[ChatGenerationChunk], message_id: str | None, info: dict[str, Any] | None
) -> tuple[Groups, type[Exception] | None]:
    bridge = ChunkBridge(message_id, info)
    groups: Groups = []
    try:
        for chunk in chunks:
            groups.append(list(bridge.feed(chunk)))
        groups.append(list(bridge.finish()))
    except Exception as error:
        return groups, type(error)
    return groups, None


def beside_an_accumulator(chunks: list[ChatGenerationChunk], message_id: str | None) -> Groups:
    """The same where the plain text is kept by who takes the events."""
    accumulator = Accumulator()
    bridge = ChunkBridge(message_id, None, accumulator.text_of)
    groups: Groups = []

    def take(events: Any) -> None:
        groups.append(list(copy.deepcopy(events)))
        for event in events:
            accumulator.feed(event)

    for chunk in chunks:
        take(bridge.feed(chunk))
    take(bridge.finish())
    return groups


def compare(chunks: list[ChatGenerationChunk], message_id: str | None = None) -> Groups:
    # Some translators change the chunk that they read.
    their_info: dict[str, Any] = {}
    our_info: dict[str, Any] = {}
    theirs = original(copy.deepcopy(chunks), message_id, their_info)
    mine = ours(copy.deepcopy(chunks), message_id, our_info)
    assert exact(mine[0]) == exact(theirs[0])
    assert mine[1] is theirs[1]
    assert our_info == their_info
    assert ours(copy.deepcopy(chunks), message_id, None) == mine
    if mine[1] is None:
        assert beside_an_accumulator(copy.deepcopy(chunks), message_id) == mine[0]
    return mine[0]


def chunk(
    content: Any = "",
    provider: str | None = None,
    info: dict[str, Any] | None = None,
    **fields: Any,
) -> ChatGenerationChunk:
    metadata = fields.pop("response_metadata", {})
    if provider is not None:
        metadata = {"model_provider": provider, **metadata}
    message = AIMessageChunk(content=content, response_metadata=metadata, **fields)
    return ChatGenerationChunk(message=message, generation_info=info)


def call(
    index: int | None, args: str | None, name: str | None = None, id: str | None = None
) -> Any:
    return {"type": "tool_call_chunk", "index": index, "args": args, "name": name, "id": id}


USAGE = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
DETAILED = {
    **USAGE,
    "input_token_details": {"cache_read": 1},
    "output_token_details": {"reasoning": 1},
}


class OwnChunk(AIMessageChunk):
    """A chunk that says itself what its blocks are."""

    @property
    def content_blocks(self) -> list[Any]:
        return [{"type": "text", "text": f"<{self.content}>"}]


class Opaque(AIMessageChunk):
    """A chunk that cannot say what its blocks are."""

    @property
    def content_blocks(self) -> list[Any]:
        raise ValueError


PLAIN = [
    chunk("", id="run-1"),
    chunk("Hello"),
    chunk(" world"),
    chunk(""),
    chunk("!", response_metadata={"finish_reason": "stop"}),
    chunk("", usage_metadata=USAGE, chunk_position="last"),
]
OPENAI = [
    chunk("", "openai", {"headers": {"x": "y"}}, id="chatcmpl-1"),
    chunk("I will", "openai"),
    chunk(" look", "openai"),
    chunk(" it up", "openai"),
    chunk("", "openai", tool_call_chunks=[call(0, "", "search", "call_1")]),
    chunk("", "openai", tool_call_chunks=[call(0, '{"q":')]),
    chunk("", "openai", tool_call_chunks=[call(1, "", "add", "call_2"), call(0, ' "a"}')]),
    chunk("", "openai", tool_call_chunks=[call(1, '{"a": ')]),
    chunk("still here", "openai"),
    chunk(" and here", "openai"),
    chunk("", "openai", {"finish_reason": "tool_calls", "model_name": "gpt", "logprobs": {"a": 1}}),
    chunk("", usage_metadata=DETAILED),
    chunk("", chunk_position="last"),
]
OPENAI_V1 = [
    chunk("a", "openai", response_metadata={"output_version": "v1"}),
    chunk("b", "openai", response_metadata={"output_version": "v1"}),
    chunk("c", "openai", response_metadata={"output_version": "v1"}),
    chunk([{"type": "text", "text": "d", "index": 0}], response_metadata={"output_version": "v1"}),
    chunk([{"type": "text", "text": "e"}], response_metadata={"output_version": "v1"}),
    chunk(
        [{"type": "tool_call_chunk", "id": "call_1", "name": "add", "args": "{", "index": 3}],
        response_metadata={"output_version": "v1"},
    ),
    chunk(
        [
            {
                "type": "tool_call_chunk",
                "id": None,
                "name": None,
                "args": None,
                "index": 3,
                "extras": {"a": 1},
            }
        ],
        response_metadata={"output_version": "v1"},
    ),
]
RESPONSES = [
    chunk([], "openai", id="resp_1", response_metadata={"id": "resp_1"}),
    chunk([{"type": "reasoning", "id": "rs_1", "summary": [], "index": 0}], "openai"),
    chunk(
        [
            {
                "type": "reasoning",
                "summary": [{"index": 0, "type": "summary_text", "text": "Hm"}],
                "index": 0,
            }
        ],
        "openai",
    ),
    chunk(
        [
            {
                "type": "reasoning",
                "summary": [{"index": 0, "type": "summary_text", "text": "m."}],
                "index": 0,
            }
        ],
        "openai",
    ),
    chunk(
        [
            {
                "type": "reasoning",
                "summary": [{"index": 1, "type": "summary_text", "text": "So"}],
                "index": 0,
            }
        ],
        "openai",
    ),
    chunk([{"type": "text", "text": "", "index": 1, "id": "msg_1", "phase": "final"}], "openai"),
    chunk([{"type": "text", "text": "The answer", "index": 1}], "openai"),
    chunk(
        [
            {
                "type": "text",
                "text": "",
                "index": 1,
                "annotations": [
                    {"type": "url_citation", "url": "https://example.com", "title": "t"}
                ],
            }
        ],
        "openai",
    ),
    chunk(
        [
            {
                "type": "function_call",
                "name": "add",
                "arguments": "",
                "call_id": "call_1",
                "id": "fc_1",
                "index": 2,
            }
        ],
        "openai",
        tool_call_chunks=[call(2, "", "add", "call_1")],
    ),
    chunk(
        [{"type": "function_call", "arguments": '{"a": 1}', "index": 2}],
        "openai",
        tool_call_chunks=[call(2, '{"a": 1}')],
    ),
    chunk(
        [
            {
                "type": "web_search_call",
                "id": "ws_1",
                "status": "completed",
                "action": {"query": "a"},
                "index": 3,
            }
        ],
        "openai",
    ),
    chunk(
        [{"type": "image_generation_call", "id": "ig_1", "result": "AAAA", "index": 4}], "openai"
    ),
    chunk([{"type": "refusal", "refusal": "no", "index": 5}], "openai"),
    chunk(
        [],
        "openai",
        usage_metadata=DETAILED,
        response_metadata={
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
        },
        additional_kwargs={"parsed": None},
        chunk_position="last",
    ),
]
ANTHROPIC_TEXT = [
    chunk("", "anthropic", response_metadata={"model_name": "claude"}, usage_metadata=USAGE),
    chunk("Hello", "anthropic"),
    chunk(" world", "anthropic"),
    chunk("", "anthropic"),
    chunk("!", "anthropic"),
    chunk("", "anthropic", response_metadata={"stop_reason": "end_turn"}, usage_metadata=DETAILED),
]
ANTHROPIC = [
    chunk(
        [],
        "anthropic",
        response_metadata={"model_name": "claude"},
        id="msg_1",
        usage_metadata=USAGE,
    ),
    chunk([{"type": "thinking", "thinking": "", "index": 0}], "anthropic"),
    chunk([{"type": "thinking", "thinking": "Hm", "index": 0}], "anthropic"),
    chunk([{"type": "thinking", "thinking": "m.", "index": 0}], "anthropic"),
    chunk([{"type": "thinking", "signature": "c2ln", "index": 0}], "anthropic"),
    chunk([{"type": "redacted_thinking", "data": "AAAA", "index": 1}], "anthropic"),
    chunk([{"type": "text", "text": "The", "index": 2}], "anthropic"),
    chunk([{"type": "text", "text": " answer", "index": 2}], "anthropic"),
    chunk(
        [
            {
                "type": "text",
                "text": "",
                "index": 2,
                "citations": [
                    {
                        "type": "char_location",
                        "cited_text": "a",
                        "document_index": 0,
                        "document_title": "t",
                    }
                ],
            }
        ],
        "anthropic",
    ),
    chunk(
        [{"type": "tool_use", "id": "toolu_1", "name": "add", "input": {}, "index": 3}],
        "anthropic",
        tool_call_chunks=[call(3, "", "add", "toolu_1")],
    ),
    chunk(
        [{"type": "input_json_delta", "partial_json": '{"a":', "index": 3}],
        "anthropic",
        tool_call_chunks=[call(3, '{"a":')],
    ),
    chunk(
        [{"type": "tool_use", "id": "toolu_2", "name": "sub", "input": {}, "index": 4}],
        "anthropic",
        tool_call_chunks=[call(4, "", "sub", "toolu_2")],
    ),
    chunk(
        [{"type": "input_json_delta", "partial_json": " 1}", "index": 3}],
        "anthropic",
        tool_call_chunks=[call(3, " 1}")],
    ),
    chunk(
        [{"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {}, "index": 5}],
        "anthropic",
    ),
    chunk(
        [{"type": "input_json_delta", "partial_json": '{"query": "a"}', "index": 5}], "anthropic"
    ),
    chunk(
        [
            {
                "type": "web_search_tool_result",
                "tool_use_id": "srv_1",
                "content": [{"url": "u"}],
                "index": 6,
            }
        ],
        "anthropic",
    ),
    chunk(
        "",
        "anthropic",
        response_metadata={"stop_reason": "tool_use"},
        usage_metadata=USAGE,
        chunk_position="last",
    ),
]
GOOGLE = [
    chunk([{"type": "thinking", "thinking": "Hm", "signature": "c2ln"}], "google_genai"),
    chunk("", "google_genai", tool_call_chunks=[call(None, '{"a": 1}', "add", "call_1")]),
    chunk(
        "",
        "google_genai",
        tool_call_chunks=[call(None, "{}", "sub", "call_2")],
        additional_kwargs={"__gemini_function_call_thought_signatures__": {"call_2": "c2ln"}},
    ),
    chunk("Hello", "google_genai"),
    chunk(
        " world",
        "google_genai",
        additional_kwargs={"function_call": {"name": "a", "arguments": "{"}},
    ),
    chunk("!", "google_genai"),
    chunk("?", "google_genai"),
    chunk(
        "",
        "google_genai",
        {"finish_reason": "STOP", "safety_ratings": []},
        response_metadata={"grounding_metadata": {"web_search_queries": ["a"]}},
        additional_kwargs={"function_call": {"arguments": "}"}},
        usage_metadata=USAGE,
    ),
]
BEDROCK = [
    chunk([], "bedrock_converse"),
    chunk([{"type": "text", "text": "Hello", "index": 0}], "bedrock_converse"),
    chunk([{"type": "text", "text": " world", "index": 0}], "bedrock_converse"),
    chunk([{"index": 0}], "bedrock_converse"),
    chunk(
        [
            {
                "type": "reasoning_content",
                "reasoning_content": {"text": "Hm", "signature": ""},
                "index": 1,
            }
        ],
        "bedrock_converse",
    ),
    chunk(
        [{"type": "tool_use", "name": "add", "id": "tooluse_1", "input": {}, "index": 2}],
        "bedrock_converse",
        tool_call_chunks=[call(2, None, "add", "tooluse_1")],
    ),
    chunk(
        [{"type": "tool_use", "input": '{"a": 1', "index": 2}],
        "bedrock_converse",
        tool_call_chunks=[call(2, '{"a": 1')],
    ),
    chunk("", "bedrock", usage_metadata=USAGE),
    chunk("plain", "bedrock"),
    chunk("er", "bedrock"),
    chunk("converse", "bedrock_converse"),
    chunk("d", "bedrock_converse"),
    chunk("", "bedrock_converse"),
    chunk(
        [], "bedrock_converse", response_metadata={"stopReason": "tool_use"}, usage_metadata=USAGE
    ),
]
OTHERS = [
    chunk("a", "google_vertexai"),
    chunk("b", "google_vertexai"),
    chunk("a", "groq"),
    chunk("b", "groq", additional_kwargs={"reasoning_content": "Hm"}),
    chunk("c", "groq"),
    chunk("d", "groq"),
    chunk("", "deepseek", additional_kwargs={"reasoning_content": "Hm"}),
    chunk("", "deepseek", additional_kwargs={"reasoning_content": "m."}),
    chunk("a", "deepseek"),
    chunk("b", "deepseek"),
    chunk("c", response_metadata={"model_provider": ["none"]}),
    chunk("c", response_metadata={"model_provider": ["none"]}),
    chunk("", "ollama", {"done_reason": "stop"}, response_metadata={"done": True}),
    chunk(["a", "b"]),
    chunk(
        [
            {"type": "text", "text": "c", "extras": {"a": 1}, "id": "x"},
            {"type": "image", "url": "u"},
        ]
    ),
    chunk(
        [
            {"type": "text", "text": "d", "extras": {"b": 2}, "id": None},
            {"type": "image", "url": "v"},
        ]
    ),
    chunk([{"type": "reasoning", "extras": {"signature": "s"}}]),
    chunk([{"type": "reasoning", "reasoning": "Hm", "index": "lc_1"}]),
    chunk([{"type": "reasoning", "extras": {"a": 1}, "index": "lc_1"}]),
    chunk([{"type": "reasoning", "extras": {"b": 1}, "index": "lc_1"}]),
    chunk([{"type": "audio", "data": "AA", "encoding": "base64", "index": 7}], "x"),
    chunk([{"type": "audio", "data": "BB", "extras": {"a": 1}, "mime_type": None, "index": 7}]),
    chunk(
        [{"type": "audio", "data": "", "extras": {"b": 1}, "mime_type": "audio/wav", "index": 7}]
    ),
    chunk([{"type": "text", "text": "over", "index": 7}]),
    chunk([{"type": "non_standard", "value": {"a": 1}, "index": 8}]),
    chunk([{"type": "tool_call", "id": "1", "name": "add", "args": {"a": 1}, "extras": {}}]),
    chunk([{"type": "server_tool_call", "id": "1", "name": "add", "args": {"a": 1}}]),
    chunk(
        [{"type": "server_tool_result", "tool_call_id": "1", "output": "a", "status": "success"}]
    ),
    chunk([{"type": "server_tool_call_chunk", "id": "1", "name": "s", "args": "{", "index": 9}]),
    chunk([{"type": "server_tool_call_chunk", "args": "}", "index": 9, "extras": {"a": 1}}]),
    chunk([{"type": "server_tool_call_chunk", "args": None, "index": 10}]),
    chunk([{"type": "file", "base64": "AAAA", "mime_type": "text/plain", "transcript": "a"}]),
    chunk("a", None, {"lc_gateway_metadata": {"provider": "p"}, "x": 1}),
    chunk("a", response_metadata={"lc_gateway_metadata": "no mapping", "model_name": "some-model"}),
    chunk("a", None, {}),
    chunk("", additional_kwargs={"function_call": "no mapping"}),
    chunk("", additional_kwargs={"function_call": {"name": "a"}}),
    chunk(tool_calls=[{"id": "1", "name": "add", "args": {}, "type": "tool_call"}]),
    chunk(tool_call_chunks=[call(None, None)]),
    chunk("a", "openai", tool_call_chunks=[call(0, "nonsense")]),
    chunk("a", "openai", tool_calls=[{"id": "1", "name": "add", "args": {}, "type": "tool_call"}]),
    chunk("a", "groq", usage_metadata=USAGE),
    ChatGenerationChunk(message=HumanMessageChunk(content="not the model's")),
    ChatGenerationChunk(message=OwnChunk(content="a")),
    ChatGenerationChunk(
        message=Opaque(
            content="a",
            usage_metadata=UsageMetadata(input_tokens=1, output_tokens=1, total_tokens=2),
        )
    ),
]
SLICES = [
    chunk([block])
    for block in (
        {"type": "text", "text": "a", "extras": {"a": 1}, "id": "x", "more": {"a": 1}},
        {"type": "text", "text": "b", "extras": {"b": 2}, "id": None, "more": {"b": 2}},
        {"type": "text", "text": "", "extras": "none", "annotations": []},
        {"type": "reasoning", "index": "r", "extras": {"a": 1}},
        {"type": "reasoning", "index": "r", "extras": {"b": 2}},
        {"type": "reasoning", "index": "r", "reasoning": "Hm", "more": {"a": 1}},
        {"type": "audio", "index": 7, "data": None, "extras": None},
        {"type": "audio", "index": 7, "data": "AA", "extras": {"a": 1}},
        {"type": "audio", "index": 7, "data": "BB", "extras": {"b": 2}},
        {"type": "server_tool_call_chunk", "index": 8, "args": None, "id": "1", "extras": {"a": 1}},
        {"type": "server_tool_call_chunk", "index": 8, "args": "{", "name": "search"},
        {"type": "server_tool_call_chunk", "index": 8, "id": "2", "extras": {"b": 2}},
        {"type": "server_tool_call_chunk", "index": 8, "args": "}", "name": None, "more": 1},
        {"type": "image", "index": 9, "url": "a"},
        {"type": "image", "index": 9, "id": "b"},
        {"type": "video", "index": 10, "data": ["AA"]},
        {"type": "video", "index": 10, "data": ["BB"]},
    )
] + [
    chunk([block], response_metadata={"output_version": "v1"})
    for block in ({"text": "a", "index": 11}, {"text": "b", "index": 11}, {"id": "x", "index": 12})
]
STREAMS = {
    "slices of each type": SLICES,
    "plain": PLAIN,
    "openai chat completions": OPENAI,
    "openai with v1 output": OPENAI_V1,
    "openai responses": RESPONSES,
    "anthropic text": ANTHROPIC_TEXT,
    "anthropic": ANTHROPIC,
    "google": GOOGLE,
    "bedrock": BEDROCK,
    "nothing": [],
    "nothing of the model's": [ChatGenerationChunk(message=HumanMessageChunk(content="a"))],
}


@newest
@pytest.mark.parametrize("chunks", STREAMS.values(), ids=STREAMS.keys())
@pytest.mark.parametrize("message_id", (None, "", "run-2"))
def test_stream_gives_the_events_of_langchain_core(
    chunks: list[ChatGenerationChunk], message_id: str | None
) -> None:
    compare(chunks, message_id)


@newest
@pytest.mark.parametrize("place", range(len(OTHERS)))
def test_chunk_gives_the_events_of_langchain_core(place: int) -> None:
    metadata = OTHERS[place].message.response_metadata
    text = [chunk(text, response_metadata=metadata) for text in "ab"]
    compare([*text, OTHERS[place], *text, OTHERS[place], *text])


ALL = [chunk for stream in STREAMS.values() for chunk in stream] + OTHERS
plain_runs = st.builds(
    lambda provider, texts: [chunk(text, provider) for text in texts],
    st.sampled_from([None, "openai", "anthropic", "google_genai", "groq", "bedrock", "unknown"]),
    st.lists(st.sampled_from(["", "a", "b ", "c\n", "é"]), max_size=6),
)
one_stream = st.sampled_from([*STREAMS.values()]).flatmap(
    lambda chunks: st.lists(st.integers(0, 4), min_size=len(chunks), max_size=len(chunks)).map(
        # Most chunks once, some not at all, some twice.
        lambda times: [
            c for c, n in zip(chunks, times, strict=True) for _ in range((0, 1, 1, 1, 2)[n])
        ]
    )
)
mixes = st.lists(
    st.one_of(plain_runs, plain_runs, one_stream, st.lists(st.sampled_from(ALL), max_size=4)),
    max_size=5,
).map(lambda parts: [c for part in parts for c in part])


@newest
@given(mixes, st.sampled_from([None, "run-2"]))
def test_any_mix_of_chunks_gives_the_events_of_langchain_core(
    chunks: list[ChatGenerationChunk], message_id: str | None
) -> None:
    compare(chunks, message_id)


@pytest.mark.skipif(
    VERSION.startswith("1.4."),
    reason="langchain-core 1.4 mixes up blocks, and leaves out details of the usage",
)
@pytest.mark.parametrize("name", STREAMS)
def test_the_message_of_a_stream_is_that_of_every_release(name: str) -> None:
    stream = ChatModelStream()
    for event in chunks_to_events(iter(copy.deepcopy(STREAMS[name]))):
        stream.dispatch(event)
    accumulator = Accumulator()
    bridge = ChunkBridge()
    for part in copy.deepcopy(STREAMS[name]):
        for event in bridge.feed(part):
            accumulator.feed(event)
    for event in bridge.finish():
        accumulator.feed(event)
    assert accumulator.message == stream.output_message


@pytest.mark.parametrize("name", STREAMS)
def test_the_accumulator_takes_the_events(name: str) -> None:
    accumulator = Accumulator()
    bridge = ChunkBridge()
    for part in copy.deepcopy(STREAMS[name]):
        for event in bridge.feed(part):
            accumulator.feed(event)
    for event in bridge.finish():
        accumulator.feed(event)
    if name.startswith("nothing"):
        assert not accumulator.done
    else:
        assert accumulator.message is not None


@newest
def test_a_translator_of_ones_own_reads_every_chunk() -> None:
    def translate(message: AIMessage) -> list[Any]:
        thought = str(message.content).startswith("<")
        kind = "reasoning" if thought else "text"
        return [{"type": kind, kind: message.content}]

    register_translator("ours", translate, translate)
    try:
        groups = compare(
            [chunk("a", "ours"), chunk("b", "ours"), chunk("<c", "ours"), chunk("d", "ours")]
        )
    finally:
        del PROVIDER_TRANSLATORS["ours"]
    assert [group[-1]["delta"]["type"] for group in groups[:-1]] == [
        "text-delta",
        "text-delta",
        "reasoning-delta",
        "text-delta",
    ]


def test_the_chunk_keeps_nothing_of_the_bridge() -> None:
    """The events of a chunk are not changed by those after it."""
    bridge = ChunkBridge()
    first = bridge.feed(chunk("a", additional_kwargs={"a": {"b": "c"}}, usage_metadata=DETAILED))
    seen = copy.deepcopy(first)
    bridge.feed(chunk("a", additional_kwargs={"a": {"b": "d"}}, usage_metadata=DETAILED))
    bridge.finish()
    assert first == seen


def test_a_whole_message_is_replayed() -> None:
    message = AIMessage("Hello", id="msg_1", response_metadata={"finish_reason": "stop"})
    accumulator = Accumulator()
    for event in message_to_events(message, message_id="run-1"):
        accumulator.feed(event)
    assert accumulator.message is not None
    assert accumulator.message.text == "Hello"
    assert accumulator.message.id == "run-1"
    assert accumulator.finish_reason == "stop"


def seconds_per_chunk(part: ChatGenerationChunk, count: int) -> float:
    bridge = ChunkBridge()
    begin = time.thread_time()
    for _ in range(count):
        bridge.feed(part)
    bridge.finish()
    return (time.thread_time() - begin) / count


@pytest.mark.parametrize(
    ("part", "many"),
    (
        (chunk("token "), 200_000),
        (chunk("token ", "openai"), 200_000),
        (chunk([{"type": "text", "text": "token " * 20, "index": 0}], "anthropic"), 20_000),
    ),
    ids=["plain", "of a provider", "structured"],
)
def test_cost_of_a_chunk_does_not_grow(part: ChatGenerationChunk, many: int) -> None:
    gc.disable()
    try:
        few = min(seconds_per_chunk(part, many // 100) for _ in range(10))
        most = min(seconds_per_chunk(part, many) for _ in range(3))
    finally:
        gc.enable()
    assert most / few < 3


@pytest.mark.parametrize("provider", (None, "openai", "anthropic"))
def test_plain_chunks_take_a_short_path(provider: str | None) -> None:
    part = chunk("token ", provider)

    def original_seconds(count: int) -> float:
        begin = time.thread_time()
        for _ in chunks_to_events(iter([part] * count)):
            pass
        return (time.thread_time() - begin) / count

    ours = min(seconds_per_chunk(part, 500) for _ in range(10))
    theirs = min(original_seconds(500) for _ in range(10))
    # About 0.07 and 0.15 where nothing else runs.
    assert ours / theirs < 0.4
