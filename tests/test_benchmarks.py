"""Each benchmark runs, and does what it measures; how fast is for `python -m benchmarks` to say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import anyio
import pytest

sys.path.append(str(Path(__file__).parents[1]))

from benchmarks.cases import CASES, Case

# What takes minutes under coverage shows no more than its smaller siblings do.
SMALL = [
    case
    for case in CASES
    if "1,000,000" not in case.title
    and "10,000" not in case.title
    and (case.backend != "trio" or importlib.util.find_spec("trio"))
]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.title)
def test_runs_once(case: Case) -> None:
    sides = [(case.ours, case.backend), (case.peer, case.peer_backend)]
    if case.floor is not None:
        sides.append((case.floor, case.backend))
    units = {anyio.run(side, backend=backend) for side, backend in sides}
    assert units.pop() > 0
    assert not units
