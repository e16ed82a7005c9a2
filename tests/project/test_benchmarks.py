"""Each benchmark runs, and does what it measures; how fast is for `python -m benchmarks` to say."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

sys.path.append(str(ROOT))
# Read as the cases are made: the same in all ways, at a hundredth of their size.
os.environ["BENCHMARKS_SCALE"] = "0.01"

from benchmarks import loopback  # noqa: E402
from benchmarks.case import Case  # noqa: E402
from benchmarks.cases import CASES  # noqa: E402
from benchmarks.once import run_on  # noqa: E402
from benchmarks.profiles import profiled  # noqa: E402
from benchmarks.switches import BACKENDS, switches  # noqa: E402

pytestmark = pytest.mark.slow


def has(*names: str) -> bool:
    return all(importlib.util.find_spec(name) for name in names)


def ids(case: Case) -> str:
    return case.title


@pytest.mark.parametrize("case", [case for case in CASES if not case.alone], ids=ids)
def test_runs_once(case: Case) -> None:
    sides = case.sides()
    if any(backend == "trio" for _, _, backend in sides) and not has("trio"):
        pytest.skip("trio is not installed")
    for _, side, backend in sides:
        assert run_on(backend, side) > 0


@pytest.mark.skipif(not has("trio_asyncio"), reason="trio-asyncio is not installed")
@pytest.mark.parametrize("case", [case for case in CASES if case.alone], ids=ids)
def test_runs_once_in_a_process_of_its_own(case: Case) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.once", case.title]
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= len(case.sides())


def test_a_profile() -> None:
    case = next(case for case in CASES if "woken for each delta" in case.title)
    title, _, head, *rows = profiled(case, 3).splitlines()
    assert title.startswith(case.title)
    assert head.count("|") == 4
    assert len(rows) == 1 + 3


def test_switches() -> None:
    for backend in BACKENDS:
        if has(backend):
            assert run_on(backend, switches) > 0


# The SDK leaves generators behind, which trio warns of; the stream closes them.
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@pytest.mark.parametrize("backend", ("asyncio", "trio"))
def test_the_way_of_a_chunk(backend: str) -> None:
    if not has(backend):
        pytest.skip(f"{backend} is not installed")
    assert all(taken.least > 0 for _, taken in loopback.measured(backend))
