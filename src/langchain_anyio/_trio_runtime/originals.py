"""What each object that was put into a module stands for, so that it can be told apart, and taken out, anywhere."""

from __future__ import annotations

from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

# Weak, because a wrapper made in an earlier `enable_trio()` may still be used where nobody finds it.
_originals: Final[WeakKeyDictionary[Any, Any]] = WeakKeyDictionary()
_kinds: Final[set[type]] = set()


class Replaced(NamedTuple):
    replacement: Any
    original: Any


def keep_original(replacement: Any, original: Any) -> None:
    """Remember what a replacement stands for."""
    if isinstance(replacement, classmethod):
        replacement, original = replacement.__func__, original.__func__
    _originals[replacement] = original
    _kinds.add(type(replacement))


def original_of(value: Any) -> Any:
    """Return what a value stands for, or the value itself where it is not one of ours."""
    kind = type(value)
    if kind is classmethod or kind is staticmethod:
        function = original_of(value.__func__)
        return value if function is value.__func__ else kind(function)
    # Others may be neither hashable nor comparable.
    return _originals.get(value, value) if kind in _kinds else value


def all_originals() -> dict[int, Replaced]:
    """Return what every replacement that still exists stands for, by its identity."""
    return {id(key): Replaced(key, value) for key, value in list(_originals.items())}
