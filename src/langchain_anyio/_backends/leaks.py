"""Warnings about what a cleanup had to abandon."""

from __future__ import annotations

import warnings


class _Warning:
    __slots__ = ("_message", "_source")

    def __init__(self, message: str, source: object) -> None:
        self._message = message
        self._source = source

    def __del__(self) -> None:
        warnings.warn(self._message, ResourceWarning, stacklevel=3, source=self._source)


def warn_of_leak(message: str, source: object) -> None:
    """Emit a `ResourceWarning` in a background task.

    Where warnings are errors, it is reported by `sys.unraisablehook`, like that of a destructor.
    Raised here, it would end the task, and on trio crash the whole run.
    """
    _Warning(message, source)
