"""Streams decoded here, beside the SDKs' own, over the same bytes."""

from __future__ import annotations

import importlib
import inspect
import json
import pickle
import sys
import warnings
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import anthropic
import anyio
import openai
import pytest
from anthropic._streaming import AsyncStream as AnthropicStream
from anthropic._streaming import SSEDecoder as AnthropicDecoder
from hypothesis import event as note
from hypothesis import example, given
from hypothesis import strategies as st
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from openai._streaming import SSEDecoder as OpenAIDecoder

from langchain_anyio import StreamTruncatedError, open_stream
from langchain_anyio._providers.decoding import streams, templates
from langchain_anyio._providers.decoding.anthropic_messages import Messages
from langchain_anyio._providers.decoding.events import EventDecoder
from langchain_anyio._providers.decoding.light import Light, LightDict
from langchain_anyio._providers.decoding.openai_chat import ChatCompletions
from langchain_anyio._providers.decoding.openai_responses import Responses
from langchain_anyio._providers.decoding.templates import (
    Template,
    Templates,
    UnfitError,
    copies,
)
from langchain_anyio._providers.table import for_current_loop
from langchain_anyio._providers.within_runs import models_on_this_loop
from loopback import Reply, Text, ToolCall
from loopback.formats.anthropic_messages import MESSAGES
from loopback.formats.openai_chat_completions import CHAT_COMPLETIONS
from loopback.formats.openai_responses import RESPONSES
from tally import tried
from wire_strategies import bodies, chat_chunks, message_events, response_events

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

FORMATS: dict[str, Any] = {
    "chat_completions": bodies(chat_chunks(), named=False),
    "responses": bodies(response_events(), named=True),
    "anthropic_messages": bodies(message_events(), named=True),
}


# The SDKs' newer releases use httpx.
httpx: Any = importlib.import_module(
    next(
        base.__module__.partition(".")[0]
        for base in openai.DefaultAsyncHttpxClient.__mro__
        if base.__name__ == "AsyncClient"
    )
)


class Body(httpx.AsyncByteStream):
    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part

    async def aclose(self) -> None:
        self.closed = True


