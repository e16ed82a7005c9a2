"""An answer on standard output, as it arrives: of a model, or of an agent's run."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Protocol, cast, final

if TYPE_CHECKING:
    from langchain_protocol.protocol import ToolCallChunk

    from langchain_anyio._graph_stream import GraphStream
    from langchain_anyio._protocol.accumulator import Delta
    from langchain_anyio._run_items import RunItem, RunItemName
    from langchain_anyio._stream import AsyncChatModelStream
    from langchain_anyio._stream_state import Channel

    from .terminal import Note

# Control characters are escaped as in Python, so that an answer cannot control the terminal.
_CONTROLS: Final = {
    code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"
}
_HALF: Final = re.compile(r"[\r\ud800-\udbff]\Z")
_PAIR: Final = re.compile(r"[\ud800-\udbff][\udc00-\udfff]")
_FRAME: Final = 1 / 25  # the shortest time in seconds between two changes of a terminal
_MAX_RESULT_LENGTH: Final = 200


class OutputError(Exception):
    """Writing to standard output failed; `__cause__` is the `OSError`."""


async def show_events(stream: AsyncChatModelStream) -> None:
    """Write the protocol events as JSON lines."""
    async for events in stream.events.batches():
        _write_lines(events)


async def show_events_of_run(run: GraphStream) -> None:
    """Write the protocol events of a graph as JSON lines."""
    async for event in run:
        _write_lines([event])


def _write_lines(events: list[Any]) -> None:
    with _output_errors():
        sys.stdout.write("".join(f"{json.dumps(event, default=_plain)}\n" for event in events))
        sys.stdout.flush()


def _plain(value: Any) -> Any:
    """Return what JSON has of a value: of a message its fields."""
    dump = getattr(value, "model_dump", None)
    return str(value) if dump is None else dump()


async def show(stream: AsyncChatModelStream) -> None:
    """Show a model's reasoning, tool calls and text."""
    with _output() as out:
        async for batch in stream.interleave().batches(out.interval):
            with _output_errors():
                for delta in _join_text(batch):
                    if delta[0] == "tool_calls":
                        out.tool_call(delta[1])
                    else:
                        out.text(delta[0], delta[0], delta[1])
        message = await stream
        for call in message.tool_calls:
            # A call without arguments has no deltas.
            if call["id"] not in out.calls:
                with _output_errors():
                    out.whole_call(call["id"], call["name"], json.dumps(call["args"]))


async def show_run(run: GraphStream) -> None:
    """Show what happens in a run: what its models write, its tools at work, and interrupts."""
    names: tuple[RunItemName, ...] = (
        *("reasoning", "text", "tool_calls"),
        *("tool_starts", "tool_results", "tool_errors", "interrupts"),
    )
    with _output() as out:
        async for batch in run.interleave(*names).batches(out.interval):
            with _output_errors():
                for pair in batch:
                    _show_item(out, pair)


def _show_item(out: _Output, pair: RunItem) -> None:
    match pair:
        case ("text" | "reasoning" as channel, written):
            out.source(_names(written.namespace), written.message)
            out.text((channel, written.message), channel, written.delta)
        case ("tool_calls", called):
            out.source(_names(called.namespace), called.message)
            out.tool_call(called.delta)
        case ("tool_starts", tool) if tool.tool_call_id not in out.calls:
            # Of a call that no message asks for.
            out.whole_call(tool.tool_call_id, tool.name, json.dumps(tool.input, default=_plain))
        case ("tool_results", result):
            out.note("result", f"{result.tool.name}: {result.text}")
        case ("tool_errors", failure):
            out.note("error", f"{failure.tool.name}: {failure.error}")
        case ("interrupts", interrupt):
            out.note("interrupt", str(interrupt.value))
        case _:
            pass


def _names(namespace: list[str]) -> str:
    """Return the names of the nodes that a namespace leads through."""
    return " / ".join(segment.partition(":")[0] for segment in namespace)


def _join_text(deltas: list[Delta]) -> Iterator[Delta]:
    """Yield the deltas in order, successive ones of the same text as one."""
    for channel, same in groupby(deltas, key=itemgetter(0)):
        if channel == "tool_calls":
            yield from same
        else:
            yield channel, "".join(cast("str", text) for _, text in same)


@contextmanager
def _output() -> Iterator[_Output]:
    """Open standard output for one answer, and end its last line."""
    out = _Output(_open_display())
    try:
        try:
            yield out
        finally:
            with _output_errors():
                out.flush()
    finally:
        with _output_errors():
            out.display.end()


