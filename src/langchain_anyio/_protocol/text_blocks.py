"""Text that arrives in pieces: a buffer, and the text or reasoning of a message by block."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Literal, final

Name = Literal["text", "reasoning"]

# Joining pieces of text once there are this many takes less memory than keeping each.
MAX_PENDING = 256


@final
class TextBuffer:
    """A value that pieces are appended to, joined only when it is read."""

    __slots__ = ("_head", "_tail")

    def __init__(self, value: Any = "") -> None:
        # A string, unless an event sets another value, to which pieces are added by its own rules.
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
    """The text of a message, or its reasoning: as a whole, and by block.

    Consecutive deltas of one block are joined from time to time, so that memory is little more than
    that of the text, which the whole and the block share.
    """

    __slots__ = ("_blocks", "_index", "_name", "_pending", "_total", "unindexed")

    def __init__(self, name: Name) -> None:
        self._name: Name = name
        self._total = TextBuffer()
        self._blocks: dict[Any, list[str]] = {}
        self.unindexed: list[str] | None = None
        """Pieces that arrived without an index, if any."""
        self._pending: list[str] = []
        """The latest pieces of the block at `_index`, not yet in `_total` and `_blocks`."""
        self._index: Any = None

    @property
    def total(self) -> TextBuffer:
        self._flush()
        return self._total

    @property
    def blocks(self) -> dict[Any, list[str]]:
        self._flush()
        return self._blocks

    def _flush(self) -> None:
        if self._pending:
            joined = "".join(self._pending)
            self._pending.clear()
            self._total.append(joined)
            self._blocks.setdefault(self._index, []).append(joined)

    def grow(self, piece: Any, index: Any) -> tuple[Name, str] | None:
        """Add one delta, and return it with the name of its projection if it is not empty."""
        if not piece:
            return None
        if index == self._index and index is not None and isinstance(piece, str):
            self._pending.append(piece)
            if len(self._pending) > MAX_PENDING:
                self._flush()
            return self._name, piece
        if type(index) is int and isinstance(piece, str) and self._total.is_text:
            self._flush()
            self._index = index
            self._pending.append(piece)
            return self._name, piece
        total = self.total
        self._index = None
        total.append(piece)
        if not isinstance(piece, str):
            raise self._type_error(piece)
        if index is None:
            if self.unindexed is None:
                self.unindexed = []
            self.unindexed.append(piece)
        elif (block := self.blocks.get(index)) is not None:
            block.append(piece)
        else:
            self.blocks[index] = [piece]
        if total.is_text:
            self._index = index
        return self._name, piece

    def text_of(self, index: Any) -> str:
        """Return the text of a block, and keep it as one piece from now on."""
        pieces = self.blocks.get(index, [])
        pieces[:] = ["".join(pieces)]
        return pieces[0]

    def settle(self, whole: Any, index: Any) -> tuple[Any, tuple[Name, str] | None]:
        """Finish a block; its own text, if any, takes precedence over that of its deltas.

        Returns:
            The text of the block, and a delta for the part that no delta contained, if any.
        """
        if index is None:
            if whole and whole != self.total.value:
                self._total = TextBuffer(whole)
                self._index = None
                self.unindexed = [whole] if isinstance(whole, str) else []
            return self.total.value, None
        known = "".join(self.blocks.get(index, ()))
        if not whole:
            return known, None
        if whole == known:
            if type(whole) is str:
                known = whole  # the block and the event share one string
            self.blocks[index] = [known]
            return known, None
        delta: tuple[Name, str] | None = None
        self._index = None
        if not known or whole.startswith(known):
            tail = whole[len(known) :] if known else whole
            self.total.append(tail)
            if not isinstance(tail, str):
                raise self._type_error(tail)
            delta = (self._name, tail)
        self.blocks[index] = [whole]
        return whole, delta

    def final_text(self) -> str:
        """Return the indexed blocks joined in order or, without any, the whole text.

        Raises:
            TypeError: The whole is not a string.
        """
        if self.blocks:
            return "".join("".join(self.blocks[index]) for index in sorted(self.blocks))
        value = self.total.value
        if not isinstance(value, str):
            raise self._type_error(value)
        return value

    def _type_error(self, value: Any) -> TypeError:
        return TypeError(f"{self._name} must be a string, not {type(value).__name__}")
