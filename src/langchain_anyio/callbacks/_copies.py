"""Copying of handlers: copying a model also copies its handlers."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar

from typing_extensions import Self


class Copied:
    """Base of handlers whose deep copies and pickles keep the settings but none of the runs.

    A deep copy or an unpickled handler has the settings and other attributes of the original and
    starts without runs. A shallow copy shares everything, runs included, as `copy.copy()` does by
    default.
    """

    _of_runs: ClassVar[frozenset[str]] = frozenset()
    """Names of the attributes that hold the state of runs, which `_renew()` sets."""

    _shared: ClassVar[frozenset[str]] = frozenset()
    """Names of the attributes that a deep copy shares."""

    def _renew(self) -> None:
        """Set the attributes that hold the state of runs to their initial values."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in self._of_runs}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._renew()

    def __copy__(self) -> Self:
        copy = type(self).__new__(type(self))
        vars(copy).update(vars(self))
        return copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copy = memo[id(self)] = type(self).__new__(type(self))
        state = self.__getstate__()
        shared = {name: state.pop(name) for name in self._shared & state.keys()}
        copy.__setstate__({**deepcopy(state, memo), **shared})
        return copy
