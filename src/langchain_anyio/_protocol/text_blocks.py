"""Text that comes in pieces: one growing value, and the text or reasoning of a message block by block."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Literal, final

Name = Literal["text", "reasoning"]

# Joining pieces of text once there are so many takes less memory than keeping each.
LONGEST_RUN = 256


@final
class TextBuffer:
    """A value that pieces are added to, joined only when it is read."""

    __slots__ = ("_head", "_tail")

    def __init__(self, value: Any = "") -> None:
        # Text, except that events may put any other value here, which then grows by its own rules.
        self._head = value
        self._tail: list[str] = []

    def append(self, piece: Any, add: Callable[[Any, Any], Any] = operator.iadd) -> None:
        if isinstance(piece, str) and isinstance(self._head, str):
            self._tail.append(piece)
        else:
            self._head = add(self.value, piece)

    @property
    def is_text(self) -> bool:
        return isinstance(self._head, str)

    @property
    def value(self) -> Any:
        if self._tail:
            self._head += "".join(self._tail)
            self._tail.clear()
        return self._head


@final
class TextBlocks:
    """The text of a message, or its reasoning: as a whole, and block by block.

    Deltas that go on where the last one ended are joined now and then, so that what is kept is little more than
    the text, and once for the whole and the block.
    """

    __slots__ = ("_blocks", "_index", "_name", "_run", "_total", "loose")

    def __init__(self, name: Name) -> None:
        self._name: Name = name
        self._total = TextBuffer()
        self._blocks: dict[Any, list[str]] = {}
        self.loose: list[str] | None = None
        """What came without an index, if anything did."""
        self._run: list[str] = []
        """The latest pieces of the block at `_index`, which are in none of the others yet."""
        self._index: Any = None

    @property
    def total(self) -> TextBuffer:
        self._end_run()
        return self._total

    @property
    def blocks(self) -> dict[Any, list[str]]:
        self._end_run()
        return self._blocks

    def _end_run(self) -> None:
        if self._run:
            joined = "".join(self._run)
            self._run.clear()
            self._total.append(joined)
            self._blocks.setdefault(self._index, []).append(joined)

    def grow(self, piece: Any, index: Any) -> tuple[Name, str] | None:
        """Take one delta."""
        if not piece:
            return None
        if index == self._index and index is not None and isinstance(piece, str):
            self._run.append(piece)
            if len(self._run) > LONGEST_RUN:
                self._end_run()
            return self._name, piece
        if type(index) is int and isinstance(piece, str) and self._total.is_text:
            self._end_run()
            self._index = index
            self._run.append(piece)
            return self._name, piece
        total = self.total
        self._index = None
        total.append(piece)
        if not isinstance(piece, str):
            raise self._not_text(piece)
        if index is None:
            if self.loose is None:
                self.loose = []
            self.loose.append(piece)
        elif (block := self.blocks.get(index)) is not None:
            block.append(piece)
        else:
            self.blocks[index] = [piece]
        if total.is_text:
            self._index = index
        return self._name, piece

    def text_of(self, index: Any) -> str:
        """Return the text of a block, which is kept in one piece from now on."""
        pieces = self.blocks.get(index, [])
        pieces[:] = ["".join(pieces)]
        return pieces[0]

    def settle(self, whole: Any, index: Any) -> tuple[Any, tuple[Name, str] | None]:
        """Take a finished block, whose own text wins over that of its deltas.

        Returns:
            The text of the block, and a delta for what it adds to that of its deltas.
        """
        if index is None:
            if whole and whole != self.total.value:
                self._total = TextBuffer(whole)
                self._index = None
                self.loose = [whole] if isinstance(whole, str) else []
            return self.total.value, None
        known = "".join(self.blocks.get(index, ()))
        if not whole:
            return known, None
        if whole == known:
            if type(whole) is str:
                known = whole  # so that the text is kept once
            self.blocks[index] = [known]
            return known, None
        delta: tuple[Name, str] | None = None
        self._index = None
        if not known or whole.startswith(known):
            tail = whole[len(known) :] if known else whole
            self.total.append(tail)
            if not isinstance(tail, str):
                raise self._not_text(tail)
            delta = (self._name, tail)
        self.blocks[index] = [whole]
        return whole, delta

    def joined(self) -> Any:
        """The indexed blocks in their order or, if there is none, all that came."""
        if self.blocks:
            return "".join("".join(self.blocks[index]) for index in sorted(self.blocks))
        return self.total.value

    def checked(self, value: Any) -> str:
        if not isinstance(value, str):
            raise self._not_text(value)
        return value

    def _not_text(self, value: Any) -> TypeError:
        return TypeError(f"{self._name} must be a string, not {type(value).__name__}")
