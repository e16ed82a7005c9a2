"""Providers' streams cut after each byte, split at each byte, and with wrong things in them, over real sockets.

What the loopback server answers is recorded and then served by a server that knows bytes alone.
"""

from __future__ import annotations

import functools
import itertools
import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anthropic
import anyio
import openai
import pytest
from langchain_core.callbacks import AsyncCallbackHandler

from langchain_anyio import StreamStalledError, StreamTruncatedError, open_stream
from limits import HANGS
from loopback import ProviderServer, Reply, Scenario, Text, ToolCall
from loopback._raw import RawServer, Script, raw_server, transcript
from loopback.models import (
    anthropic_messages,
    chat_completions,
    described,
    responses,
    sdk_client,
)
from tally import tried
from test_accumulator import newest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytest_plugins = ["loopback.fixtures"]
pytestmark = [pytest.mark.slow, pytest.mark.anyio]

SLICES = ("Hello", ", ", "world", ".")
ARGS = {"a": "bc"}
REPLY = Reply(Text(*SLICES), ToolCall("f", '{"a"', ': "bc', '"}', call_id="call_1"))
# At a time: enough for one to run while others wait, few enough for the loop's other tasks.
TOGETHER = 16
AT_A_TIME = 256


@dataclass(frozen=True, eq=False)
class Provider:
    make: Callable[..., Any]
    path: str
    # What its errors have in common; those of a broken connection may be the HTTP client's own.
    error: type[Exception]
    # In the event with which the model says why it stops.
    finish: bytes
    # What goes with the model's answer in a request, for the recording.
    options: dict[str, Any]

    def __str__(self) -> str:
        return self.make.__name__


PROVIDERS = (
    Provider(
        chat_completions,
        "/v1/chat/completions",
        openai.OpenAIError,
        b'"finish_reason": "tool_calls"',
        {"stream_options": {"include_usage": True}},
    ),
    Provider(responses, "/v1/responses", openai.OpenAIError, b'"type": "response.completed"', {}),
    Provider(
        anthropic_messages,
        "/v1/messages",
        anthropic.AnthropicError,
        b'"stop_reason": "tool_use"',
        {},
    ),
)

providers = pytest.mark.parametrize("provider", PROVIDERS, ids=str)
# How many cases to leave out before each that is tried: a prime number less one.
steps = pytest.mark.parametrize(
    "step", (pytest.param(61, id="some"), pytest.param(1, marks=pytest.mark.long, id="all"))
)


@pytest.fixture(scope="module")
def raw(no_certificates: None) -> Iterator[RawServer]:
    with raw_server() as server:
        yield server


@functools.cache
def recorded(server: ProviderServer, provider: Provider, version: str = "1.1") -> Recording:
    url = server.serve(Scenario(REPLY)).anthropic_url + provider.path
    body = {"model": "recorded", "messages": [], "stream": True, **provider.options}
    return Recording(transcript(server, url, body, version), provider)


class Recording:
    """An answer as it stood on the wire.

    Its text is over at `text`, and it has a reason for its end at `finish`.
    """

    def __init__(self, data: bytes, provider: Provider) -> None:
        self.data = data
        self.provider = provider
        self.body = data.index(b"\r\n\r\n") + 4
        self.finish = self._end_of(provider.finish)
        self._slices: list[tuple[int, str]] = []
        at = self.body
        for text in SLICES:
            needle = b'"' + text.encode() + b'"'
            at = self._end_of(needle, at)
            self._slices.append((at, text))
        self.text = at

    def _end_of(self, needle: bytes, start: int = 0) -> int:
        """Where the first event that holds a text is over."""
        return self.data.index(b"\n\n", self.data.index(needle, start)) + 2

    def deltas(self, cut: int) -> list[str]:
        """The slices of text in the events that are whole before the cut."""
        return [text for end, text in self._slices if end <= cut]


@dataclass
class Outcome:
    deltas: list[str]
    error: Exception | None
    message: Any
    finish_reason: str | None
    snapshot: Any
    # How handlers were told of the end.
    ends: list[BaseException | None]


