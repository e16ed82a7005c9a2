"""Reasoning, tool calls and text on a terminal as they arrive, by rich."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, final

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.control import Control
from rich.segment import ControlType, Segment, Segments
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Hashable

    from langchain_anyio._stream_state import Channel

Note = Literal["result", "error", "interrupt"]

_NOTES: Final[dict[Note, tuple[str, str]]] = {
    "result": ("←", "cyan"),
    "error": ("✗", "red"),
    "interrupt": ("⏸", "bold yellow"),
}
_STYLES: Final = {"reasoning": "dim italic", "tool_calls": "cyan", "text": ""}
# Lines may break before these characters: kana, ideographs and syllables, but no punctuation.
_IDEOGRAPHS: Final = "\u3040-\ua4cf\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003fffd"
_PIECES: Final = re.compile(rf"\n|[^\S\n]+|[{_IDEOGRAPHS}]|[^\s{_IDEOGRAPHS}]+")
_TAB: Final = " " * 4


@final
class Terminal:
    """Writes text immediately and breaks lines between words.

    A word may move to the next line while it grows.
    """

    __slots__ = ("_call", "_channel", "_console", "_newlines", "_row", "_shown", "_word")

    def __init__(self, console: Console) -> None:
        self._console = console
        self._channel: Channel | None = None
        self._call: Hashable = None
        # The cursor's line, the position of its last word, and the length that is on the screen.
        self._row = Text()
        self._word = 0
        self._shown = 0
        # Number of newlines just before the cursor.
        self._newlines = 2

    def write(self, channel: Channel, text: str) -> None:
        """Append to the text or the reasoning; a blank line separates them."""
        if channel != self._channel:
            text = text.lstrip("\n")
            if not text:
                return
            self._end_lines(2)
            self._channel = channel
        self._put(text, _STYLES[channel])

    def tool_call(self, call: Hashable, name: str, args: str) -> None:
        """Append to a tool call's arguments, on a line of its own."""
        if self._channel != "tool_calls":
            self._end_lines(2)
            self._channel = "tool_calls"
            self._call = None
        if call != self._call:
            self._end_lines(1)
            self._call = call
            self._put(f"→ {name} ", "bold cyan")
        self._put(args, _STYLES["tool_calls"])

    def begin_source(self, name: str) -> None:
        """Begin a paragraph of another message, with the name of the subgraph that it is of."""
        self._channel = None
        if name:
            self._end_lines(2)
            self._put(f"{name}\n", "dim")

    def note(self, kind: Note, line: str) -> None:
        """Write what a tool has returned, its error or an interrupt, on a line of its own."""
        self._end_lines(1 if self._channel == "tool_calls" else 2)
        sign, style = _NOTES[kind]
        self._put(f"{sign} ", f"bold {style}")
        self._put(line, style)
        self._channel, self._call = "tool_calls", None

    def end(self) -> None:
        """Move the cursor to the beginning of a line."""
        self._end_lines(1)

    def _end_lines(self, count: int) -> None:
        self._put("\n" * (count - self._newlines), "")

    def _put(self, text: str, style: str) -> None:
        if not text:
            return
        width = max(self._console.width, 2)
        out: list[Segment] = []
        for piece in _PIECES.findall(text.replace("\t", _TAB)):
            if piece == "\n":
                self._break_line(len(self._row), out)
                self._newlines += 1
                continue
            self._newlines = 0
            room = width - self._row.cell_len
            if piece.isspace():
                self._row.append(piece[:room], style)
                self._word = len(self._row)
                continue
            if re.match(f"[{_IDEOGRAPHS}]", piece):
                self._word = len(self._row)
            if cell_len(piece) > room and self._row.plain[: self._word].strip():
                self._break_line(self._word, out)
            while cell_len(piece) > (room := width - self._row.cell_len):
                head = chop_cells(piece, room)[0] if cell_len(piece[0]) <= room else ""
                piece = piece[len(head) :]
                self._row.append(head, style)
                self._break_line(len(self._row), out)
            self._row.append(piece, style)
        out += self._row[self._shown :].render(self._console)
        self._shown = len(self._row)
        self._console.print(Segments(Segment.simplify(out)), end="", soft_wrap=True)

    def _break_line(self, at: int, out: list[Segment]) -> None:
        """End the line before `at`; the rest of it moves to the next line."""
        if self._shown > at:
            # Rewritten rather than erased backwards: terminals disagree on the width of characters.
            out.append(Control(ControlType.CARRIAGE_RETURN).segment)
            out += self._row[:at].render(self._console)
            out.append(Control((ControlType.ERASE_IN_LINE, 0)).segment)
        else:
            out += self._row[self._shown : at].render(self._console)
        out.append(Segment.line())
        self._row = self._row[at:]
        self._word = 0
        self._shown = 0


def open_terminal() -> Terminal | None:
    """Return the terminal of standard output; `None` if it cannot move its cursor."""
    console = Console(highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        return None
    return Terminal(console)
