"""The rules of the table: what a difference of two measured times, or their ratio, says.

A time is the least of all that were measured, which other work on the machine disturbed least. It is
uncertain by its noise: how much more the middle one of the shorter half of them is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Measured:
    """A value, which may be up to `noise` less than it was measured."""

    least: float
    noise: float = 0.0

    @classmethod
    def of(cls, values: Sequence[float]) -> Measured:
        """Return what these measurements say."""
        found = sorted(values)
        return cls(found[0], median(found[: (len(found) + 1) // 2]) - found[0])

    def __sub__(self, other: Measured) -> Measured:
        """Return the difference. It is uncertain by the noise of both."""
        return Measured(self.least - other.least, self.noise + other.noise)

    @property
    def stands(self) -> bool:
        """Whether it is more than its noise: a difference that is not may as well be none."""
        return self.least > self.noise


@dataclass(frozen=True)
class Ratio:
    """A ratio, which lies between two bounds; `None` for the value where it drowns in noise."""

    value: float | None
    low: float
    high: float

    def __str__(self) -> str:
        if self.value is not None:
            return f"{self.value:.2f}"
        return "in the noise" if self.high == float("inf") else f"under {self.high:.2f}"

    def reaches(self, target: float) -> bool | None:
        """Return whether it is at most `target`; `None` if that cannot be said."""
        if self.high <= target:
            return True
        return False if self.low > target else None


def ratio(ours: Measured, other: Measured, contained: Measured | None = None) -> Ratio:
    """Return the ratio of two times, less what both contain, if that is given."""
    if contained is not None:
        ours, other = ours - contained, other - contained
    if not other.stands:
        return Ratio(None, 0.0, float("inf"))
    low = max(0.0, ours.least - ours.noise) / (other.least + other.noise)
    high = max(0.0, ours.least + ours.noise) / (other.least - other.noise)
    return Ratio(ours.least / other.least if ours.stands else None, low, high)


def verdict(reached: bool | None) -> str:
    """Return the cell that says whether a target is reached."""
    return {True: "yes", False: "**no**", None: "in the noise"}[reached]


def shares(stages: Sequence[tuple[str, Measured]]) -> list[tuple[str, Measured, str, str]]:
    """Return for each stage, which contains the one before it, what it adds and its share of all.

    What a stage adds is left out where it drowns in noise; so no share is negative or over 100 %.
    """
    total = stages[-1][1]
    rows = []
    before = Measured(0.0)
    for name, taken in stages:
        own = taken - before
        shown = own.stands and own.least <= total.least
        rows.append(
            (
                name,
                taken,
                f"{own.least * 1e6:.1f}" if shown else "in the noise",
                f"{own.least / total.least:.0%}" if shown else "",
            )
        )
        if shown:
            before = taken
    return rows