class Transport(httpx.AsyncBaseTransport):
    """Answers each request with the same body."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.bodies: list[Body] = []

    async def handle_async_request(self, request: Any) -> Any:
        self.bodies.append(Body(self.parts))
        headers = {"content-type": "text/event-stream"}
        return httpx.Response(200, headers=headers, stream=self.bodies[-1], request=request)


TRANSPORT = Transport()


def model_of(name: str, **options: Any) -> Any:
    http = httpx.AsyncClient(transport=TRANSPORT)
    if name == "anthropic_messages":
        model = ChatAnthropic(model="m", api_key="unused", max_retries=0, max_tokens=9, **options)
        model.__dict__["_async_client"] = anthropic.AsyncAnthropic(
            api_key="unused", max_retries=0, http_client=http
        )
        return model
    return ChatOpenAI(
        model="m",
        api_key="unused",
        max_retries=0,
        stream_usage=True,
        http_async_client=http,
        use_responses_api=name == "responses",
        **options,
    )


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    # The two ways in which Anthropic's text becomes content.
    thinking = {"type": "enabled", "budget_tokens": 1024}
    made: dict[str, Any] = {name: [model_of(name)] for name in FORMATS}
    made["anthropic_messages"].append(model_of("anthropic_messages", thinking=thinking))
    return made


@dataclass
class Outcome:
    chunks: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    error: Any = None
    warnings: list[str] = field(default_factory=list)
    message: str = ""

    async def on_llm_new_token(self, *args: Any, **kwargs: Any) -> None:
        self.tokens.append(repr((args, kwargs)))


async def read(model: Any) -> Outcome:
    outcome = Outcome()
    whole = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            async for chunk in model._astream([HumanMessage("hi")], run_manager=outcome):
                outcome.chunks.append(repr(chunk))
                whole = chunk if whole is None else whole + chunk
        except Exception as error:
            body = getattr(error, "body", None)
            outcome.error = type(error), str(error), repr(body), repr(error.__cause__)
        outcome.message = repr(whole)
    outcome.warnings = [str(warning.message) for warning in caught]
    return outcome


# Earlier releases of Anthropic's SDK read the events of the names that they know.
READS_EVERY_NAME = "sse.event is None" in inspect.getsource(AnthropicStream.__stream__)


def is_whole(name: str, parts: list[bytes]) -> bool:
    """Whether an answer has a mark of its end, as its SDK reads it."""
    decoder: Any = AnthropicDecoder() if name == "anthropic_messages" else OpenAIDecoder()
    events = list(decoder.iter_bytes(iter(parts)))
    # The mark may be the last line, without the empty one after it.
    body = b"".join(parts)
    body = (
        body.removesuffix(b"\r\n")
        if body.endswith(b"\r\n")
        else body[: len(body) - body.endswith((b"\r", b"\n"))]
    )
    if (
        body.replace(b"\r", b"\n")
        .rpartition(b"\n")[2]
        .startswith((b"data: [DONE]", b"data:[DONE]"))
    ):
        return True
    for event in events:
        if event.data.startswith("[DONE]"):
            return True
        if name == "anthropic_messages":
            if event.event in (None, "ping") or not event.data:
                continue
            if not READS_EVERY_NAME and event.event not in ("message_delta", "message_stop"):
                continue  # no mark, or of a name that the SDK passes by unread
        elif (event.event or "").startswith("thread."):
            continue  # of another API, whose events OpenAI's SDK puts into an object
        data = json.loads(event.data)
        if not isinstance(data, dict):
            continue
        match name:
            case "chat_completions":
                choices = data["choices"] if isinstance(data.get("choices"), list) else []
                if any(isinstance(c, dict) and c.get("finish_reason") for c in choices):
                    return True
            case "responses":
                if data.get("type") in (
                    "response.completed",
                    "response.incomplete",
                    "response.failed",
                ):
                    return True
            case "anthropic_messages":
                delta = data.get("delta")
                if data.get("type") == "message_stop" or (
                    data.get("type") == "message_delta"
                    and isinstance(delta, dict)
                    and delta.get("stop_reason")
                ):
                    return True
    return False


def check(name: str, models: list[Any], parts: list[bytes]) -> None:
    TRANSPORT.parts = parts

    async def both() -> list[tuple[Outcome, Outcome]]:
        return [(await read(for_current_loop(model)), await read(model)) for model in models]

    for ours, theirs in anyio.run(both):
        assert ours.chunks == theirs.chunks
        assert ours.tokens == theirs.tokens
        assert ours.message == theirs.message
        assert ours.warnings == theirs.warnings
        if theirs.error is None and not is_whole(name, parts):
            assert ours.error is not None
            assert ours.error[0] is StreamTruncatedError
            note("truncated")
        else:
            assert ours.error == theirs.error
            note("an error" if ours.error else "whole")
    assert all(body.closed for body in TRANSPORT.bodies)
    TRANSPORT.bodies.clear()


DELTA = b'data: {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": ""}}'
STOP = b'data: {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}}'


# Under names that releases of the SDK treat differently.
UNDER_OTHER_NAMES = (
    b"event: surprise\n" + STOP + b"\n\nevent: message_delta\ndata: \n\n",
    b"event: content_block_delta\n" + DELTA + b"\nevent: surprise\n" + DELTA + b"\n\n",
)


@pytest.mark.parametrize("name", FORMATS)
def test_streams_equal_the_sdks(
    name: str, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each event is taken as a template for the next ones.
    monkeypatch.setattr(templates, "_MANY", 1)
    values_in = Template.values_in

    def counted(self: Template, *event: Any) -> Any:
        values = values_in(self, *event)
        if values is not None:
            tried(f"Decoding: an event like an earlier one, {name}")
            note("like an earlier one")
        return values

    monkeypatch.setattr(Template, "values_in", counted)

    @given(FORMATS[name])
    def beside(parts: list[bytes]) -> None:
        check(name, models[name], parts)
        tried(f"Decoding: an answer beside the SDK's own way, {name}")

    if name == "anthropic_messages":
        for body in UNDER_OTHER_NAMES:
            beside = example(parts=[body])(beside)
    beside()


# Templates alone

PATHS: dict[Any, type] = {("a",): str, ("b", 0, "c"): str, ("b", 1): int, ("d",): int}
VALUES = st.one_of(
    st.integers(-9, 99), st.text(max_size=3), st.sampled_from([None, True, 1.5, [], {}, [None]])
)
OBJECTS = st.fixed_dictionaries(
    {},
    optional={
        "a": st.text(max_size=4),
        "b": st.tuples(st.fixed_dictionaries({"c": st.text(max_size=2)}), st.integers()).map(list),
        "d": st.integers(-9, 99),
        "e": VALUES,
        "f": st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=2),
    },
)
JSON_PIECES = st.sampled_from(
    [*'"{}[]:,\\ 0123abcdex.-', "\t", "null", '"a"', '"a": "x"', "\\u0041"]
)


def at(value: Any, path: Any) -> Any:
    for key in path:
        value = value[key]
    return value


def test_an_event_like_a_template_has_its_json() -> None:
    @given(OBJECTS, st.sampled_from([None, 1]), st.data())
    def beside(event: Any, indent: int | None, data: st.DataObject) -> None:
        text = json.dumps(event, indent=indent) + data.draw(st.sampled_from(["", " "]))
        try:
            template = Template("x", text, PATHS)
        except UnfitError:
            assert not {"a", "b", "d"} & event.keys()
            return
        assert {*template.paths} == {path for path in PATHS if path[0] in event}
        assert template.values_in("x", text) == [at(event, path) for path in template.paths]
        assert template.values_in("y", text) is None
        # Another text, which may be no JSON at all.
        for _ in range(data.draw(st.integers(0, 3))):
            begin = data.draw(st.integers(0, len(text)))
            end = data.draw(st.integers(begin, min(len(text), begin + 3)))
            text = text[:begin] + data.draw(st.one_of(st.just(""), JSON_PIECES)) + text[end:]
        values = template.values_in("x", text)
        if values is None:
            return
        other = json.loads(text)
        assert [at(other, path) for path in template.paths] == values
        assert copies(event, template.paths)(values) == other
        assert repr(copies(event, template.paths)(values)) == repr(other)
        note("like it" if other != event else "the same")
        tried("Decoding: a text like a template's")

    beside()


@pytest.mark.parametrize("text", ('{"a": "x", "a": "y"}', '{"f": {"a": 1, "a": 2}, "a": "x"}'))
def test_an_object_with_a_key_twice_is_no_template(text: str) -> None:
    with pytest.raises(UnfitError):
        Template(None, text, PATHS)


def test_copies_share_nothing() -> None:
    event = {"a": "x", "b": [{"c": "y"}, 1], "e": {"f": []}}
    copy = copies(event, [("a",), ("b", 0, "c")])
    one, two = copy(["1", "2"]), copy(["3", "4"])
    assert one == {"a": "1", "b": [{"c": "2"}, 1], "e": {"f": []}}
    assert two["b"] == [{"c": "4"}, 1]
    one["e"]["f"].append(1)
    one["b"][0]["c"] = "z"
    assert copy(["x", "y"]) == event == {"a": "x", "b": [{"c": "y"}, 1], "e": {"f": []}}


def test_servers_whose_events_are_never_alike_make_few_templates() -> None:
    built: list[Any] = []

    def builder(light: Any, paths: Any) -> Any:
        built.append(light)
        return lambda values, make: values

    ours = Templates({("a",): str}, builder)
    for number in range(1000):
        text = json.dumps({"a": "x", "id": number})
        event = ours.parse(None, text, dict)
        assert event == json.loads(text)
        ours.note(event, number)
    assert len(built) < 10
    # Two kinds in turn have a template each.
    ours = Templates({("a",): str}, builder)
    like = 0
    for number in range(1000):
        text = json.dumps({"a": f"{number}", "id": number % 2})
        event = ours.parse(None, text, dict)
        if isinstance(event, list):
            assert event == [f"{number}"]
            like += 1
        else:
            ours.note(event, number)
    assert like > 980


# The decoder alone

PIECES = st.sampled_from(
    [
        *(b"data: {}", b"data: {", b"}", b"data:", b"data", b" ", b"event: x", b"event:", b"event"),
        *(b": comment", b"id: 1", b"id: \x00", b"retry: 1", b"retry: x", b"x", b"\xff", b"\xc3"),
        *(b"\xa9", b"\xef\xbb\xbf", b"\x85", b"\xe2\x80\xa8", b"\x0b", b"\x0c", b"\x1c"),
        *([b"\n", b"\n\n", b"\r\n", b"\r\n\r\n", b"\r"] * 3),
    ]
)


@pytest.mark.parametrize("sdk", (OpenAIDecoder, AnthropicDecoder))
def test_events_equal_the_sdks(sdk: Callable[[], Any]) -> None:
    async def events_of(decoder: Any, parts: list[bytes]) -> Any:
        async def body() -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        events: list[Any] = []
        try:
            async for event in decoder.aiter_bytes(body()):
                events.append((event.event, event.data))
        except UnicodeDecodeError as error:
            events.append(str(error))
        return events

    def run(decoder: Any, parts: list[bytes]) -> Any:
        # Nothing here waits.
        coroutine = events_of(decoder, parts)
        with pytest.raises(StopIteration) as stopped:
            coroutine.send(None)
        return stopped.value.value

    @given(st.lists(st.lists(PIECES, max_size=4).map(b"".join), max_size=12))
    def beside(parts: list[bytes]) -> None:
        ends: list[bool] = []
        ours = run(EventDecoder(sdk(), ends.append, lambda _, text: json.loads(text)), parts)
        assert ours == run(sdk(), parts)
        assert ends == ([] if ours and isinstance(ours[-1], str) else [False])
        tried("Decoding: server-sent events beside the SDKs' decoders")

    beside()


# Which streams are decoded

CHUNK = {
    "id": "c_1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}],
}
TEXT_DELTA = {
    "type": "response.output_text.delta",
    "content_index": 0,
    "delta": "x",
    "item_id": "i_0",
    "logprobs": [],
    "output_index": 0,
    "sequence_number": 1,
}
BLOCK_DELTA = {
    "type": "content_block_delta",
    "index": 0,
    "delta": {"type": "text_delta", "text": "x"},
}
DELTAS = {
    "chat_completions": CHUNK,
    "responses": TEXT_DELTA,
    "anthropic_messages": BLOCK_DELTA,
}
ENDS: dict[str, Any] = {
    "chat_completions": {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    "responses": {
        "type": "response.completed",
        "response": {
            "id": "r",
            "created_at": 1,
            "model": "m",
            "object": "response",
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        },
        "sequence_number": 2,
    },
    "anthropic_messages": {"type": "message_stop"},
}
REQUEST: dict[str, Any] = {"model": "m", "stream": True}
PROMPT: list[Any] = [{"role": "user", "content": "hi"}]


def resource_of(name: str, client: Any) -> tuple[Any, dict[str, Any]]:
    match name:
        case "chat_completions":
            return client.chat.completions, {**REQUEST, "messages": PROMPT}
        case "responses":
            return client.responses, {**REQUEST, "input": PROMPT}
        case _:
            return client.messages, {**REQUEST, "messages": PROMPT, "max_tokens": 9}


def client_of(name: str, **options: Any) -> Any:
    package = anthropic if name == "anthropic_messages" else openai
    kind = options.pop("kind", None)
    cls = (
        (package.AsyncAnthropic if package is anthropic else package.AsyncOpenAI)
        if kind is None
        else kind
    )
    http = httpx.AsyncClient(transport=TRANSPORT)
    return cls(api_key="unused", max_retries=0, http_client=http, **options)


def framed(name: str, *events: Any) -> bytes:
    begin = b"" if name == "chat_completions" else b"event: "
    frames = []
    for event in events:
        line = begin + event["type"].encode() + b"\n" if begin else b""
        frames.append(line + b"data: " + json.dumps(event).encode() + b"\n\n")
    return b"".join(frames)


async def opened(name: str, client: Any) -> Any:
    TRANSPORT.parts = [framed(name, DELTAS[name]), framed(name, ENDS[name])]
    resource, request = resource_of(name, client)
    return await resource.create(**request)


def is_ours(item: Any) -> bool:
    return isinstance(item, Light) or type(item) is LightDict


formats = pytest.mark.parametrize("name", FORMATS)


@formats
@pytest.mark.anyio
async def test_a_stream_of_a_known_client_is_decoded_here(name: str) -> None:
    stream = streams.decoded(await opened(name, client_of(name)))
    item, _ = [item async for item in stream]
    model, _ = [item async for item in await opened(name, client_of(name))]
    assert is_ours(item)
    assert item.model_dump() == model.model_dump()
    assert item.model_dump(exclude_unset=True) == model.model_dump(exclude_unset=True)
    assert item.to_json() == model.to_json()
    assert not hasattr(item, "surprise")
    if name == "chat_completions":
        assert item == model.model_dump()
        assert item.choices[0].delta.content == "x"
        assert type(pickle.loads(pickle.dumps(item))) is dict
    else:
        assert isinstance(item, type(model))
        assert item == model
        assert model == item
        assert repr(item) == repr(model)
        assert item.type == model.type
        assert pickle.loads(pickle.dumps(item)) == model
    if name == "anthropic_messages":
        assert isinstance(item.delta, anthropic.types.TextDelta)
        assert item.delta.model_dump() == {"type": "text_delta", "text": "x"}
        assert item.delta == model.delta


def traced(stream: Any) -> Any:
    """As tracers do: replaces the stream's iterator."""
    inner = stream._iterator

    async def observed() -> AsyncIterator[Any]:
        async for item in inner:
            yield item

    stream._iterator = observed()
    return stream


