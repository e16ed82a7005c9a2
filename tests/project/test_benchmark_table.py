"""The rules of the benchmarks' table."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.case import Case
from benchmarks.report import Report
from benchmarks.table import Measured, Ratio, ratio, shares, verdict

TIMES = st.floats(0.1, 100)
MEASURED = st.builds(Measured, TIMES, st.floats(0, 10))


def test_a_measurement_is_the_least_with_the_noise_of_the_shorter_half() -> None:
    assert Measured.of([3.0, 1.0, 90.0, 2.0]) == Measured(1.0, 0.5)
    assert Measured.of([2.0]) == Measured(2.0, 0.0)
    # What other work of the machine has added to some of them is no noise.
    assert Measured.of([1.0, 1.0, 1.0, 50.0, 60.0]) == Measured(1.0, 0.0)


def test_a_ratio_of_two_times() -> None:
    found = ratio(Measured(2.0, 0.2), Measured(4.0, 0.0))
    assert found.value == 0.5
    assert str(found) == "0.50"
    assert found.reaches(0.6) is True
    assert found.reaches(0.4) is False
    assert found.reaches(0.5) is None


def test_what_both_contain_is_subtracted() -> None:
    found = ratio(Measured(12.0), Measured(18.0), Measured(8.0))
    assert found == Ratio(0.4, 0.4, 0.4)


@pytest.mark.parametrize("ours", (7.9, 8.0, 8.4))
def test_a_difference_within_the_noise_is_a_bound_only(ours: float) -> None:
    found = ratio(Measured(ours, 0.25), Measured(18.0, 0.25), Measured(8.0, 0.25))
    assert found.value is None
    assert str(found).startswith("under 0.0") or str(found) == "under 0.10"
    assert found.reaches(0.33) is True
    assert found.reaches(0.01) is None


def test_a_peer_within_the_noise_says_nothing() -> None:
    found = ratio(Measured(9.0), Measured(8.5, 1.0), Measured(8.0))
    assert (found.value, found.high) == (None, math.inf)
    assert str(found) == "in the noise"
    assert found.reaches(1000) is None


@given(MEASURED, MEASURED, st.none() | MEASURED)
def test_no_ratio_is_negative(ours: Measured, peer: Measured, contained: Measured | None) -> None:
    found = ratio(ours, peer, contained)
    assert 0 <= found.low <= found.high
    if found.value is not None:
        assert found.low - 1e-9 <= found.value <= found.high + 1e-9
    assert "-" not in str(found)


@given(st.lists(MEASURED, min_size=1, max_size=6))
def test_no_share_is_negative_or_over_all(taken: list[Measured]) -> None:
    rows = shares([(str(number), found) for number, found in enumerate(taken)])
    for _, _, own, share in rows:
        assert (own == "in the noise") == (share == "")
        if share:
            assert float(own) >= 0
            assert 0 <= int(share.removesuffix("%")) <= 100
    if taken[-1].least >= max(found.least for found in taken):
        assert sum(float(own) for *_, own, share in rows if share) <= taken[-1].least * 1e6 + 1


def test_shares_of_stages() -> None:
    rows = shares([("a", Measured(2e-5)), ("b", Measured(1.9e-5, 1e-6)), ("c", Measured(4e-5))])
    assert [(own, share) for *_, own, share in rows] == [
        ("20.0", "50%"),
        ("in the noise", ""),
        ("20.0", "50%"),
    ]


def test_verdicts() -> None:
    assert [verdict(reached) for reached in (True, False, None)] == [
        "yes",
        "**no**",
        "in the noise",
    ]


async def side() -> float:
    return 1.0


SWITCH = {"asyncio": Measured(1e-6)}


def cells(case: Case, **found: Measured) -> list[str]:
    report = Report(SWITCH)
    report.add(case, found)
    assert [*report.rows] == [case.title]
    return [cell.strip() for cell in report.rows[case.title].strip("|").split("|")]


def test_a_row_beside_a_peer() -> None:
    case = Case("a", side, 0.5, side, "peer", switches=2)
    row = cells(case, ours=Measured(4e-6, 1e-7), peer=Measured(1e-5))
    floor = ["2.00 µs (2 switches)", "2.00"]
    assert row == ["a", "peer", "4.00 + 0.10 µs", "10.00 µs", "", "0.40", *floor, "0.5", "yes"]


def test_a_row_whose_target_is_a_multiple_of_the_floor() -> None:
    case = Case("a", side, None, side, "peer", switches=2, of_floor=1.5)
    assert cells(case, ours=Measured(4e-6), peer=Measured(1e-5))[-2:] == [
        "1.5 of the floor",
        "**no**",
    ]
    assert cells(case, ours=Measured(3e-6), peer=Measured(1e-5))[-1] == "yes"


def test_a_row_whose_floor_is_measured() -> None:
    case = Case("a", side, 0.5, side, "peer", least=side)
    row = cells(case, ours=Measured(4e-6), peer=Measured(1e-5), least=Measured(1e-6))
    assert row[6:8] == ["1.00 µs", "4.00"]


def test_a_row_in_the_noise() -> None:
    report = Report(SWITCH)
    case = Case("a", side, 0.3, side, "peer", contained=side)
    found = {
        "ours": Measured(19.2e-6, 1e-6),
        "peer": Measured(29e-6),
        "contained": Measured(19.5e-6),
    }
    report.add(case, found)
    assert "| under 0.07 |" in report.rows["a"]
    assert report.rows["a"].endswith("| 0.3 | yes |")
    assert report.undecided == [case]
    assert report.missed == []


def test_a_row_of_bytes() -> None:
    case = Case("a", side, 1e6, returns="bytes")
    row = cells(case, ours=Measured(241_999))
    assert row == ["a", "", "241,999 B", "", "", "", "", "", "1,000,000 B", "yes"]
