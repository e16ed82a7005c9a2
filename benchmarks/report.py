"""The lines of the table."""

from __future__ import annotations

from benchmarks.case import Case
from benchmarks.table import Measured, ratio, verdict


class Report:
    """The lines of the table, each of a case."""

    def __init__(self, switch: dict[str, Measured]) -> None:
        self.switch = switch
        self.rows: dict[str, str] = {}
        self.missed: list[Case] = []
        self.undecided: list[Case] = []

    def add(self, case: Case, found: dict[str, Measured]) -> None:
        """Add a case."""
        ours, peer = found["ours"], found.get("peer")
        physical, why = self._floor_of(case, found)
        of_floor = None if physical is None else ratio(ours, physical)
        compared = None if peer is None else ratio(ours, peer, found.get("contained"))
        reached, target = None, ""
        if case.of_floor is not None:
            assert of_floor is not None
            target = f"{case.of_floor:g} of the floor"
            reached = of_floor.reaches(case.of_floor)
        elif case.target is not None and compared is not None:
            target, reached = f"{case.target:g}", compared.reaches(case.target)
        elif case.target is not None:
            target, reached = shown(case.target, case.returns), ours.least <= case.target
        if target and reached is False:
            self.missed.append(case)
        if (target and reached is None) or (compared is not None and compared.value is None):
            self.undecided.append(case)
        sides = (found.get(name) for name in ("ours", "peer", "contained"))
        cells = [
            case.title,
            case.peer_name,
            *("" if side is None else shown(side.least, case.returns, side) for side in sides),
            "" if compared is None else str(compared),
            why,
            "" if of_floor is None else str(of_floor),
            target,
            verdict(reached) if target else "",
        ]
        self.rows[case.title] = f"| {' | '.join(cells)} |"

    def _floor_of(self, case: Case, found: dict[str, Measured]) -> tuple[Measured | None, str]:
        """Return the least that a unit takes in any design, and the cell that shows it."""
        if "least" in found:
            least = found["least"]
            return least, shown(least.least, case.returns)
        if not case.switches or case.backend not in self.switch:
            return None, ""
        switch = self.switch[case.backend]
        floor = Measured(case.switches * switch.least, case.switches * switch.noise)
        return floor, f"{shown(floor.least, 'units')} ({case.switches:.2g} switches)"


def shown(value: float, returns: str, measured: Measured | None = None) -> str:
    """Show a value and its noise, in bytes or µs."""
    scale, unit, digits = (1.0, "B", 0) if returns == "bytes" else (1e6, "µs", 2)
    noise = ""
    if measured is not None and measured.noise:
        noise = f" + {measured.noise * scale:.{digits}f}"
    return f"{value * scale:,.{digits}f}{noise} {unit}"
