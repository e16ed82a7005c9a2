"""Originals of the objects put into modules, to recognize replacements and undo them anywhere."""

from __future__ import annotations

from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

# Weak, because a wrapper from an earlier `enable_trio()` may still be used where it cannot be
# found.
_originals: Final[WeakKeyDictionary[Any, Any]] = WeakKeyDictionary()
_kinds: Final[set[type]] = set()


class Replaced(NamedTuple):
    replacement: Any
    original: Any


def keep_original(replacement: Any, original: Any) -> None:
    """Record the original of a replacement."""
    if isinstance(replacement, classmethod):
        replacement, original = replacement.__func__, original.__func__
    _originals[replacement] = original
    _kinds.add(type(replacement))


def original_of(value: Any) -> Any:
    """Return the original of a replacement, or the value itself if it is not a replacement."""
    kind = type(value)
    if kind is classmethod or kind is staticmethod:
        function = original_of(value.__func__)
        return value if function is value.__func__ else kind(function)
    # Values of other types may be neither hashable nor comparable.
    return _originals.get(value, value) if kind in _kinds else value


def all_originals() -> dict[int, Replaced]:
    """Return all replacements that still exist, with their originals, by identity."""
    return {id(key): Replaced(key, value) for key, value in list(_originals.items())}