class Ends(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.ends: list[BaseException | None] = []

    async def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append(None)

    async def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.ends.append(error)


async def read(model: Any, name: str, **options: Any) -> Outcome:
    deltas: list[str] = []
    error = message = None
    ends = Ends()
    config: Any = {"callbacks": [ends]}
    async with open_stream(model.bind(model=name), "Tell me.", config, **options) as stream:
        try:
            async for delta in stream.text:
                deltas.append(delta)
            message = await stream
        except Exception as exc:
            error = exc
            for projection in (stream.reasoning, stream.tool_calls, stream.output, stream.usage):
                with pytest.raises(type(exc)):
                    await projection
    return Outcome(deltas, error, message, stream.finish_reason, stream.snapshot(), ends.ends)


async def read_all(
    raw: RawServer,
    provider: Provider,
    scripts: dict[str, Script],
    **options: Any,
) -> dict[str, Outcome]:
    """Read what each script gives, many at a time, and leave no connection open."""
    model = provider.make(raw)
    raw.scripts.update(scripts)
    limit = anyio.CapacityLimiter(TOGETHER)
    answered = raw.answered
    outcomes: dict[str, Outcome] = {}

    async def one(name: str) -> None:
        async with limit:
            with anyio.fail_after(HANGS):
                outcomes[name] = await read(model, name, **options)

    async with anyio.create_task_group() as group:
        for name in scripts:
            group.start_soon(one, name)
    assert raw.answered == answered + len(scripts)
    assert await anyio.to_thread.run_sync(raw.wait_all_closed)
    for name in scripts:
        del raw.scripts[name]
    return outcomes


async def read_each(
    raw: RawServer, provider: Provider, scripts: dict[str, Script]
) -> AsyncIterator[tuple[str, Outcome]]:
    """Read what each script gives, as `read_all` does, and keep no more than some outcomes at a time.

    One holds an error, which holds the frames of all that it came through. Thousands make the collector stop everything
    for seconds.
    """
    left = list(scripts)
    while left:
        batch, left = left[:AT_A_TIME], left[AT_A_TIME:]
        outcomes = await read_all(raw, provider, {name: scripts[name] for name in batch})
        while outcomes:
            yield outcomes.popitem()


def is_of(provider: Provider, error: Exception) -> bool:
    """Whether an error is the provider's, or the one of its HTTP client, of which it says no more."""
    return isinstance(error, provider.error) or type(error).__module__.startswith("httpx")


CUTS = {
    "a reset": ("1.1", "reset"),
    "an end that HTTP takes for one": ("1.0", "end"),
    "an end that it does not": ("1.1", "end"),
    "a last chunk of HTTP": ("1.0", "chunk"),
}


def cut_script(recording: Recording, at: int, end: str) -> Script:
    """The recorded answer, cut after a byte."""
    data = recording.data[:at]
    if end != "chunk":
        return Script([data], end=end)  # type: ignore[arg-type]
    # As by a proxy whose own server has gone: the body in one chunk, and the one that ends it.
    head, body = recording.data[: recording.body - 4], data[recording.body :]
    head = head.replace(b"HTTP/1.0", b"HTTP/1.1") + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return Script([head + chunk + b"0\r\n\r\n"])


@providers
@steps
@pytest.mark.parametrize("cut", CUTS)
async def test_cut_after_a_byte(
    provider: Provider, step: int, cut: str, server: ProviderServer, raw: RawServer
) -> None:
    version, end = CUTS[cut]
    recording = recorded(server, provider, version)
    data = recording.data
    begin = recording.body if end == "chunk" else 0
    scripts = {str(at): cut_script(recording, at, end) for at in range(begin, len(data), step)}

    async for name, outcome in read_each(raw, provider, scripts):
        at = int(name)
        where = f"{at}: {data[max(0, at - 60) : at]!r} {outcome}"
        came = recording.deltas(at)
        whole = at >= recording.finish
        if end == "reset":
            # It may overtake what was sent before it.
            assert outcome.deltas == came[: len(outcome.deltas)], where
        else:
            assert outcome.deltas == came, where
        assert outcome.ends == [outcome.error], where
        if outcome.error is None:
            assert whole, where
            assert outcome.finish_reason is not None, where
            assert "partial" not in outcome.message.response_metadata, where
            assert [call["args"] for call in outcome.message.tool_calls] == [ARGS], where
        else:
            if version == "1.0" and at >= recording.body:
                # What the provider's client takes for an end.
                assert type(outcome.error) is StreamTruncatedError, where
                assert not whole, where
            else:
                assert is_of(provider, outcome.error), where
            assert outcome.snapshot.response_metadata["partial"] is True, where
            assert outcome.snapshot.tool_calls == [], where
            assert outcome.message is None, where
    tried(f"Wire faults: a stream cut after a byte by {cut}", len(scripts))


@providers
@steps
async def test_split_at_a_byte(
    provider: Provider, step: int, server: ProviderServer, raw: RawServer
) -> None:
    data = recorded(server, provider).data
    scripts = {
        str(at): Script([data[:at], data[at:]], pause=0.001) for at in range(1, len(data), step)
    }
    for pieces in (1, 2, 3, 1000):
        parts = [data[at : at + pieces] for at in range(0, len(data), pieces)]
        scripts[f"each {pieces}"] = Script(parts)
    async for name, outcome in read_each(raw, provider, scripts):
        assert outcome.error is None, f"{name}: {outcome}"
        assert outcome.deltas == [*SLICES], f"{name}: {outcome}"
        assert [call["args"] for call in outcome.message.tool_calls] == [ARGS], name
        assert outcome.finish_reason in {"tool_calls", "tool_use", "completed"}, name
        assert "partial" not in outcome.snapshot.response_metadata
    tried("Wire faults: a stream that comes in two parts, split at a byte", len(scripts))


# What is wrong with the events, beside the original


def spoilt(recording: Recording) -> Iterator[tuple[str, bytes]]:
    """The recorded stream with one thing wrong in it, each way there is, by what it is."""
    head = recording.data[: recording.body]
    frames = recording.data[recording.body :].split(b"\n\n")[:-1]

    def answer(*frames: bytes) -> bytes:
        return head + b"".join(frame + b"\n\n" for frame in frames)

    for number, frame in enumerate(frames):
        before, after = frames[:number], frames[number + 1 :]
        name, _, text = frame.rpartition(b"data: ")
        for what, wrong in (
            ("half of it", text[: len(text) // 2]),
            ("no JSON", b"{'a': 1}"),
            ("no object", b"17"),
            ("nothing", b""),
            ("null", b"null"),
            ("a list", b"[" + text + b"]"),
            ("twice", text + text),
            ("not UTF-8", text.replace(b'": "', b'": "\xff\xfe', 1)),
            ("half a character", text.replace(b'": "', b'": "\\ud83d', 1)),
            ("deep", b'{"a":' * 5000 + b"1" + b"}" * 5000),
        ):
            yield f"frame {number}: {what}", answer(*before, name + b"data: " + wrong, *after)
        surprise = b'event: surprise\ndata: {"type": "surprise", "object": "surprise"}'
        for what, wrong_frames in (
            ("missing", []),
            ("doubled", [frame, frame]),
            ("after an unknown event", [surprise, frame]),
            ("after a comment", [b": comment", frame]),
            ("after an event without data", [b"event: nothing", frame]),
            ("after an unknown field", [b"surprise: 1\n" + frame]),
            ("after an unknown type", [name + b'data: {"type": "surprise"}', frame]),
            ("before the one before", [frame, *before[-1:]]),
            ("after an error", [*error_event(name != b""), frame]),
        ):
            begin = before[:-1] if what == "before the one before" else before
            yield f"frame {number}: {what}", answer(*begin, *wrong_frames, *after)
        if text.startswith(b"{"):
            for path, value in spoilt_values(json.loads(text)):
                wrong = name + b"data: " + json.dumps(value).encode()
                yield f"frame {number}: {path}", answer(*before, wrong, *after)


def error_event(named: bool) -> list[bytes]:
    error = {"type": "overloaded_error", "message": "Overloaded", "code": "x", "param": None}
    data = (
        b"data: " + json.dumps({"type": "error", "error": error, "message": "Overloaded"}).encode()
    )
    return [b"event: error\n" + data if named else data]


def spoilt_values(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """A value of JSON with one thing in it of another type, or missing."""
    for wrong in (None, True, -1, "x", [], {}, [None], {"x": None}):
        if type(wrong) is not type(value) and path:
            yield f"{path} = {wrong!r}", wrong
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"{path}.{key} missing", {k: v for k, v in value.items() if k != key}
            for where, wrong in spoilt_values(item, f"{path}.{key}"):
                yield where, {**value, key: wrong}
    elif isinstance(value, list):
        for index, item in enumerate(value):
            for where, wrong in spoilt_values(item, f"{path}[{index}]"):
                yield where, [*value[:index], wrong, *value[index + 1 :]]


def shown(deltas: list[str], error: Exception | None, message: Any) -> Any:
    dumped = message and {k: v for k, v in message.model_dump().items() if k != "id"}
    return deltas, error and described(error), dumped


@functools.cache
def as_the_original(provider: Provider, step: int, raw: RawServer, recording: Recording) -> Any:
    """What langchain-core shows of each spoilt stream, on asyncio, with a client that is closed after."""
    scripts = {
        name: Script([data])
        for number, (name, data) in enumerate(spoilt(recording))
        if not number % step
    }
    raw.scripts.update(scripts)
    shows: dict[str, Any] = {}

    async def one(model: Any, limit: anyio.CapacityLimiter, name: str) -> None:
        deltas: list[str] = []
        error = message = None
        async with limit:
            stream = await model.astream_events("Tell me.", version="v3", model=name)
            try:
                async for delta in stream.text:
                    deltas.append(delta)
                message = await stream.output
            except Exception as exc:
                error = exc
            shows[name] = shown(deltas, error, message)

    async def run() -> None:
        # It keeps its HTTP client for good, so none but these may use the same address.
        path = f"{provider}-{step}"
        endpoint = SimpleNamespace(
            openai_url=f"{raw.openai_url}/{path}", anthropic_url=f"{raw.anthropic_url}/{path}"
        )
        model, limit = provider.make(endpoint), anyio.CapacityLimiter(TOGETHER)
        try:
            async with anyio.create_task_group() as group:
                for name in scripts:
                    group.start_soon(one, model, limit, name)
        finally:
            await sdk_client(model).close()

    anyio.run(run)
    return scripts, shows


@newest
@providers
@steps
@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
async def test_spoilt_events_show_what_the_original_shows(
    provider: Provider, step: int, server: ProviderServer, raw: RawServer
) -> None:
    recording = recorded(server, provider, "1.0")
    scripts, expected = await anyio.to_thread.run_sync(
        as_the_original, provider, step, raw, recording
    )
    outcomes = await read_all(raw, provider, scripts)
    for name, outcome in outcomes.items():
        if type(outcome.error) is StreamTruncatedError:
            deltas, error, message = expected[name]
            assert outcome.deltas == deltas, name
            assert error is None or error[1] == "No generation chunks were returned", name
            reasons = ("finish_reason", "stop_reason", "status")
            assert not any((message or {}).get("response_metadata", {}).get(r) for r in reasons)
        else:
            assert shown(outcome.deltas, outcome.error, outcome.message) == expected[name], name
        if outcome.error is not None:
            assert outcome.snapshot.response_metadata["partial"] is True
    assert any(outcome.error for outcome in outcomes.values())
    tried("Wire faults: an event spoilt (JSON, types, order, unknown, error)", len(scripts))


# What does not end, or is too long


def with_text(recording: Recording, text: bytes) -> bytes:
    """The recorded event with the second slice of text, with another text in it."""
    frames = recording.data[recording.body :].split(b"\n\n")
    [frame] = [f for f in frames if b'": ", "' in f and b"item" not in f.partition(b"data: ")[0]]
    return frame.replace(b'": ", "', b'": "' + text + b'"') + b"\n\n"


@providers
@pytest.mark.parametrize("size", (1 << 20, pytest.param(1 << 25, marks=pytest.mark.long)))
async def test_a_huge_line(
    provider: Provider, size: int, server: ProviderServer, raw: RawServer
) -> None:
    recording = recorded(server, provider, "1.0")
    small, huge = with_text(recording, b", "), with_text(recording, b"a" * size)
    script = Script([recording.data.replace(small, huge)])
    outcomes = await read_all(raw, provider, {"huge": script})
    assert outcomes["huge"].error is None
    assert outcomes["huge"].deltas == ["Hello", "a" * size, "world", "."]
    tried("Wire faults: a line of a megabyte or more")


SILENCES: dict[str, Callable[[Recording], Script]] = {
    "before the answer": lambda recording: Script([], end="hold"),
    "in the header": lambda recording: Script([recording.data[:40]], end="hold"),
    "before the first event": lambda recording: Script(
        [recording.data[: recording.body]], end="hold"
    ),
    "in the text": lambda recording: Script([recording.data[: recording.text]], end="hold"),
    "in an event": lambda recording: Script([recording.data[: recording.text + 30]], end="hold"),
    "with comments": lambda recording: endless(recording, b": comment\n\n"),
    "with pings": lambda recording: endless(
        recording, b'event: ping\ndata: {"type": "ping"}\n\n', {"anthropic_messages"}
    ),
    "with empty lines": lambda recording: endless(recording, b"\n"),
    "in a line without end": lambda recording: endless(recording, b"x" * 1000),
}


def endless(recording: Recording, part: bytes, of: set[str] | None = None) -> Script:
    """The recorded stream to the end of its text, then the same part again and again."""
    if of is not None and str(recording.provider) not in of:
        part = b": comment\n\n"
    start = recording.data[: recording.text]
    return Script(itertools.chain([start], itertools.repeat(part)), pause=0.001)


@providers
async def test_endless_silence(provider: Provider, server: ProviderServer, raw: RawServer) -> None:
    recording = recorded(server, provider, "1.0")
    scripts = {name: script(recording) for name, script in SILENCES.items()}
    outcomes = await read_all(raw, provider, scripts, chunk_timeout=4)
    for name, outcome in outcomes.items():
        assert type(outcome.error) is StreamStalledError, name
        # On a busy machine the silence may seem to begin earlier.
        assert outcome.deltas == [*SLICES][: len(outcome.deltas)], name
        assert outcome.snapshot.response_metadata["partial"] is True, name
    tried("Wire faults: endless silence, with chunk_timeout", len(scripts))


@providers
@pytest.mark.parametrize("replay", (True, False))
async def test_endless_data(
    provider: Provider, replay: bool, server: ProviderServer, raw: RawServer
) -> None:
    """A model that never ends is held back while nobody reads, and stopped when its reader leaves."""
    recording = recorded(server, provider, "1.0")
    frame = with_text(recording, b"more")
    start = recording.data[: recording.text]
    raw.scripts["endless"] = Script(itertools.chain([start], itertools.repeat(frame * 100)))
    model = provider.make(raw).bind(model="endless")
    with anyio.fail_after(HANGS):
        async with open_stream(model, "Tell me.", max_buffer_size=16, replay=replay) as stream:
            deltas = aiter(stream.text)
            for text in SLICES:
                assert await anext(deltas) == text
            # What the buffers of the sockets hold is much, but not endless.
            written = -1
            while written != raw.written:
                written = raw.written
                await anyio.sleep(0.2)
            assert len(stream.snapshot().text) < len("more") * 100
            for _ in range(2000):
                assert await anext(deltas) == "more"
    assert await anyio.to_thread.run_sync(raw.wait_all_closed)
    assert stream.snapshot().response_metadata["partial"] is True
    tried("Wire faults: endless data, held back while nobody reads")
