"""Run each side of the case of the given title once, and measure nothing."""

from __future__ import annotations

import sys

import anyio

from benchmarks.case import Side
from benchmarks.cases import CASES


def run_on(backend: str, side: Side) -> float:
    """Run a side once, on `asyncio`, `uvloop` or `trio`."""
    name = "trio" if backend == "trio" else "asyncio"
    options = {"use_uvloop": True} if backend == "uvloop" else {}
    return anyio.run(side, backend=name, backend_options=options)


if __name__ == "__main__":
    (case,) = (case for case in CASES if case.title == sys.argv[1])
    for name, side, backend in case.sides():
        print(f"{case.title}, {name}: {run_on(backend, side)}")