@final
class _Output:
    """Passes pieces on to a display, whole characters at a time and without control characters.

    Attributes:
        display: The display.
        interval: The shortest time between two batches, in seconds. Whatever reads a pipe gets
            everything at once, a person what the eye can follow.
        calls: The ids of the tool calls that have been shown.
    """

    def __init__(self, display: _Display) -> None:
        terminal = sys.stdout.isatty()
        self.display = display
        self.interval: float = _FRAME if terminal else 0
        self.calls: set[str | None] = set()
        self._clean: Callable[[str], str] = escape_controls if terminal else str
        self._text = _Text(self._clean)
        self._shown: Hashable = None
        self._show: Callable[[str], None] = partial(display.write, "text")
        self._source: Hashable = None

    def source(self, name: str, source: Hashable) -> None:
        """Begin a paragraph if what follows is of another message than what came before."""
        if source is not self._source:
            self._begin(None, partial(self.display.write, "text"))
            self.display.begin_source(self._clean(name))
            self._source = source

    def text(self, key: Hashable, channel: Channel, piece: str) -> None:
        """Show a piece of text or reasoning."""
        self._begin(key, partial(self.display.write, channel))
        self._show(self._text.feed(piece))

    def tool_call(self, chunk: ToolCallChunk) -> None:
        """Show a piece of a tool call's arguments."""
        self.calls.add(chunk["id"])
        key = (chunk["id"], chunk.get("index"))
        self._begin(key, partial(self.display.tool_call, key, ""))
        name = self._clean(chunk["name"] or "")
        self.display.tool_call(key, name, self._text.feed(chunk["args"] or ""))

    def whole_call(self, call_id: str | None, name: str, args: str) -> None:
        """Show a tool call that has come without pieces."""
        self.flush()
        self.display.tool_call(call_id, self._clean(name), self._clean(args))

    def note(self, kind: Note, text: str) -> None:
        """Show on one line what a tool has returned, or the like."""
        self._begin(None, partial(self.display.write, "text"))
        line = " ".join(text.split())
        if len(line) > _MAX_RESULT_LENGTH:
            line = f"{line[:_MAX_RESULT_LENGTH]} …"
        self.display.note(kind, self._clean(line))
        self._source = None

    def flush(self) -> None:
        """Show what was held back, as nothing more comes of it."""
        if rest := self._text.rest():
            self._show(rest)

    def _begin(self, key: Hashable, how: Callable[[str], None]) -> None:
        if key != self._shown:
            self.flush()
            self._shown, self._show = key, how


@final
class _Text:
    """Text in pieces, whose last character may wait for the next one to say what it is.

    Args:
        clean: What is done to it all.
    """

    def __init__(self, clean: Callable[[str], str]) -> None:
        self._clean = clean
        self._held = ""

    def feed(self, piece: str) -> str:
        """Take a piece; return what is to be shown."""
        text = self._held + piece
        # It may be half of the end of a line, or of a character.
        self._held = text[-1] if _HALF.search(text) else ""
        return self._shown(text[: len(text) - len(self._held)])

    def rest(self) -> str:
        """Return what is to be shown when nothing more comes."""
        held, self._held = self._held, ""
        return self._shown(held)

    def _shown(self, text: str) -> str:
        return self._clean(_PAIR.sub(_join_pair, text))


def _join_pair(pair: re.Match[str]) -> str:
    return pair[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le")


def escape_controls(text: str) -> str:
    """Escape control characters, other than the end of a line and tabs."""
    return text.replace("\r\n", "\n").translate(_CONTROLS)


@contextmanager
def _output_errors() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise OutputError from exc


class _Display(Protocol):
    def write(self, channel: Channel, text: str) -> None: ...
    def tool_call(self, call: Hashable, name: str, args: str) -> None: ...
    def begin_source(self, name: str) -> None: ...
    def note(self, kind: Note, line: str) -> None: ...
    def end(self) -> None: ...


def _open_display() -> _Display:
    if sys.stdout.isatty():
        try:
            from .terminal import open_terminal
        except ModuleNotFoundError:  # without rich
            pass
        else:
            terminal = open_terminal()
            if terminal is not None:
                return terminal
    return _PlainDisplay()


@final
class _PlainDisplay:
    """Writes the answer's text only."""

    def __init__(self) -> None:
        self._last_character = "\n"

    def write(self, channel: Channel, text: str) -> None:
        if channel == "text" and text:
            self._last_character = text[-1]
            sys.stdout.write(text)
            sys.stdout.flush()

    def tool_call(self, call: Hashable, name: str, args: str) -> None:
        pass

    def begin_source(self, name: str) -> None:  # noqa: ARG002
        self.end()

    def note(self, kind: Note, line: str) -> None:
        pass

    def end(self) -> None:
        if self._last_character != "\n":
            self.write("text", "\n")