class ProcessingOpenAI(openai.AsyncOpenAI):
    def _process_response_data(self, **options: Any) -> Any:
        return super()._process_response_data(**options)


class ProcessingAnthropic(anthropic.AsyncAnthropic):
    def _process_response_data(self, **options: Any) -> Any:
        return super()._process_response_data(**options)


async def stream_of(name: str, how: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    package = anthropic if name == "anthropic_messages" else openai
    streaming = sys.modules[f"{package.__name__}._streaming"]
    options: dict[str, Any] = {}
    if how == "a client's subclass":
        options["kind"] = ProcessingAnthropic if package is anthropic else ProcessingOpenAI
    if how == "strict":
        options["_strict_response_validation"] = True
    client = client_of(name, **options)
    if how == "a client's method":
        client._process_response_data = partial(client._process_response_data)
    if how == "the decoder":

        class Decoder(streaming.SSEDecoder):
            pass

        client._make_sse_decoder = Decoder
    if how == "the stream's method":
        original = streaming.AsyncStream.__anext__

        async def step(self: Any) -> Any:
            return await original(self)

        monkeypatch.setattr(streaming.AsyncStream, "__anext__", step)
    stream = await opened(name, client)
    if how == "the iterator":
        traced(stream)
    if how == "the stream's class":
        stream.__class__ = type("Traced", (type(stream),), {})
    if how == "the switch":
        monkeypatch.setenv(streams.SWITCH, "1")
    if how == "other models":
        monkeypatch.setattr(streams, "_formats", {})
        for format in (ChatCompletions, Responses, Messages):
            monkeypatch.setattr(format, "is_equal", lambda *args: False)
    return stream


@formats
@pytest.mark.parametrize(
    "how",
    (
        "a client's subclass",
        "a client's method",
        "strict",
        "the decoder",
        "the iterator",
        "the stream's class",
        "the stream's method",
        "the switch",
        "other models",
    ),
)
@pytest.mark.anyio
async def test_a_stream_of_an_unknown_client_keeps_its_models(
    name: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = await stream_of(name, how, monkeypatch)
    before = stream._decoder, stream._client
    assert streams.decoded(stream) is stream
    sees_the_end = how == "other models"
    assert ((stream._decoder, stream._client) != before) == sees_the_end
    item, _ = [item async for item in stream]
    assert not is_ours(item)


@formats
@pytest.mark.anyio
async def test_the_end_is_seen_without_decoding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = await stream_of(name, "other models", monkeypatch)
    TRANSPORT.bodies[-1]._parts = TRANSPORT.parts[:1]
    items = aiter(streams.decoded(stream))
    assert not is_ours(await anext(items))
    with pytest.raises(StreamTruncatedError):
        await anext(items)
    assert TRANSPORT.bodies[-1].closed


@pytest.mark.anyio
async def test_raw_responses_keep_the_sdks_models() -> None:
    model = model_of("chat_completions", include_response_headers=True)
    client = for_current_loop(model).root_async_client
    TRANSPORT.parts = [framed("chat_completions", CHUNK, ENDS["chat_completions"])]
    raw = await client.chat.completions.with_raw_response.create(**REQUEST, messages=PROMPT)
    assert raw.headers["content-type"] == "text/event-stream"
    item, _ = [item async for item in raw.parse()]
    assert not is_ours(item)


@pytest.mark.anyio
async def test_a_stream_with_a_response_format_is_seen_to_end() -> None:
    model = model_of("chat_completions")
    view = for_current_loop(model)
    TRANSPORT.parts = [framed("chat_completions", CHUNK)]
    options: dict[str, Any] = {"response_format": {"type": "json_object"}}
    with pytest.raises(StreamTruncatedError):
        [chunk async for chunk in view._astream([HumanMessage("hi")], **options)]


@pytest.fixture
def decoded_items(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the formats returned for each event."""
    items: list[Any] = []
    for format in (ChatCompletions, Responses, Messages):

        def decode(self: Any, data: Any, make: Any, original: Any = format.decode) -> Any:
            item = original(self, data, make)
            items.append(item)
            return item

        monkeypatch.setattr(format, "decode", decode)
    return items


@formats
@pytest.mark.anyio
async def test_open_stream_decodes_here(name: str, decoded_items: list[Any]) -> None:
    TRANSPORT.parts = [framed(name, DELTAS[name], DELTAS[name], ENDS[name])]
    async with open_stream(model_of(name), "hi") as stream:
        assert (await stream).text == "xx"
    # Before them come samples, if the format is used for the first time in this process.
    assert [is_ours(item) for item in decoded_items[-3:]] == [True, True, False]


@formats
def test_models_within_a_run_decode_here(name: str, decoded_items: list[Any]) -> None:
    TRANSPORT.parts = [framed(name, DELTAS[name], DELTAS[name], ENDS[name])]
    model = model_of(name)

    async def run() -> str:
        with models_on_this_loop():
            return "".join([chunk.text async for chunk in model.astream("hi")])

    assert anyio.run(run) == "xx"
    # Before them come samples, if the format is used for the first time in this process.
    assert [is_ours(item) for item in decoded_items[-3:]] == [True, True, False]


REPLY = Reply(Text("Hello", "."), ToolCall("f", '{"a"', ': "bc', '"}', call_id="call_1"))
WIRE: dict[str, Any] = {
    "chat_completions": (CHAT_COMPLETIONS, b'"finish_reason": "tool_calls"', b"data: [DONE]\n\n"),
    "responses": (RESPONSES, b'"type": "response.completed"', b""),
    "anthropic_messages": (MESSAGES, b'"stop_reason": "tool_use"', b""),
}


@formats
@pytest.mark.slow
@pytest.mark.anyio
async def test_an_answer_cut_at_every_byte_is_not_whole(name: str) -> None:
    wire, finish, mark = WIRE[name]
    body = framed(name, *wire.stream(REPLY, {"model": "m", "stream_options": None})) + mark
    end = body.index(b"\n\n", body.index(finish)) + 2
    model = model_of(name)
    options = {"tools": [{"name": "f", "input_schema": {}}]} if wire is MESSAGES else {}
    for cut in range(len(body) + 1):
        TRANSPORT.parts = [body[:cut]]
        async with open_stream(model, "hi", **options) as stream:
            if cut >= end:
                message = await stream
                assert [call["args"] for call in message.tool_calls] == [{"a": "bc"}]
                assert "partial" not in message.response_metadata
            else:
                with pytest.raises(StreamTruncatedError):
                    await stream
                assert stream.snapshot().response_metadata["partial"] is True
                assert stream.snapshot().tool_calls == []
        assert all(part.closed for part in TRANSPORT.bodies)
        TRANSPORT.bodies.clear()
    tried(f"Decoding: an answer cut at a byte where HTTP sees its end, {name}", len(body) + 1)
