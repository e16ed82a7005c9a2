"""The error of a run whose outcome was settled before."""

from __future__ import annotations

from typing import Any, final

from langchain_anyio._primitives.projection import raise_as_it_came


@final
class LateError:
    """The first error that came after the model's outcome was settled.

    It does not replace the message or the error that consumers get, but is raised to whoever awaits
    the stream.
    """

    __slots__ = ("_traceback", "error")

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._traceback: Any = None

    def note(self, error: BaseException) -> None:
        """Keep `error` if it is the first one."""
        if self.error is None:
            self.error = error
            self._traceback = error.__traceback__

    def throw(self) -> None:
        """Raise the error with its original traceback, if there is one."""
        if self.error is not None:
            raise_as_it_came(self.error, self._traceback)
