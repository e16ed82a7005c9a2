"""What a terminal shows of an answer, however it was sliced."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from command import screen
from langchain_anyio._cli.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterable


class Shown:
    """A terminal of so many columns, and what it was sent."""

    def __init__(self, columns: int = 20) -> None:
        self._columns = columns
        self._file = io.StringIO()
        console = Console(
            file=self._file, width=columns, force_terminal=True, color_system=None, highlight=False
        )
        self.terminal = Terminal(console)

    def text(self, *slices: str) -> Shown:
        for piece in slices:
            self.terminal.write("text", piece)
        return self

    @property
    def lines(self) -> list[str]:
        return screen(self._file.getvalue().replace("\n", "\r\n"), self._columns)


WORDS = st.text(alphabet="ab.\u00e4\u2014-日本。한", min_size=1, max_size=12)
TEXTS = st.lists(
    WORDS | st.sampled_from(["\n", " ", "  ", "\t", "[b]", "x" * 45]), max_size=30
).map("".join)


def sliced(text: str, cuts: Iterable[int]) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in pairwise(places)]


@given(TEXTS, st.lists(st.integers(0, 1000)), st.integers(2, 30))
def test_slices_make_no_difference(text: str, cuts: list[int], columns: int) -> None:
    whole = Shown(columns).text(text.lstrip("\n")).lines
    assert Shown(columns).text(*sliced(text.lstrip("\n"), cuts)).lines == whole
    assert all(cell_len(line) <= columns for line in whole)
    assert "".join("".join(whole).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("slices", "lines"),
    (
        (("Bubbles rise and vanish",), ["Bubbles rise and", "vanish"]),
        (("Bubbles rise and van", "ish"), ["Bubbles rise and", "vanish"]),
        (("Bubbles rise and va", "n", "i", "s", "h"), ["Bubbles rise and", "vanish"]),
        (("12345678901234567890", " next"), ["12345678901234567890", "next"]),
        (("123456789 123456789 ", "\nnext"), ["123456789 123456789", "next"]),
        (("a 1234567890123456789012345",), ["a", "12345678901234567890", "12345"]),
        (("1234567890123456789012345", "67"), ["12345678901234567890", "1234567"]),
        (("    12345678901234567890",), ["    1234567890123456", "7890"]),
        (("    keeps its indent",), ["    keeps its indent"]),
        (("\tone\ttwo",), ["    one    two"]),
        (("日本語の文章はどこでも改行できる",), ["日本語の文章はどこで", "も改行できる"]),
        (("1日本語の文章はどこで", "も"), ["1日本語の文章はどこ", "でも"]),
        (("文章はここで終わりま", "す。次"), ["文章はここで終わりま", "す。次"]),
        (("文章はここで終わるよ", "。次"), ["文章はここで終わる", "よ。次"]),
        (("[bold]literal[/bold]",), ["[bold]literal[/bold]"]),
        ((":smile: and",), [":smile: and"]),
        (("a\n\nb\n",), ["a", "", "b", ""]),
    ),
)
def test_lines_break_between_words(slices: tuple[str, ...], lines: list[str]) -> None:
    assert Shown().text(*slices).lines == lines


def test_every_slice_is_on_the_screen_at_once() -> None:
    shown = Shown()
    for piece, lines in (
        ("Bubbles", ["Bubbles"]),
        (" rise and va", ["Bubbles rise and va"]),
        ("n", ["Bubbles rise and van"]),
        ("i", ["Bubbles rise and", "vani"]),
    ):
        assert shown.text(piece).lines == lines


def test_blank_lines_separate_what_is_of_another_kind() -> None:
    shown = Shown()
    shown.terminal.write("reasoning", "\n\nWell.\n")
    shown.terminal.write("reasoning", "Yes.")
    shown.terminal.write("text", "\n\n")
    shown.terminal.write("text", "\nA.\n\n")
    shown.terminal.tool_call("1", "one", '{"a"')
    shown.terminal.tool_call("1", "one", ": 1}")
    shown.terminal.tool_call("2", "two", "{}")
    shown.terminal.tool_call("1", "one", " ")
    shown.terminal.write("text", "B.")
    shown.terminal.tool_call("1", "one", "{}")
    shown.terminal.end()
    shown.terminal.end()
    calls = ['→ one {"a": 1}', "→ two {}", "→ one"]
    assert shown.lines == [
        *("Well.", "Yes.", "", "A.", ""),
        *calls,
        *("", "B.", "", "→ one {}", ""),
    ]
